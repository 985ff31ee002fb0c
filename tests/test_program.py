"""The program as people run it: its flags, its output, its settings."""

import importlib.util
import os
import re
import subprocess
import sys

import jupyter_client
import keras
import numpy as np
import pytest
from conftest import ENVIRONMENT, RESULT, SCRIPT, TOP

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


def without_times(out):
    return re.sub(r" - \d+s - \d+m?s/step", "", out)


def test_the_defaults(run, small_file):
    done = run("--data", small_file)
    assert done.status == 0
    epochs = EPOCH.findall(done.out)
    assert [epoch[:4] for epoch in epochs] == [
        (str(i), "15", "9", "9") for i in range(1, 16)
    ]
    assert RESULT.search(done.out)
    again = run("--data", small_file, "--seed", "1", "--batch-size", "128")
    assert (
        without_times(again.out).split("Epoch", 1)[1]
        == (without_times(done.out).split("Epoch", 1)[1])
    )


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
    done = run("--data", small_file, *flags)
    assert done.status == 0
    for i, epoch in enumerate(EPOCH.findall(done.out)):
        assert epoch[:4] == (str(i + 1), "2", "12", "12")
        names = ("accuracy", "loss", "val_accuracy", "val_loss")
        assert [float(value) for value in epoch[4:]] == pytest.approx(
            [history[name][i] for name in names], abs=6e-5
        )
    found = [float(value) for value in RESULT.search(done.out).groups()]
    assert found == pytest.approx([loss, accuracy], abs=6e-5)


def test_the_seed_decides_the_numbers(run, small_file):
    flags = ("--data", small_file, "--epochs", 1)
    first, second, other = (
        RESULT.search(run(*flags, "--seed", seed).out).groups() for seed in (3, 3, 4)
    )
    assert first == second
    assert first[0] != other[0]


def test_no_epochs_evaluates_the_untrained_network(run, small_file):
    done = run("--data", small_file, "--epochs", 0)
    assert done.status == 0
    assert "Epoch" not in done.out
    loss, accuracy = RESULT.search(done.out).groups()
    assert float(loss) == pytest.approx(np.log(10), abs=0.2)  # all digits alike
    assert float(accuracy) < 0.4


def test_a_terminal_gets_the_progress_bar(run, small_file, monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    done = run("--data", small_file, "--epochs", 1)
    assert done.status == 0
    assert "━" in done.out
    assert "\r" in done.out


@pytest.mark.parametrize(
    "code",
    [
        "%run {script} --data {data} --epochs 1",
        """
import cnn_mnist
(x, y), _ = cnn_mnist.load_data({data!r})
_ = cnn_mnist.train(cnn_mnist.build_model(), x, y, epochs=1)
""",
    ],
    ids=["run", "import"],
)
def test_a_notebook_gets_the_progress_bar(small_file, code):
    """In a real kernel, whose standard output is no terminal."""
    manager, client = jupyter_client.manager.start_new_kernel(cwd=TOP)
    printed, errors = [], []

    def show(message):
        content = message["content"]
        if message["msg_type"] == "stream":
            printed.append(content["text"])
        elif message["msg_type"] == "error":
            errors.append(content["evalue"])

    try:
        code = code.format(script=SCRIPT, data=small_file)
        client.execute_interactive(code, output_hook=show, timeout=300)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    assert errors == []
    out = "".join(printed)
    assert re.search(r"\r.*1/9.*━━.*\r.*9/9.*━━.* - val_loss: ", out, re.DOTALL)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--epochs", "-1"), "argument --epochs: must be 0 or more"),
        (("--epochs", "ten"), "argument --epochs: invalid int value: 'ten'"),
        (("--epochs", "1.5"), "argument --epochs: invalid int value: '1.5'"),
        (("--batch-size", "0"), "argument --batch-size: must be 1 or more"),
        (("--batch-size", ""), "argument --batch-size: invalid int value: ''"),
        (("--seed", "-1"), "argument --seed: must be from 0 to 4294967295"),
        (("--seed", "4294967296"), "argument --seed: must be from 0 to 4294967295"),
        (("--data",), "argument --data: expected one argument"),
        (("--learning-rate", "1"), "unrecognized arguments: --learning-rate 1"),
        (("mnist.npz",), "unrecognized arguments: mnist.npz"),
    ],
)
def test_a_wrong_flag_is_answered_as_argparse_does(run, flags, message):
    done = run(*flags)
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("usage: cnn_mnist.py ")
    assert done.err.endswith(f"cnn_mnist.py: error: {message}\n")


@pytest.mark.parametrize(
    "flags", [("--seed", 0), ("--seed", 2**32 - 1), ("--batch-size", 1)]
)
def test_the_ends_of_the_ranges(run, small_file, flags):
    done = run("--data", small_file, "--epochs", 0, *flags)
    assert done.status == 0


def test_a_batch_larger_than_the_data(run, small_file):
    done = run("--data", small_file, "--epochs", 1, "--batch-size", 10**30)
    assert done.status == 0
    assert "1/1 - " in done.out


def test_help_states_every_default(run):
    done = run("--help")
    assert done.status == 0
    words = " ".join(done.out.split())
    assert words.count("(default: ") == len(
        re.findall(r"^  --", done.out, re.MULTILINE)
    )
    for default in ("15", "128", "1", "mnist.npz beside the script"):
        assert f"(default: {default})" in words


def python(code, **env):
    """Standard output and error of a new interpreter beside the script."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=TOP,
        env=ENVIRONMENT | env,
        check=False,
        capture_output=True,
        text=True,
    )
    return done.stdout, done.stderr


def test_importing_prints_nothing_and_loads_nothing_heavy():
    code = (
        "import sys, cnn_mnist; sys.exit(str({'keras', 'tensorflow'} & {*sys.modules}))"
    )
    assert python(code) == ("", "set()\n")


SETTINGS = (
    "print(*(os.environ[k] for k in ('TF_ENABLE_ONEDNN_OPTS', 'TF_CPP_MIN_LOG_LEVEL')))"
)


def test_importing_sets_what_tensorflow_reads():
    assert python("import os, cnn_mnist;" + SETTINGS) == ("1 1\n", "")


def test_a_users_own_settings_win():
    env = {"TF_ENABLE_ONEDNN_OPTS": "0", "TF_CPP_MIN_LOG_LEVEL": "3"}
    assert python("import os, cnn_mnist;" + SETTINGS, **env) == ("0 3\n", "")


def scheduling(before, obstacle=""):
    """The output of an import by a process with the policy `before`, and its policy."""
    code = (
        f"import os\nos.sched_setscheduler(0, os.{before}, os.sched_param(0))\n"
        f"policy = os.sched_getscheduler\n{obstacle}\n"
        "import cnn_mnist\nprint(policy(0))"
    )
    return python(code)


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="scheduling as on Linux")
def test_importing_makes_the_process_batch_work():
    assert scheduling("SCHED_OTHER") == (f"{os.SCHED_BATCH}\n", "")
    # Another policy was chosen by the user.
    assert scheduling("SCHED_IDLE") == (f"{os.SCHED_IDLE}\n", "")


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="scheduling as on Linux")
@pytest.mark.parametrize(
    "obstacle",
    [
        "del os.sched_getscheduler",
        "def refuse(*args): raise PermissionError\nos.sched_setscheduler = refuse",
    ],
    ids=["another system", "not permitted"],
)
def test_importing_where_that_is_impossible(obstacle):
    assert scheduling("SCHED_OTHER", obstacle) == (f"{os.SCHED_OTHER}\n", "")


@pytest.fixture(scope="module")
def one_epoch(tmp_path_factory):
    """A real epoch: another folder, no network, an empty home, output to a pipe."""
    home = tmp_path_factory.mktemp("home")
    (home / "sitecustomize.py").write_text(NO_NETWORK)
    env = ENVIRONMENT | {"HOME": str(home), "PYTHONPATH": str(home)}
    return subprocess.run(
        [sys.executable, SCRIPT, "--epochs", "1"],
        cwd=home,
        env=env,
        check=False,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )


def test_an_epoch_of_mnist_learns_the_digits(one_epoch):
    assert one_epoch.returncode == 0
    assert "422/422" in one_epoch.stdout
    _, accuracy = RESULT.search(one_epoch.stdout).groups()
    assert 0.97 < float(accuracy) <= 1


def test_the_output_starts_with_where_it_runs_and_the_summary(one_epoch):
    first, *rest = one_epoch.stdout.splitlines()
    backend = sys.modules[keras.backend.backend()]
    assert first.startswith(
        f"Keras {keras.__version__} with {backend.__name__} {backend.__version__} on "
    )
    assert re.search(r" on (CPU|GPU):0$", first)
    summary = "\n".join(rest)
    for words in ("(None, 26, 26, 32)", "18,496", "Total params: 34,826 (136.04 KB)"):
        assert words in summary


def test_output_to_a_pipe_is_plain_lines(one_epoch):
    assert one_epoch.stdout.count("422/422") == 1
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", one_epoch.stdout)


def test_nothing_but_tensorflow_writes_to_standard_error(one_epoch):
    # On a GPU. Its C++ code starts a line with level and time, or with time and level.
    known = re.compile(r"WARNING: All log|[IWE]\d|\d{4}-[-\d :.]+: [IWE] ")
    others = [line for line in one_epoch.stderr.splitlines() if not known.match(line)]
    assert others == []


@pytest.mark.skipif(
    importlib.util.find_spec("jax") is None, reason="JAX is not installed"
)
def test_it_runs_on_jax(small_file):
    done = subprocess.run(
        [sys.executable, SCRIPT, "--data", small_file, "--epochs", "2"],
        env=os.environ | {"KERAS_BACKEND": "jax"},
        check=False,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == 0
    assert re.match(r"Keras \S+ with jax \S+ on \S+\n", done.stdout)
    assert RESULT.search(done.stdout)
