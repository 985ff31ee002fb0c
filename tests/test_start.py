"""The start and the end of the process: Ctrl-C, closed streams, what else is printed."""

import os
import re
import signal
import subprocess
import sys

import pytest
from conftest import ENVIRONMENT, RESULT, SCRIPT, posix

# In place of a module: Ctrl-C while it loads, which the module takes for an error.
INTERRUPTED = """
import signal
try:
    signal.raise_signal(signal.SIGINT)
except BaseException as error:
    raise ImportError("PLEASE READ") from error
raise SystemExit("it goes on")
"""
# In place of Keras: an installation that writes as C++ does, and then fails.
BROKEN = """
import os
os.write(2, b"the reason\\n")
raise ImportError("a broken installation")
"""


@pytest.fixture
def start(small_file, tmp_path):
    """A function that runs the program without epochs, and some modules replaced."""

    def start(code=None, sigint=signal.SIG_DFL, closed=(), env=(), **modules):
        for name, text in modules.items():
            (tmp_path / f"{name}.py").write_text(text)

        def prepare():
            signal.signal(signal.SIGINT, sigint)
            for descriptor in closed:
                os.close(descriptor)

        path = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{SCRIPT.parent}"}
        program = [SCRIPT] if code is None else ["-c", code]
        return subprocess.run(
            [sys.executable, *program, "--data", small_file, "--epochs", "0"],
            env=ENVIRONMENT | path | dict(env),
            preexec_fn=prepare if os.name == "posix" else None,
            check=False,
            capture_output=True,
            text=True,
            encoding="utf-8",
        )

    return start


# --- Ctrl-C while modules load ------------------------------------------------

AS_PROGRAM = f"import runpy\nrunpy.run_path({str(SCRIPT)!r}, run_name='__main__')\n"


@posix
@pytest.mark.parametrize("module", ["numpy", "keras"])
def test_ctrl_c_while_a_module_loads(start, module):
    done = start(**{module: INTERRUPTED})
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@posix
@pytest.mark.parametrize("module", ["numpy", "keras"])
def test_an_ignored_ctrl_c_stays_ignored_while_a_module_loads(start, module):
    done = start(sigint=signal.SIG_IGN, **{module: INTERRUPTED})
    assert (done.returncode, done.stderr) == (1, "it goes on\n")


@posix
@pytest.mark.parametrize(
    "code",
    ["import cnn_mnist", "import sys\nsys.ps1 = 'In: '\n" + AS_PROGRAM],
    ids=["imported", "in a notebook"],
)
def test_ctrl_c_does_not_end_the_process_of_another_program(start, code):
    done = start(code, numpy=INTERRUPTED)
    assert done.returncode == 1
    assert done.stderr.endswith("ImportError: PLEASE READ\n")


@posix
def test_ctrl_c_is_python_s_own_once_keras_is_loaded(start):
    code = (
        "try:\n    " + AS_PROGRAM.replace("\n", "\n    ") + "pass\n"
        "finally:\n    import signal\n    print(signal.getsignal(signal.SIGINT))"
    )
    done = start(code)
    assert done.stdout.endswith(f"{signal.default_int_handler}\n")


# --- Closed streams -----------------------------------------------------------


@posix
@pytest.mark.parametrize("last_line_read", ["Keras", " Non-trainable params"])
def test_a_closed_pipe_ends_the_program_quietly(small_file, last_line_read):
    """Closed before what Keras prints, or before what is printed as Python ends."""
    process = subprocess.Popen(
        [sys.executable, SCRIPT, "--data", small_file, "--epochs", "0"],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    for line in process.stdout:
        if line.startswith(last_line_read):
            break
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 1


@posix
@pytest.mark.parametrize("closed", [(1,), (2,), (0, 1, 2)])
def test_streams_that_were_closed_from_the_start(start, closed):
    done = start(closed=closed)
    assert done.returncode == 0
    assert done.stderr == ""
    assert bool(RESULT.search(done.stdout)) == (1 not in closed)


# --- What TensorFlow writes to standard error ---------------------------------

FROM_TENSORFLOW = re.compile(r"^[IWE]\d{4} |: [IWE] ", re.MULTILINE)
WITHOUT_GPU = {"CUDA_VISIBLE_DEVICES": "-1"}


def test_nothing_is_written_to_standard_error(start):
    assert start(env=WITHOUT_GPU).stderr == ""


def test_whoever_sets_the_log_level_sees_everything(start):
    done = start(env={"TF_CPP_MIN_LOG_LEVEL": "0"})
    assert FROM_TENSORFLOW.search(done.stderr)
    assert "To enable the following instructions" in done.stderr  # of level 0


@posix
def test_with_an_nvidia_driver_but_on_a_cpu_everything_is_shown(start, tmp_path):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o700)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = start(env=WITHOUT_GPU | {"PATH": path})
    assert " on CPU:0\n" in done.stdout
    assert FROM_TENSORFLOW.search(done.stderr)


def test_what_was_held_back_is_shown_if_loading_fails(start):
    done = start(keras=BROKEN)
    assert done.returncode == 1
    assert done.stderr.startswith("the reason\nTraceback ")
    assert done.stderr.endswith("ImportError: a broken installation\n")


def test_a_backend_that_does_not_exist_is_named(start):
    done = start(env={"KERAS_BACKEND": "abacus"})
    assert done.returncode == 1
    assert "abacus" in done.stderr.splitlines()[-1]
