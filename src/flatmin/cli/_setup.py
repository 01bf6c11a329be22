"""What the command decides as an application: precision, the cache of compiled programs, the folder of runs."""

import os
import pathlib
import platform
import sys
import tempfile


def prepare_jax() -> None:
    """Turn on float64, and keep compiled programs between calls; before anything else of JAX is used."""
    import jax

    jax.config.update("jax_enable_x64", True)
    chosen = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    if chosen is None and os.environ.get("FLATMIN_CACHE") != "off":
        from flatmin.storage.private import private_folder

        folder = _cache_folder() / f"jax-{jax.__version__}-{platform.node() or 'host'}"
        # compiled programs are run as they are read: nobody else may write there, or there is no cache
        if private_folder(folder):
            jax.config.update("jax_compilation_cache_dir", str(folder))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


def _cache_folder() -> pathlib.Path:
    given = os.environ.get("FLATMIN_CACHE")
    if given:
        return pathlib.Path(given)
    try:
        home = pathlib.Path.home()
    except RuntimeError:
        return pathlib.Path(tempfile.gettempdir()) / f"flatmin-{os.getuid() if hasattr(os, 'getuid') else 'cache'}"
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "flatmin"
    if os.name == "nt":
        return pathlib.Path(os.environ.get("LOCALAPPDATA", home / "AppData" / "Local")) / "flatmin" / "cache"
    chosen = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    # a relative one is no valid choice, and would lie in the working directory
    return (chosen if chosen.is_absolute() else home / ".cache") / "flatmin"


def writable_folder(out: pathlib.Path) -> pathlib.Path:
    """The folder of runs, made if it is not there; refused before anything is computed if it cannot be written.

    Args:
        out: the folder.

    Returns:
        The folder.

    Raises:
        JobError: if nothing can be written there.
    """
    from flatmin._core import JobError

    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out) as probe:
            probe.write(b"x")
    except OSError as error:
        raise JobError(f"out: cannot write to {out} ({error.strerror or error}); choose another folder") from error
    return out
