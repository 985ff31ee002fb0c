"""Ctrl-C: once to end the training with its results, twice to stop at once."""

import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
from conftest import RESULT, SCRIPT

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


def test_ctrl_c_ends_the_training_with_its_results(started, tmp_path):
    interrupt(started)
    out, err = started.communicate()
    assert started.returncode == 130
    assert RESULT.search(out)
    assert "Traceback" not in err
    assert keras.saving.load_model(tmp_path / "m.keras").optimizer.iterations >= 18
    assert (tmp_path / "p.png").exists()


def test_a_second_ctrl_c_stops_at_once(started, tmp_path):
    interrupt(started)
    started.send_signal(signal.SIGINT)
    out, err = started.communicate()
    assert started.returncode == 130
    assert "Test" not in out
    assert "Traceback" not in err
    assert not (tmp_path / "p.png").exists()
    assert not list(tmp_path.glob(".m.*"))


def test_the_step_is_finished_and_the_rest_left_out(small_file, capsys):
    (x, y), _ = cnn_mnist.load_data(small_file)
    model = cnn_mnist.build_model()
    press = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: (
            signal.raise_signal(signal.SIGINT) if batch == 3 else None
        )
    )
    before = signal.getsignal(signal.SIGINT)
    history = cnn_mnist.train(model, x, y, epochs=5, callbacks=[press])
    assert model.stop_training
    assert model.optimizer.iterations == 4
    assert {name: len(values) for name, values in history.items()} == dict.fromkeys(
        ("loss", "accuracy", "val_loss", "val_accuracy"), 1
    )
    assert signal.getsignal(signal.SIGINT) is before
    assert "Interrupted" in capsys.readouterr().err


def test_a_failed_write_outweighs_the_interruption(
    run, small_file, tmp_path, monkeypatch
):
    def replace_file(*args):
        signal.raise_signal(signal.SIGINT)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cnn_mnist, "replace_file", replace_file)
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
