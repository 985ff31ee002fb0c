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


def test_the_defaults(run, small_file):
    args = cnn_mnist.parse_args([])
    assert (args.epochs, args.batch_size, args.seed) == (15, 128, 1)
    done = run("--data", small_file, "--epochs", 2)
    assert done.status == 0
    assert [epoch[:4] for epoch in EPOCH.findall(done.out)] == [
        ("1", "2", "9", "9"),
        ("2", "2", "9", "9"),
    ]
    assert RESULT.search(done.out)


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


def test_a_notebook_gets_the_progress_bar(small_file):
    """In a real kernel, whose standard output is no terminal."""
    manager, client = jupyter_client.manager.start_new_kernel(cwd=TOP)
    cells = (
        f"""
import cnn_mnist
(x, y), _ = cnn_mnist.load_data({small_file!r})
_ = cnn_mnist.train(cnn_mnist.build_model(), x, y, epochs=1)
""",
        f"%run {SCRIPT} --data {small_file} --epochs 1",
    )
    messages = []
    try:
        for cell in cells:
            client.execute_interactive(cell, output_hook=messages.append, timeout=300)
            printed = [
                message["content"]["text"]
                for message in messages
                if message["msg_type"] == "stream"
            ]
            bar = r"\r.*1/9.*━━.*\r.*9/9.*━━.* - val_loss: "
            assert re.search(bar, "".join(printed), re.DOTALL)
            assert "error" not in [message["msg_type"] for message in messages]
            messages.clear()
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--epochs", "-1"), "--epochs >= 0"),
        (("--epochs", "ten"), "argument --epochs: invalid int value: 'ten'"),
        (("--epochs", "1.5"), "argument --epochs: invalid int value: '1.5'"),
        (("--batch-size", "0"), "--batch-size >= 1"),
        (("--batch-size", ""), "argument --batch-size: invalid int value: ''"),
        (("--seed", "-1"), "0 <= --seed < 2**32"),
        (("--seed", "4294967296"), "0 <= --seed < 2**32"),
        (("--data",), "argument --data: expected one argument"),
        (("--learning-rate", "1"), "unrecognized arguments: --learning-rate 1"),
        (("mnist.npz",), "unrecognized arguments: mnist.npz"),
    ],
)
def test_a_wrong_option_is_answered_as_argparse_does(run, flags, message):
    done = run(*flags)
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("usage: cnn_mnist.py ")
    assert message in done.err.splitlines()[-1]


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


def test_help_states_every_default_and_no_other(run):
    done = run("--help")
    assert done.status == 0
    defaults = re.findall(r"\(default: ([^)]*)\)", " ".join(done.out.split()))
    assert defaults == ["15", "128", "1", "mnist.npz beside the script"]


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
