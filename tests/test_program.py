"""The program as people run it: its flags, its output, its settings."""

import os
import re
import shutil
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
from conftest import ENVIRONMENT, RESULT, SCRIPT, TOP, posix

import cnn_mnist

EPOCH = re.compile(
    r"Epoch (\d+)/(\d+)\n"
    r"(\d+)/(\d+) - \d+s - \d+m?s/step - accuracy: (\d\.\d{4}) - loss: (\d\.\d{4})"
    r" - val_accuracy: (\d\.\d{4}) - val_loss: (\d\.\d{4})\n"
)
# A module of this name on the path is imported as Python starts.
NO_NETWORK = """
import socket

def refuse(*args, **kwargs):
    raise OSError("a test without a network")

socket.socket.connect = socket.getaddrinfo = refuse
"""


def test_the_numbers_are_those_of_the_plain_keras_calls(run, small_file):
    """Seed, shuffling, batches, the held-out tenth and the evaluation, in one."""
    (x_train, y_train), (x_test, y_test) = cnn_mnist.load_data(small_file)
    keras.utils.set_random_seed(7)
    model = cnn_mnist.build_model()
    history = model.fit(
        x_train[:1152],
        y_train[:1152],
        batch_size=100,
        epochs=2,
        validation_data=(x_train[1152:], y_train[1152:]),
        verbose=0,
    ).history
    loss, accuracy = model.evaluate(x_test, y_test, verbose=0)

    flags = ("--epochs", 2, "--batch-size", 100, "--seed", 7)
    ctrl_c = signal.getsignal(signal.SIGINT)
    done = run("--data", small_file, *flags)
    assert done.status == 0
    assert signal.getsignal(signal.SIGINT) is ctrl_c
    epochs = EPOCH.findall(done.out)
    assert len(epochs) == 2
    for i, epoch in enumerate(epochs):
        assert epoch[:4] == (str(i + 1), "2", "12", "12")
        names = ("accuracy", "loss", "val_accuracy", "val_loss")
        assert [float(value) for value in epoch[4:]] == pytest.approx(
            [history[name][i] for name in names], abs=6e-5
        )
    found = [float(value) for value in RESULT.search(done.out).groups()]
    assert found == pytest.approx([loss, accuracy], abs=6e-5)


def test_a_terminal_gets_the_progress_bar(run, small_file, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert "\r" in run("--data", small_file, "--epochs", 1).out


@pytest.mark.parametrize(
    ("option", "value"),
    [("--epochs", -1), ("--batch-size", 0), ("--seed", -1), ("--seed", 2**32)],
)
def test_a_wrong_option_is_answered_as_argparse_does(run, option, value):
    done = run(option, value)
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("usage: cnn_mnist.py ")
    assert option in done.err.splitlines()[-1]


def test_the_ends_of_the_ranges(run, small, tmp_path):
    path = tmp_path / "least.npz"
    np.savez(path, **{name: array[:2] for name, array in small.items()})
    flags = ("--batch-size", 1, "--seed", 2**32 - 1)
    assert run("--data", path, "--epochs", 1, *flags).status == 0
    assert cnn_mnist.parse_args(["--seed", "0", "--epochs", "0"]).seed == 0


def test_help_states_every_default_and_no_other(run):
    done = run("--help")
    assert done.status == 0
    defaults = re.findall(r"\(default: ([^)]*)\)", " ".join(done.out.split()))
    assert defaults == ["15", "128", "1", str(cnn_mnist.DATA)]


# Run in the program's process as it ends, before its standard error is closed.
AT_EXIT = """
import atexit, os
names = ["TF_ENABLE_ONEDNN_OPTS", "TF_CPP_MIN_LOG_LEVEL", "TF_FORCE_GPU_ALLOW_GROWTH"]
def show():
    policy = os.sched_getscheduler(0) if hasattr(os, "sched_getscheduler") else None
    settings = " ".join(os.environ.get(name, "unset") for name in names)
    os.write(2, f"at exit: {policy} {settings}\\n".encode())
atexit.register(show)
"""
# In the place of Keras, where only the first lines of the script matter.
ALARMING_KERAS = """
import os, types
os.write(2, b"an alarming line\\n")
ops = types.SimpleNamespace(zeros=lambda shape: None)
callbacks = types.SimpleNamespace(Callback=object)
"""


def start(home, *flags, code="", program=(SCRIPT,), **env):
    """Run the program from another folder, without a network, with an empty home."""
    (home / "sitecustomize.py").write_text(NO_NETWORK + AT_EXIT + code)
    env = ENVIRONMENT | {"HOME": str(home), "PYTHONPATH": f"{home}:{TOP}"} | env
    return subprocess.run(
        [sys.executable, *program, *flags],
        cwd=home,
        env=env,
        check=False,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )


def test_the_program_with_its_output_to_a_pipe(small_file, tmp_path):
    """On a GPU where there is one."""
    done = start(tmp_path, "--data", small_file, "--epochs", "1")
    assert done.returncode == 0
    assert RESULT.search(done.stdout)
    # No bar, and no colours.
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", done.stdout)
    version, backend = keras.__version__, keras.backend.backend()
    first = done.stdout.splitlines()[0]
    assert re.fullmatch(rf"Keras {version} with {backend} on (CPU|GPU):0", first)
    assert "Total params: 34,826 (136.04 KB)" in done.stdout
    # On a GPU. Its C++ code starts a line with level and time, or with time and level.
    known = re.compile(r"WARNING: All log|[IWE]\d|\d{4}-[-\d :.]+: [IWE] ")
    *others, last = done.stderr.splitlines()
    assert [line for line in others if not known.match(line)] == []
    # Standard error is open again, and the process is batch work.
    policy = getattr(os, "SCHED_BATCH", None)
    assert last == f"at exit: {policy} 1 1 true"


@pytest.mark.slow
def test_the_default_run_reads_989_of_1000_digits(tmp_path):
    """The headline. The script needs no other file than mnist.npz."""
    for path in (SCRIPT, cnn_mnist.DATA):
        shutil.copy(path, tmp_path)
    done = start(tmp_path, program=["cnn_mnist.py"])
    assert done.returncode == 0, done.stderr
    assert [epoch[:4] for epoch in EPOCH.findall(done.stdout)] == [
        (str(i), "15", "422", "422") for i in range(1, 16)
    ]
    loss, accuracy = map(float, RESULT.search(done.stdout).groups())
    assert 0.989 <= accuracy <= 0.9999
    assert loss < 0.05


@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="scheduling as on Linux")
def test_a_users_own_settings_win(tmp_path):
    (tmp_path / "keras.py").write_text(ALARMING_KERAS)
    done = start(
        tmp_path,
        "--help",
        # As after `chrt --idle`, which would make this wait for an idle machine.
        code="os.sched_getscheduler = lambda pid: os.SCHED_IDLE\n"
        "os.sched_setscheduler = lambda *args: os.write(2, b'changed')\n",
        TF_ENABLE_ONEDNN_OPTS="0",
        TF_CPP_MIN_LOG_LEVEL="0",
        TF_FORCE_GPU_ALLOW_GROWTH="false",
    )
    settings = f"at exit: {os.SCHED_IDLE} 0 0 false"
    assert done.stderr.splitlines() == ["an alarming line", settings]


def test_importing_changes_nothing(tmp_path):
    """Another program keeps its settings, its scheduling and its Ctrl-C."""
    (tmp_path / "keras.py").write_text(ALARMING_KERAS)
    code = "import signal, cnn_mnist\nprint(signal.getsignal(signal.SIGINT))"
    done = start(tmp_path, program=["-c", code])
    assert "default_int_handler" in done.stdout
    policy = getattr(os, "SCHED_OTHER", None)
    assert done.stderr == f"at exit: {policy} unset 1 unset\n"


def test_a_keras_that_does_not_load_is_blamed_itself(tmp_path):
    (tmp_path / "keras.py").write_text("raise ImportError('libfoo.so: cannot open')")
    done = start(tmp_path)
    assert done.returncode == 1
    assert "ImportError: libfoo.so: cannot open\n" in done.stderr


@posix
def test_ctrl_c_while_keras_loads_leaves_no_traceback(tmp_path):
    code = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nwhile True: pass"
    (tmp_path / "keras.py").write_text(code)
    done = start(tmp_path)
    assert (done.returncode, done.stderr) == (130, "")
