"""Ctrl-C: once to end the training with its results, twice to stop at once."""

import signal
import subprocess
import sys
import threading

import keras
import numpy as np
import pytest
from conftest import RESULT, SCRIPT, posix

import cnn_mnist


@pytest.fixture
def started(small, mnist, tmp_path):
    """The program in the middle of its training, saving and plotting.

    The test set is large, so that there is time for a second Ctrl-C.
    """
    data = tmp_path / "data.npz"
    large = {"x_test": mnist["x_train"][:30000], "y_test": mnist["y_train"][:30000]}
    np.savez(data, **small | large)
    flags = ["--data", data, "--epochs", "100000"]
    flags += ["--save-model", tmp_path / "m.keras", "--plot", tmp_path / "p.png"]
    process = subprocess.Popen(
        [sys.executable, SCRIPT, *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        # A shell starts what it puts in the background with SIGINT ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    for line in process.stdout:
        if line.startswith("Epoch 3/"):
            break
    yield process
    process.kill()
    process.communicate()


def interrupt(process):
    """Press Ctrl-C and wait for the answer."""
    process.send_signal(signal.SIGINT)
    for line in process.stderr:
        if "Interrupted" in line:
            return
    raise AssertionError("no answer to Ctrl-C")


@posix
def test_ctrl_c_ends_the_training_with_its_results(started, tmp_path):
    interrupt(started)
    out, err = started.communicate()
    assert started.returncode == 130
    assert RESULT.search(out)
    assert "Traceback" not in err
    assert keras.saving.load_model(tmp_path / "m.keras").optimizer.iterations >= 18
    assert (tmp_path / "p.png").exists()


@posix
def test_a_second_ctrl_c_stops_at_once(started, tmp_path):
    interrupt(started)
    started.send_signal(signal.SIGINT)
    out, err = started.communicate()
    assert started.returncode == 130
    assert "Test" not in out
    assert "Traceback" not in err
    assert not (tmp_path / "p.png").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.npz", "m.keras"]


@pytest.fixture
def train_with_ctrl_c(small_file):
    """A function that trains with Ctrl-C pressed in the fourth of 9 steps."""
    (x, y), _ = cnn_mnist.load_data(small_file)
    press = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: (
            signal.raise_signal(signal.SIGINT) if batch == 3 else None
        )
    )

    def train():
        model = cnn_mnist.build_model()
        history = cnn_mnist.train(model, x, y, epochs=2, callbacks=[press])
        return model, {name: len(values) for name, values in history.items()}

    return train


EACH = ("loss", "accuracy", "val_loss", "val_accuracy")


def test_the_step_is_finished_and_the_rest_left_out(train_with_ctrl_c, capsys):
    before = signal.getsignal(signal.SIGINT)
    model, lengths = train_with_ctrl_c()
    assert model.stop_training
    assert model.optimizer.iterations == 4
    assert lengths == dict.fromkeys(EACH, 1)
    assert signal.getsignal(signal.SIGINT) is before
    assert "\nInterrupted: " in capsys.readouterr().err


def test_an_ignored_ctrl_c_stays_ignored(train_with_ctrl_c, capsys):
    """As for a program that a shell script has put in the background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        model, lengths = train_with_ctrl_c()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert not model.stop_training
    assert model.optimizer.iterations == 18
    assert lengths == dict.fromkeys(EACH, 2)
    assert capsys.readouterr().err == ""


def test_training_outside_the_main_thread(small_file):
    (x, y), _ = cnn_mnist.load_data(small_file)
    before, histories = signal.getsignal(signal.SIGINT), []

    def work():
        histories.append(cnn_mnist.train(cnn_mnist.build_model(), x, y, epochs=1))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert set(histories[0]) == set(EACH)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_failed_write_outweighs_the_interruption(
    run, small_file, tmp_path, monkeypatch
):
    def save(model, path):
        signal.raise_signal(signal.SIGINT)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(keras.Model, "save", save)
    path = tmp_path / "model.keras"
    done = run("--data", small_file, "--epochs", 5, "--save-model", path)
    assert done.status == 1
    assert "Epoch 2/" not in done.out
    assert RESULT.search(done.out)


def test_the_handler_is_put_back_after_training(small_file):
    (x, y), _ = cnn_mnist.load_data(small_file)
    before = signal.getsignal(signal.SIGINT)
    model = cnn_mnist.build_model()
    cnn_mnist.train(model, x, y, epochs=1)
    assert signal.getsignal(signal.SIGINT) is before
    assert not model.stop_training
    with pytest.raises(ValueError):
        cnn_mnist.train(model, x, y[:-1], epochs=1)
    assert signal.getsignal(signal.SIGINT) is before
