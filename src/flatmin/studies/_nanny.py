"""A worker of the local Dask cluster: a process of ours that starts Dask's, and ends with who started it."""

import asyncio
import json
import logging
import sys
import threading


def main() -> None:
    """Serve the scheduler that the first line of the standard input names, until that input ends."""
    logging.disable()  # what matters comes back to who started us
    wanted = json.loads(sys.stdin.buffer.readline())
    asyncio.run(_serve(**wanted))


async def _serve(address: str, security: dict[str, str], memory: int, folder: str) -> None:
    import dask.config
    from distributed import Nanny, Security

    # no pages: they would be open to everybody on this machine
    dask.config.set({"distributed.worker.http.routes": [], "distributed.worker.preload": []})
    nanny = Nanny(
        address,
        nthreads=1,
        host="127.0.0.1",
        protocol="tls://",
        security=Security(require_encryption=True, **security),
        dashboard_address="127.0.0.1:0",
        dashboard=False,
        memory_limit=str(memory),
        local_directory=folder,
        silence_logs=50,
    )
    loop, ended = asyncio.get_running_loop(), asyncio.Event()

    def watch() -> None:
        sys.stdin.buffer.read()
        loop.call_soon_threadsafe(ended.set)

    async with nanny:
        threading.Thread(target=watch, daemon=True).start()
        waiting = [asyncio.ensure_future(ended.wait()), asyncio.ensure_future(nanny.finished())]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for one in waiting:
            one.cancel()
