"""Ctrl-C: once to end the training with its results, twice to stop at once."""

import os
import signal
import subprocess
import sys
import threading

import keras
import pytest
from conftest import ENVIRONMENT, RESULT, SCRIPT, posix

import cnn_mnist


def default_ctrl_c():
    """A shell starts what it puts in the background with SIGINT ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def start(small_file, tmp_path):
    """A function that starts the program and returns it in its third epoch."""
    processes = []

    def start(code=None, **options):
        flags = ["--data", small_file, "--epochs", "300"]
        flags += ["--save-model", tmp_path / "m.keras", "--plot", tmp_path / "p.png"]
        program = [SCRIPT] if code is None else ["-c", code]
        options = {"stderr": subprocess.PIPE, "preexec_fn": default_ctrl_c} | options
        process = subprocess.Popen(
            [sys.executable, *program, *flags],
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            **options,
        )
        processes.append(process)
        for line in process.stdout:
            if line.startswith("Epoch 3"):
                return process
        raise AssertionError(process.stderr.read())

    yield start
    for process in processes:
        process.kill()
        process.wait()


@posix
def test_ctrl_c_ends_the_training_with_its_results(start, tmp_path):
    process = start()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert process.returncode == 130
    assert RESULT.search(out)
    assert err == ""
    assert keras.saving.load_model(tmp_path / "m.keras").optimizer.iterations >= 18
    assert sorted(os.listdir(tmp_path)) == ["m.keras", "p.png"]


@posix
def test_ctrl_c_that_ends_tee_too(start, tmp_path):
    """As in `2>&1 | tee log`: nobody reads on, but the files are written."""
    process = start(stderr=subprocess.STDOUT)
    process.stdout.close()
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130
    assert sorted(os.listdir(tmp_path)) == ["m.keras", "p.png"]


# A second Ctrl-C while the model is saved, after the first one.
TWICE = f"""
import os, runpy, signal, sys
import keras
save = keras.Model.save
def save_and_press(model, path):
    if model.optimizer.iterations > 18:
        path.write_text("half of the n")
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
    save(model, path)
keras.Model.save = save_and_press
runpy.run_path({str(SCRIPT)!r}, run_name="__main__")
"""


@posix
def test_a_second_ctrl_c_stops_at_once(start, tmp_path):
    process = start(TWICE)
    out, err = process.communicate()
    assert process.returncode == 130
    assert "Test" not in out
    assert "Traceback" not in err
    assert os.listdir(tmp_path) == ["m.keras"]
    assert keras.saving.load_model(tmp_path / "m.keras").optimizer.iterations == 18


@pytest.fixture
def train_with_ctrl_c(small_file):
    """A function that trains with Ctrl-C pressed in the fourth of 9 steps."""
    data = cnn_mnist.load_data(small_file)[0]

    def train():
        model = cnn_mnist.build_model()
        press = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs: (
                signal.raise_signal(signal.SIGINT) if batch == 3 else None
            )
        )
        ctrl_c = cnn_mnist.CtrlC()
        cnn_mnist.train(model, *data, epochs=2, callbacks=[ctrl_c, press])
        return ctrl_c.pressed, int(model.optimizer.iterations)

    return train


def test_the_step_is_finished_and_the_rest_left_out(train_with_ctrl_c):
    before = signal.getsignal(signal.SIGINT)
    assert train_with_ctrl_c() == (True, 4)
    assert signal.getsignal(signal.SIGINT) is before


def test_an_ignored_ctrl_c_stays_ignored(train_with_ctrl_c):
    """As for a program that a shell script has put in the background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert train_with_ctrl_c() == (False, 18)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_run_outside_the_main_thread(run, small_file):
    done = []
    thread = threading.Thread(
        target=lambda: done.append(run("--data", small_file, "--epochs", 1))
    )
    thread.start()
    thread.join()
    assert done[0].status == 0


def test_a_write_that_fails_after_ctrl_c(run, small_file, tmp_path, monkeypatch):
    """The status says that something is missing, rather than that it was interrupted."""
    pressed = []

    def save(model, path):
        if not pressed:
            pressed.append(signal.raise_signal(signal.SIGINT))
        raise OSError(28, "No space left on device")

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(keras.Model, "save", save)
    path = tmp_path / "model.keras"
    try:
        done = run("--data", small_file, "--epochs", 5, "--save-model", path)
    finally:
        signal.signal(signal.SIGINT, before)
    assert done.status == 1
    assert "Epoch 2/" not in done.out
    assert RESULT.search(done.out)
