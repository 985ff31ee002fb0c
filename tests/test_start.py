"""The start and the end of the process: Ctrl-C, closed streams, what else is printed.

Most of it needs a process, but not TensorFlow: `stub/keras.py` stands in for Keras.
"""

import os
import re
import signal
import subprocess
import sys

import pytest
from conftest import ENVIRONMENT, RESULT, SCRIPT, STUB, posix


@pytest.fixture
def start(small_file):
    """A function that runs the program without epochs, by default on the stub.

    noise: what is run while Keras loads.
    """

    def start(
        code=None,
        noise="",
        sigint=signal.SIG_DFL,
        closed=(),
        stub=True,
        flags=(),
        **env,
    ):
        def prepare():
            signal.signal(signal.SIGINT, sigint)
            for descriptor in closed:
                os.close(descriptor)

        path = f"{STUB}{os.pathsep}" * stub + str(SCRIPT.parent)
        program = [SCRIPT] if code is None else ["-c", code]
        return subprocess.run(
            [sys.executable, *program, "--data", small_file, "--epochs", "0", *flags],
            env=ENVIRONMENT | {"PYTHONPATH": path, "NOISE": noise} | env,
            preexec_fn=prepare if os.name == "posix" else None,
            check=False,
            capture_output=True,
            text=True,
            encoding="utf-8",
        )

    return start


# --- Ctrl-C while Keras loads -------------------------------------------------

# What is loading takes the interruption for an error of its own.
INTERRUPTED = """
import signal
try:
    signal.raise_signal(signal.SIGINT)
except BaseException as error:
    raise ImportError("PLEASE READ") from error
raise SystemExit("it goes on")
"""
IMPORTED = "import cnn_mnist\ncnn_mnist.build_model()\n"
IN_A_NOTEBOOK = f"""
import runpy, sys
sys.ps1 = "In: "
runpy.run_path({str(SCRIPT)!r}, run_name="__main__")
"""


@posix
def test_ctrl_c_while_keras_loads_ends_the_process_by_the_signal(start):
    done = start(noise=INTERRUPTED)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


@posix
def test_an_ignored_ctrl_c_stays_ignored_while_keras_loads(start):
    done = start(noise=INTERRUPTED, sigint=signal.SIG_IGN)
    assert (done.returncode, done.stderr) == (1, "it goes on\n")


@posix
@pytest.mark.parametrize("code", [IMPORTED, IN_A_NOTEBOOK])
def test_ctrl_c_does_not_end_the_process_of_another_program(start, code):
    done = start(code, noise=INTERRUPTED)
    assert done.returncode == 1
    assert "ImportError: PLEASE READ\n" in done.stderr


# --- Closed streams -----------------------------------------------------------


@posix
@pytest.mark.parametrize(
    ("last_line_read", "env"),
    [("a summary", {"PYTHONPATH": str(STUB), "SLEEP": "1"}), (" Non-trainable", {})],
    ids=["stub", "Keras"],
)
def test_a_closed_pipe_ends_the_program_quietly(small_file, last_line_read, env):
    """As with `| head`: what is printed next finds nobody who reads it."""
    process = subprocess.Popen(
        [sys.executable, SCRIPT, "--data", small_file, "--epochs", "0"],
        env=ENVIRONMENT | env,
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


WITHOUT_STREAMS = """
import os, sys
out, path = sys.stdout, sys.argv[2]
{lose}
import cnn_mnist
(x, y), _ = cnn_mnist.load_data(path)
history = cnn_mnist.train(cnn_mnist.build_model(), x, y, epochs=1)
out.write(f"epochs: {{len(history['loss'])}}")
out.flush()
os._exit(0)  # Python would close the streams again
"""


@posix
@pytest.mark.parametrize(
    "lose",
    [
        "sys.stdout = sys.stderr = None; os.close(2)",
        "sys.stdout = open(os.devnull, 'w'); sys.stdout.close(); sys.stderr.close()",
    ],
    ids=["none", "closed"],
)
def test_training_needs_no_streams(start, lose):
    """As in a program that has windows and no terminal."""
    done = start(WITHOUT_STREAMS.format(lose=lose), stub=False)
    assert done.stdout == "epochs: 1"


def test_an_old_keras_json_does_not_matter(start, tmp_path):
    """Tutorials of 2016 had one written into the user's folder."""
    (tmp_path / "keras.json").write_text(
        '{"image_data_format": "channels_first", "floatx": "float16"}'
    )
    code = "import cnn_mnist as c\nm = c.build_model()\n"
    code += "print(m.count_params(), m.dtype, m.layers[0].data_format)"
    done = start(code, stub=False, KERAS_HOME=str(tmp_path))
    assert done.stdout == "34826 float32 channels_last\n"


def test_what_standard_output_cannot_encode_is_replaced(start):
    """Keras has other signs for its table and its bar, unless an error handler hides it."""
    done = start(stub=False, PYTHONIOENCODING="cp1252", flags=["--epochs", "1"])
    assert done.returncode == 0
    assert "\\u" not in done.stdout
    assert "val_loss" in done.stdout


def test_a_name_that_standard_output_cannot_encode(start, tmp_path):
    Image = pytest.importorskip("PIL.Image")
    page = Image.new("L", (60, 60), 255)
    page.paste(0, (25, 10, 32, 50))
    page.save(tmp_path / "七.png")
    flags = ["--predict", str(tmp_path / "七.png"), "--plot", str(tmp_path / "p.png")]
    done = start(flags=flags, PYTHONIOENCODING="cp1252")
    assert done.returncode == 0
    assert done.stdout.endswith("\\u4e03.png: 0 (10.0 %)\n")
    assert (tmp_path / "p.png").exists()


# --- What is written to standard error ----------------------------------------

NOISE = "import os\nos.write(2, b'alarming\\n')\n"
BROKEN = NOISE + "raise ImportError('libfoo.so: cannot open')"


def test_nothing_is_written_to_standard_error(start):
    done = start(stub=False, CUDA_VISIBLE_DEVICES="-1")
    assert RESULT.search(done.stdout)
    assert done.stderr == ""


def test_whoever_sets_the_log_level_sees_everything(start):
    assert start(noise=NOISE).stderr == ""
    assert start(noise=NOISE, TF_CPP_MIN_LOG_LEVEL="0").stderr == "alarming\n"


def test_standard_error_is_open_again_once_keras_is_loaded(start):
    noise = "import atexit, os\natexit.register(os.write, 2, b'later')"
    assert start(noise=noise).stderr == "later"


@posix
def test_one_line_if_an_nvidia_driver_leads_to_no_gpu(start, tmp_path):
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\n")
    (tmp_path / "nvidia-smi").chmod(0o700)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = start(PATH=path)
    assert done.stderr.count("\n") == 1
    assert "NVIDIA" in done.stderr and "TF_CPP_MIN_LOG_LEVEL=0" in done.stderr
    assert start(PATH=path, DEVICE="cuda:0").stderr == ""


LOAD = "import zipfile, cnn_mnist\nzipfile.ZipFile('{0}', 'w').close()\n"
LOAD += "cnn_mnist.load_model('{0}')"


@pytest.mark.parametrize("code", [None, LOAD], ids=["main", "load_model"])
def test_a_broken_keras_is_blamed_itself(start, tmp_path, code):
    done = start(code and code.format(tmp_path / "m.keras"), noise=BROKEN)
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback ")
    reason, hint = done.stderr.splitlines()[-2:]
    assert reason == "ImportError: libfoo.so: cannot open"
    assert "TF_CPP_MIN_LOG_LEVEL=0" in hint


@posix
def test_a_library_that_aborts_while_it_loads_is_located(start):
    done = start(noise="import os\nos.abort()")
    assert done.returncode == -signal.SIGABRT
    assert re.search(r"Aborted[^$]* in load_keras\n", done.stderr)


# --- What the process is made into --------------------------------------------

POLICY = "import os\nprint(os.sched_getscheduler(0))"
linux = pytest.mark.skipif(
    not hasattr(os, "SCHED_BATCH"), reason="scheduling as on Linux"
)


@linux
def test_the_program_is_batch_work(start):
    first_line = start(noise=POLICY).stdout.split("\n")[0]
    assert first_line == str(os.SCHED_BATCH)


@linux
@pytest.mark.parametrize("code", [IMPORTED, IN_A_NOTEBOOK])
def test_another_program_is_no_batch_work(start, code):
    assert start(code, noise=POLICY).stdout.startswith(f"{os.SCHED_OTHER}\n")


@linux
@pytest.mark.parametrize(
    ("obstacle", "policy"),
    [
        ("os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))", "SCHED_IDLE"),
        ("del os.sched_setscheduler", "SCHED_OTHER"),
        ("os.sched_setscheduler = lambda *_: os.kill(10**8, 0)", "SCHED_OTHER"),
    ],
    ids=["chosen by the user", "another system", "not permitted"],
)
def test_where_it_cannot_be_batch_work(start, tmp_path, obstacle, policy):
    (tmp_path / "sitecustomize.py").write_text(f"import os\n{obstacle}\n")
    path = os.pathsep.join([str(tmp_path), str(STUB)])
    done = start(noise=POLICY, PYTHONPATH=path)
    assert done.stdout.startswith(f"{getattr(os, policy)}\n")
    assert done.stderr == ""


def test_importing_changes_nothing_and_loads_nothing_heavy(start):
    code = """
import os, signal, sys
def state():
    policy = os.sched_getscheduler(0) if hasattr(os, "sched_getscheduler") else None
    return dict(os.environ), signal.getsignal(signal.SIGINT), policy
before = state()
import cnn_mnist
print(state() == before, {"keras", "tensorflow"} & {*sys.modules})
"""
    done = start(code)
    assert (done.stdout, done.stderr) == ("True set()\n", "")


SETTINGS = "TF_ENABLE_ONEDNN_OPTS TF_CPP_MIN_LOG_LEVEL TF_FORCE_GPU_ALLOW_GROWTH"
SHOW = f"import os\nprint(*(os.environ[name] for name in {SETTINGS.split()}))"


@pytest.mark.parametrize("code", [None, IMPORTED])
def test_the_settings_are_made_before_keras_loads(start, code):
    assert start(code, noise=SHOW).stdout.startswith("1 1 true\n")


def test_a_users_own_settings_win(start):
    own = dict(zip(SETTINGS.split(), ("0", "3", "false")))
    assert start(noise=SHOW, **own).stdout.startswith("0 3 false\n")
