"""The commit that a folder is at, read without running anything that the folder configures.

A repository names programs in its `.git/config` (`core.fsmonitor`, filters, hooks) and in its submodules, and git runs
them when it is asked for the state. So git is never asked in the folder: its `.git` is read as files, and git compares
a copy of the index with the files under a folder of ours, whose configuration is empty.
"""

import os
import pathlib
import re
import shutil
import subprocess
import tempfile

SECONDS = 10.0
"""Git has so long to compare."""

LIMIT = 2**26
"""Bytes of the files of a repository that are read: those of larger ones are not looked at."""

_HASH = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
_REF = re.compile(r"ref: (?P<name>refs/[^\s\x00-\x1f]+)")


def git_state(path: pathlib.Path) -> str | None:
    """The commit that holds `path`, with ` (modified)` when tracked files differ from it.

    Args:
        path: a folder, or a file that must be tracked.

    Returns:
        The commit's hash, or None outside of a repository, where git is not installed or the file is not tracked.
        Submodules are not looked into; a file that a filter rewrites counts as modified once its date differs.
    """
    git = shutil.which("git")
    found = _repository(path if path.is_dir() else path.parent)
    if git is None or not pathlib.Path(git).is_absolute() or found is None:
        return None
    tree, folder, common = found
    commit = _commit(folder, common)
    if commit is None:
        return None
    try:
        with tempfile.TemporaryDirectory() as place:
            ours = _copied(pathlib.Path(place), folder, commit)
            call = _Git(git, ours, tree, common / "objects")
            if path.is_file() and call.run("ls-files", "--error-unmatch", "--", str(path.absolute())) is None:
                return None
            changed = call.run("status", "--porcelain", "-uno", "--ignore-submodules=all", "--no-renames")
    except OSError:
        return commit
    return commit + (" (modified)" if changed else "")


def _repository(folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path, pathlib.Path] | None:
    """The work tree around a folder, its `.git` and what that shares with other work trees."""
    folder = folder.absolute()
    for tree in (folder, *folder.parents):
        place = tree / ".git"
        if place.is_file():
            text = _text(place)
            if text is None or not text.startswith("gitdir: "):
                return None
            place = tree / text.removeprefix("gitdir: ").strip()
        if (place / "HEAD").is_file():
            shared = _text(place / "commondir")
            return tree, place, place if shared is None else place / shared.strip()
    return None


def _commit(folder: pathlib.Path, common: pathlib.Path) -> str | None:
    text = _text(folder / "HEAD") or ""
    for _ in range(5):  # a reference may name another
        text = text.strip()
        if _HASH.fullmatch(text):
            return text
        match = _REF.fullmatch(text)
        if match is None or ".." in pathlib.PurePosixPath(match["name"]).parts:
            return None
        name = match["name"]
        text = _text(folder / name) or _text(common / name) or _packed(common, name) or ""
    return None


def _packed(common: pathlib.Path, name: str) -> str | None:
    for line in (_text(common / "packed-refs") or "").splitlines():
        commit, _, listed = line.partition(" ")
        if listed == name:
            return commit
    return None


def _text(path: pathlib.Path) -> str | None:
    try:
        if not path.is_file() or path.stat().st_size > LIMIT:
            return None
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def _copied(place: pathlib.Path, folder: pathlib.Path, commit: str) -> pathlib.Path:
    """A repository at the same commit with the same index, and nothing else of the folder's."""
    ours = place / "repository"
    (ours / "refs").mkdir(parents=True)
    (ours / "HEAD").write_text(f"{commit}\n", encoding="ascii")
    kind = "[extensions]\n\tobjectFormat = sha256\n" if len(commit) == 64 else ""
    version = 1 if kind else 0
    (ours / "config").write_text(f"[core]\n\trepositoryFormatVersion = {version}\n{kind}", encoding="ascii")
    for name in ["index", *(path.name for path in folder.glob("sharedindex.*"))]:
        source = folder / name
        if source.is_file() and not source.is_symlink() and source.stat().st_size <= LIMIT:
            shutil.copyfile(source, ours / name)
    return ours


class _Git:
    """Git on a repository of ours, with no configuration but ours."""

    def __init__(self, git: str, ours: pathlib.Path, tree: pathlib.Path, objects: pathlib.Path):
        self._git, self._place = git, ours.parent
        self._environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")} | {
            "GIT_DIR": str(ours),
            "GIT_WORK_TREE": str(tree),
            "GIT_OBJECT_DIRECTORY": str(objects),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_NO_REPLACE_OBJECTS": "1",
            "GIT_OPTIONAL_LOCKS": "0",
            "GIT_TERMINAL_PROMPT": "0",
            "HOME": str(ours.parent),
            "XDG_CONFIG_HOME": str(ours.parent),
        }

    def run(self, *arguments: str) -> str | None:
        """The answer, None if git refuses."""
        command = [self._git, "-c", "core.fsmonitor=false", "-c", f"core.hooksPath={os.devnull}", *arguments]
        try:
            answer = subprocess.run(  # noqa: S603 - a fixed command, no shell
                command,
                cwd=self._place,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return answer.stdout.decode(errors="replace").strip() if answer.returncode == 0 else None
