"""A folder may hold anything: no program, module or service of others gets in where flatmin works."""

import asyncio
import os
import pathlib
import shutil
import stat
import subprocess
import sys

import pytest

from flatmin.storage.git import git_state
from flatmin.storage.private import private_folder
from flatmin.studies._children import module_path, python_command, worker_environment

TESTS = pathlib.Path(__file__).parent
posix = pytest.mark.skipif(os.name == "nt", reason="modes and users of POSIX")


# modules --------------------------------------------------------------------------------------------------------------

PLANTED = ("numpy", "select", "random", "sitecustomize", "usercustomize", "flatmin", "_socket", "jax")


def planted(folder):
    for name in PLANTED:
        (folder / f"{name}.py").write_text(f"open({str(folder / 'marker')!r}, 'w').write({name!r})\n")
    return folder / "marker"


@pytest.mark.parametrize("before", ["", "absolute", "link"])
def test_children_import_nothing_from_the_working_directory(tmp_path, monkeypatch, before):
    folder = tmp_path / "here"
    folder.mkdir()
    (tmp_path / "link").symlink_to(folder)
    marker = planted(folder)
    monkeypatch.chdir(folder)
    entry = {"": "", "absolute": str(folder), "link": str(tmp_path / "link")}[before]
    monkeypatch.setattr(sys, "path", [entry, *sys.path, str(folder)])
    assert str(folder) not in module_path()
    command = python_command("study_cells:show_modules", user_code=False)
    found = subprocess.run(command, env=worker_environment(), capture_output=True, text=True, check=True)
    assert str(folder) not in found.stdout.splitlines()
    assert not marker.exists()


def test_where_the_user_names_code_the_working_directory_comes_last(tmp_path, monkeypatch):
    marker = planted(tmp_path)
    monkeypatch.chdir(tmp_path)
    command = python_command("study_cells:show_modules", user_code=True)
    found = subprocess.run(command, env=worker_environment(), capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[-1] == str(tmp_path)
    assert found.stdout.splitlines().count(str(tmp_path)) == 1
    assert not marker.exists()


def test_what_a_child_starts_is_safe_too(tmp_path, monkeypatch):
    """As Dask's nanny starts its worker: by `-c`, which would put the working directory first."""
    marker = planted(tmp_path)
    monkeypatch.chdir(tmp_path)
    command = [sys.executable, "-c", "import numpy, select; print(numpy.__version__)"]
    subprocess.run(command, env=worker_environment(), capture_output=True, check=True)
    assert not marker.exists()


def test_the_module_form_of_the_command(tmp_path):
    for name in ("typer", "click", "numpy", "jax", "shlex"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'marker')!r}, 'w').write({name!r})\n")
    command = [sys.executable, "-m", "flatmin", "study", "new", "demo"]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONSAFEPATH"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "marker").exists()


# git ------------------------------------------------------------------------------------------------------------------

git_needed = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def git(folder, *arguments):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "protocol.file.allow=always", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path):
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "-q", ".")
    (folder / "a.txt").write_text("1\n")
    (folder / ".gitattributes").write_text("*.txt filter=evil diff=evil merge=evil\n")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "one")
    return folder


@git_needed
def test_the_commit_and_whether_files_differ(repository, tmp_path):
    head = git(repository, "rev-parse", "HEAD")
    (repository / "inside").mkdir()
    assert git_state(repository) == head
    assert git_state(repository / "inside") == head
    assert git_state(repository / "a.txt") == head
    (repository / "new.txt").write_text("x")
    assert git_state(repository) == head  # files that are not tracked do not count
    assert git_state(repository / "new.txt") is None
    git(repository, "pack-refs", "--all")
    assert git_state(repository) == head
    git(repository, "worktree", "add", "-q", "--detach", str(tmp_path / "other"))
    assert git_state(tmp_path / "other") == head
    (tmp_path / "other" / "a.txt").write_text("22\n")
    assert git_state(tmp_path / "other") == f"{head} (modified)"
    git(repository, "add", "new.txt")
    assert git_state(repository) == f"{head} (modified)"
    git(repository, "checkout", "-q", "--detach")
    assert git_state(repository) == f"{head} (modified)"


@git_needed
def test_outside_of_a_repository(tmp_path, monkeypatch):
    empty = tmp_path / "empty"
    (empty / ".git").mkdir(parents=True)
    (empty / ".git" / "HEAD").write_text("ref: refs/../../secret\n")
    assert git_state(empty) is None
    (empty / ".git" / "HEAD").write_text("ref: refs/heads/none\n")
    assert git_state(empty) is None
    (empty / "git").write_text(f"#!/bin/sh\ntouch {tmp_path}/marker\n")
    (empty / "git").chmod(0o755)
    monkeypatch.chdir(empty)
    monkeypatch.setenv("PATH", f".:{os.environ['PATH']}")
    git_state(empty)
    assert not (tmp_path / "marker").exists()


CONFIGURED = {
    "core.fsmonitor": "{hook}",
    "core.hooksPath": "{folder}",
    "core.pager": "{hook}",
    "core.sshCommand": "{hook}",
    "core.editor": "{hook}",
    "core.gitProxy": "{hook}",
    "core.alternateRefsCommand": "{hook}",
    "core.attributesFile": "{folder}/attributes",
    "filter.evil.clean": "{hook}",
    "filter.evil.smudge": "{hook}",
    "filter.evil.process": "{hook}",
    "diff.external": "{hook}",
    "diff.evil.command": "{hook}",
    "diff.evil.textconv": "{hook}",
    "merge.evil.driver": "{hook}",
    "gpg.program": "{hook}",
    "credential.helper": "{hook}",
    "alias.status": "!{hook}",
    "alias.ls-files": "!{hook}",
    "uploadpack.packObjectsHook": "{hook}",
}


@git_needed
@posix
def test_no_program_of_a_repository_is_run(repository, tmp_path, monkeypatch):
    head, marker = git(repository, "rev-parse", "HEAD"), tmp_path / "marker"
    inner = tmp_path / "inner"
    shutil.copytree(repository, inner)
    git(repository, "submodule", "add", "-q", str(inner), "sub")
    git(repository, "commit", "-qm", "two")
    head = git(repository, "rev-parse", "HEAD")
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    for name in ("hook", "post-index-change", "post-checkout", "fsmonitor-watchman", "reference-transaction"):
        (hooks / name).write_text(f"#!/bin/sh\ntouch '{marker}'\ncat\n")
        (hooks / name).chmod(0o755)
    for place in (repository / ".git", repository / ".git" / "modules" / "sub"):
        with (place / "config").open("a") as stream:
            for key, value in CONFIGURED.items():
                section, _, name = key.rpartition(".")
                first, _, second = section.partition(".")
                header = f'{first} "{second}"' if second else first
                stream.write(f"[{header}]\n\t{name} = {value.format(hook=hooks / 'hook', folder=hooks)}\n")
        for name in ("post-index-change", "reference-transaction"):
            shutil.copy(hooks / "hook", place / "hooks" / name)
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "core.fsmonitor")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", str(hooks / "hook"))
    monkeypatch.setenv("GIT_EXTERNAL_DIFF", str(hooks / "hook"))
    monkeypatch.setenv("GIT_PAGER", str(hooks / "hook"))
    for text in ("1\n", "333\n"):  # of another date, so that git must look into the file; and changed
        (repository / "a.txt").write_text(text)
        os.utime(repository / "a.txt", (1e9, 1e9))
        (repository / "sub" / "a.txt").write_text(text)
        expected = head if text == "1\n" else f"{head} (modified)"
        assert git_state(repository) == expected
        assert git_state(repository / "a.txt") == expected
    assert not marker.exists()
    git_dir = repository / ".git"
    monkeypatch.setenv("GIT_DIR", str(git_dir))
    assert git_state(tmp_path) is None


# caches ---------------------------------------------------------------------------------------------------------------


@posix
def test_a_cache_is_private_or_not_used(tmp_path):
    tmp_path.chmod(0o755)
    assert private_folder(tmp_path / "a" / "b")
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700
    (tmp_path / "a" / "b").chmod(0o755)  # as an earlier version made it: readable
    assert private_folder(tmp_path / "a" / "b")
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700
    (tmp_path / "a" / "b").chmod(0o777)
    assert not private_folder(tmp_path / "a" / "b")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert not private_folder(tmp_path / "link")
    (tmp_path / "file").write_text("")
    assert not private_folder(tmp_path / "file")
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o777)
    assert not private_folder(tmp_path / "shared" / "c")
    (tmp_path / "shared").chmod(0o1777)  # as /tmp
    assert private_folder(tmp_path / "shared" / "c")


@posix
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="gives a folder to another user")
def test_a_cache_of_another_user_is_not_used(tmp_path):
    folder = tmp_path / "cache"
    folder.mkdir(mode=0o700)
    os.chown(folder, 65534, 65534)
    assert not private_folder(folder)


# the local cluster ----------------------------------------------------------------------------------------------------


def listening(pids):
    """Addresses on which processes listen, as Linux lists them: `ADDRESS:PORT` in hexadecimal."""
    sockets = set()
    for pid in pids:
        for link in pathlib.Path(f"/proc/{pid}/fd").iterdir():
            try:
                sockets.add(str(link.readlink())[8:-1])
            except OSError:
                continue
    lines = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        if pathlib.Path(table).exists():
            lines += [line.split() for line in pathlib.Path(table).read_text().splitlines()[1:]]
    return [line[1] for line in lines if line[3] == "0A" and line[9] in sockets]


def family(pid):
    found = [pid]
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += family(int(child))
    return found


@pytest.mark.filterwarnings("ignore")  # of Dask's own threads and sockets
@pytest.mark.skipif(not pathlib.Path("/proc/net/tcp").exists(), reason="looks at sockets as Linux lists them")
def test_the_local_cluster_lets_nobody_in(capfd):
    pytest.importorskip("distributed")
    from distributed import Security
    from distributed.core import rpc

    from flatmin.studies._local import LocalCluster

    async def answers(address, arguments):
        async with asyncio.timeout(5), rpc(address, connection_args=arguments) as server:
            return await server.identity()

    strangers = Security.temporary().get_connection_args("client")

    cluster = LocalCluster(1, user_code=False)
    try:
        assert cluster.client.submit(sum, [1, 2]).result() == 3
        (worker,) = cluster.client.scheduler_info()["workers"]
        assert worker.startswith("tls://127.0.0.1:")
        open_ports = listening(family(os.getpid()))
        assert len(open_ports) >= 3  # scheduler, nanny, worker
        assert {place.partition(":")[0] for place in open_ports} == {"0100007F"}
        for place in open_ports:
            port = int(place.partition(":")[2], 16)
            for protocol, arguments in (("tcp", {}), ("tls", strangers)):
                with pytest.raises((OSError, TimeoutError)):
                    asyncio.run(answers(f"{protocol}://127.0.0.1:{port}", arguments))
        folder = pathlib.Path(cluster._folder.name)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert list(folder.iterdir())
        processes = cluster._workers
        for process in processes:
            shown = pathlib.Path(f"/proc/{process.pid}/cmdline").read_bytes()
            shown += pathlib.Path(f"/proc/{process.pid}/environ").read_bytes()
            assert b"PRIVATE KEY" not in shown
    finally:
        cluster.close()
    assert capfd.readouterr().err == ""
    assert all(process.poll() is not None for process in processes)
    assert not folder.exists()
