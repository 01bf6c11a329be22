"""Folders that nobody else can write to, for what is run when it is read: compiled programs."""

import os
import pathlib
import stat


def private_folder(path: pathlib.Path) -> bool:
    """Make a folder of mode 0700, or check that one is this user's alone.

    Args:
        path: the folder.

    Returns:
        Whether it can be used: it is a folder, no link; it belongs to this user, and no other may write to it or put
        another one in its place. Where it was readable by others, it no longer is.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.name == "nt":  # folders there inherit who may write from the user's profile
            return os.access(path, os.W_OK)
        mine = path.lstat()
        if not stat.S_ISDIR(mine.st_mode) or mine.st_uid != os.geteuid() or mine.st_mode & 0o022:
            return False
        if not all(_safe(folder) for folder in path.resolve().parents):
            return False
        if mine.st_mode & 0o077:
            path.chmod(0o700)
    except OSError:  # it cannot be made, or not be looked at
        return False
    return os.access(path, os.W_OK)


def _safe(folder: pathlib.Path) -> bool:
    """Whether others cannot rename what is in a folder: they may not write to it, or it has the sticky bit."""
    mode = folder.stat().st_mode
    return not mode & 0o002 or bool(mode & stat.S_ISVTX)
