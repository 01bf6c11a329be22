"""How Python processes beside this one are started: what they may import, their threads, their streams.

The working directory may hold anything, so it is on nobody's path of modules: a `numpy.py` in it is never run. Where
the user names code (the function of a study, a cell of their own), it comes last, after all that is installed.
"""

import os
import pathlib
import sys

MODULES = "PYTHONPATH"


def python_command(main: str, *, user_code: bool) -> list[str]:
    """The command line of a Python process that runs a function of ours.

    Args:
        main: `module:function`, called without arguments.
        user_code: whether modules of the working directory can be imported, after all others.

    Returns:
        The command; `-P` and `-c` instead of `-m`, which would put the working directory first.
    """
    module, _, function = main.partition(":")
    code = f"from {module} import {function}; {function}()"
    if user_code:
        code = f"import sys; sys.path.append({str(pathlib.Path.cwd())!r}); {code}"
    return [sys.executable, *(["-s"] if sys.flags.no_user_site else []), "-P", "-c", code]


def module_path() -> list[str]:
    """This process's path of modules without the working directory, whoever put it there.

    Returns:
        Absolute folders and archives; the folder of flatmin itself is among them in any case, at the end.
    """
    import flatmin

    here = _real(".")
    kept = [str(pathlib.Path(entry).absolute()) for entry in sys.path if entry and _real(entry) != here]
    home = str(pathlib.Path(flatmin.__file__).absolute().parent.parent)
    return list(dict.fromkeys([*kept, home]))


def _real(path: str) -> str:
    return os.path.normcase(os.path.realpath(path))


def worker_environment() -> dict[str, str]:
    """The environment of a process that shares the machine with others of its kind: one thread each.

    Not by `--xla_cpu_multi_thread_eigen=false`: that makes other programs of the same code, and other last bits.

    Returns:
        This process's environment with limits for XLA and BLAS, its path of modules, precision and cache of programs.
    """
    environment = dict(os.environ)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NPROC", "PJRT_NPROC"):
        environment[name] = "1"
    environment[MODULES] = os.pathsep.join(module_path())
    environment["PYTHONSAFEPATH"] = "1"  # for the processes that such a process starts
    if "jax" in sys.modules:
        import jax

        environment["JAX_ENABLE_X64"] = str(int(jax.config.read("jax_enable_x64")))
        cache = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
        if cache:
            environment["JAX_COMPILATION_CACHE_DIR"] = str(cache)
            # the small programs of many shapes too: other processes need them next
            environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.02"
    return environment


def answers_only() -> int:
    """Keep the standard output of this process for answers: what else is printed goes to the standard error.

    Returns:
        The descriptor that answers are written to. A closed standard error is replaced by one that nobody reads.
    """
    try:
        os.fstat(2)
    except OSError:
        null = os.open(os.devnull, os.O_RDWR)
        if null != 2:
            os.dup2(null, 2)
            os.close(null)
    out = os.dup(1)
    os.dup2(2, 1)
    return out
