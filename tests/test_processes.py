"""What a process may be like: forked, without streams, with other flags. It works, or says in a sentence why not."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

TESTS = pathlib.Path(__file__).parent
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS.parent / "src"), str(TESTS)])}
SPEC = {
    "name": "s",
    "seeds": 3,
    "function": {"call": "study_cells:tiny"},
    "axes": {"function.x": [0.0, 0.5, 1.0, 2.0]},
}
STUDY = (
    "import sys, pathlib; from flatmin.studies import run_study, study_spec; "
    f"s = run_study(study_spec({SPEC!r}), sys.argv[1], workers=2); "
    "pathlib.Path(sys.argv[1], 'counts').write_text(f'{s.computed} {s.failed}')"
)

FORKED = """
import os, sys, warnings
warnings.simplefilter("ignore")
import jax, jax.numpy as jnp
jax.config.update("jax_enable_x64", True)
from flatmin import JobError
from flatmin.dynamics import GradientDescent, train
from flatmin.flatness import hessian_trace, sharpness, spectrum
from flatmin.measurements import dense, row_gram
from flatmin.solvers import MinNuclearNorm, solve, solve_batch
from flatmin.studies import run_study, study_spec
def before(): return [run_study(study_spec(%r), sys.argv[1] + "/early")]
if os.fork() == 0:  # nothing has started: it works
    before()
    os._exit(0)
assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
key, params = jax.random.key(0), jnp.ones(3)
loss = lambda p: jnp.sum(p**2)
loss(params).block_until_ready()
op = dense(jnp.ones((2, 2, 2)))
study = {"name": "t", "problem": {"preset": "matrix_sensing", "matrix_shape": [2, 2], "rank": 1, "num_measurements": 3}}
program = MinNuclearNorm(op, jnp.ones(2))
calls = [
    lambda: solve(program),
    lambda: solve_batch([program]),
    lambda: hessian_trace(loss, params),
    lambda: sharpness(loss, params),
    lambda: spectrum(loss, params),
    lambda: train(loss, params, GradientDescent(0.1), steps=2, key=key),
    lambda: run_study(study_spec(study), sys.argv[1] + "/late"),
]
for call in calls:
    pid = os.fork()
    if pid == 0:
        try:
            call()
        except JobError as error:
            os._exit(0 if "os.fork()" in str(error) and "spawn" in str(error) else 4)
        except BaseException as error:
            print(type(error), error, file=sys.stderr)
            os._exit(5)
        os._exit(6)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, call
if os.fork() == 0:  # a study that starts processes of its own, and one that does not need JAX, work
    before()
    os._exit(0)
assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
print("fine")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_is_refused_in_a_sentence(tmp_path):
    code = FORKED % (SPEC,)
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=240, check=False)
    assert done.stdout == "fine\n", done.stderr


@pytest.mark.skipif(os.name == "nt", reason="streams of a POSIX shell")
@pytest.mark.parametrize("closed", ["<&- >&- 2>&-", pytest.param("2>&-", marks=pytest.mark.long)])
def test_workers_without_streams(tmp_path, closed):
    (tmp_path / "code.py").write_text(STUDY)
    call = f'"{sys.executable}" -W ignore code.py s {closed}'
    done = subprocess.run(
        ["/bin/sh", "-c", call], cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.DEVNULL, timeout=240, check=False
    )
    assert done.returncode == 0
    assert (tmp_path / "s" / "counts").read_text() == "12 0"


@pytest.mark.parametrize("flags", [["-OO"], *(pytest.param([f], marks=pytest.mark.long) for f in ("-P", "-I"))])
def test_flags_of_python(tmp_path, flags):
    """`-I` ignores PYTHONPATH: the process is told its modules, and its workers are told by it."""
    code = f"import sys; sys.path[:0] = {[str(TESTS.parent / 'src'), str(TESTS)]!r}; {STUDY}"
    command = [sys.executable, *flags, "-c", code, str(tmp_path / "s")]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "s" / "counts").read_text() == "12 0"


@pytest.mark.long
@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_where_interrupts_are_ignored(tmp_path):
    """As under nohup: the study runs, and is not interrupted."""
    command = [sys.executable, "-c", STUDY, str(tmp_path / "s")]
    process = subprocess.Popen(["/bin/sh", "-c", "trap '' INT; exec \"$@\"", "sh", *command], env=ENVIRONMENT)
    process.send_signal(signal.SIGINT)
    assert process.wait(240) == 0
    assert (tmp_path / "s" / "counts").read_text() == "12 0"
