"""A Dask cluster on this machine that nobody else can use: loopback only, with credentials made for the run.

Scheduler and workers listen on 127.0.0.1 and speak TLS with a certificate that is made when the cluster starts, kept
in memory and demanded of both sides: who has not got it, any other user of the machine, is refused. There is no
dashboard. Scratch files of the workers lie in a folder of mode 0700.
"""

import contextlib
import json
import subprocess
import tempfile
from typing import Any

from flatmin._core import JobError, UsageError
from flatmin.studies._children import python_command, worker_environment

PATIENCE = 60.0
"""Seconds that the workers have to start: each imports NumPy and Dask."""


class LocalCluster:
    """A scheduler in this process and workers beside it.

    Attributes:
        client: connected to it.
    """

    def __init__(self, workers: int, *, user_code: bool):
        import dask.config
        from distributed import Client, Scheduler, SpecCluster
        from distributed.system import MEMORY_LIMIT

        security = _credentials()
        self._folder = tempfile.TemporaryDirectory(prefix="flatmin-")
        self._workers: list[subprocess.Popen[bytes]] = []
        self._cluster: Any = None
        self.client: Any = None
        options = {
            "host": "127.0.0.1",
            "port": 0,
            "protocol": "tls://",
            "security": security,
            "dashboard": False,
            "dashboard_address": "127.0.0.1:0",
        }
        try:
            # no pages: they would be open to everybody on this machine
            with dask.config.set(
                {
                    "distributed.scheduler.http.routes": [],
                    "distributed.scheduler.preload": [],
                    "temporary-directory": self._folder.name,
                }
            ):
                self._cluster = SpecCluster(
                    scheduler={"cls": Scheduler, "options": options},
                    security=security,
                    silence_logs=50,  # pyright: ignore
                )
            address = self._cluster.scheduler_address
            parts = {name: getattr(security, name) for name in security.__slots__ if name.startswith("tls_")}
            secrets = {name: text for name, text in parts.items() if isinstance(text, str)}
            wanted = {"address": address, "security": secrets, "memory": MEMORY_LIMIT // workers}
            command = python_command("flatmin.studies._nanny:main", user_code=user_code)
            for _ in range(workers):
                process = subprocess.Popen(  # noqa: S603 - our own command, no shell
                    command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=worker_environment()
                )
                self._workers.append(process)
                # by a pipe: the command line and the environment of a process can be seen by others
                _tell(process, json.dumps(wanted | {"folder": self._folder.name}).encode() + b"\n")
            self.client = Client(address, security=security, timeout=PATIENCE, set_as_default=False)
            with contextlib.suppress(TimeoutError):
                self.client.wait_for_workers(workers, timeout=PATIENCE)
            self.check()
        except BaseException:
            self.close()
            raise

    def check(self) -> None:
        """Refuse to wait for workers that have all ended."""
        codes = [process.poll() for process in self._workers]
        if all(code is not None for code in codes):
            raise JobError(
                f"scheduler: all workers of the local cluster ended (exit code {codes[0]}); finished cells are kept, "
                "start the same command again, or with --workers instead of --scheduler local"
            )

    def close(self) -> None:
        """End the workers, then the scheduler."""
        for process in self._workers:
            with contextlib.suppress(OSError, ValueError):
                if process.stdin is not None:
                    process.stdin.close()
        if self.client is not None:
            self.client.close()
        for process in self._workers:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._cluster is not None:
            self._cluster.close()
        self._folder.cleanup()


def _tell(process: "subprocess.Popen[bytes]", line: bytes) -> None:
    with contextlib.suppress(OSError):  # `check` says that it ended
        if process.stdin is not None:
            process.stdin.write(line)
            process.stdin.flush()


def _credentials() -> Any:
    from distributed import Security

    try:
        return Security.temporary()
    except ImportError as error:
        raise UsageError(
            "scheduler: a local cluster makes credentials of its own, which needs the package cryptography; install "
            "it with pip install 'flatmin[cluster]', or use --workers, which needs none"
        ) from error
