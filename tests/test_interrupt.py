"""Ctrl-C: once to end the training with its results, twice to stop at once.

And a reader of the output who leaves.
"""

import os
import signal
import subprocess
import sys
import threading

import keras
import pytest
from conftest import ENVIRONMENT, RESULT, SCRIPT, posix

import cnn_mnist


@pytest.fixture
def start(small_file, tmp_path):
    """A function that starts the program and returns it in its third epoch."""
    processes = []

    def start(stderr):
        flags = ["--data", small_file, "--epochs", "300"]
        flags += ["--save-model", tmp_path / "m.keras", "--plot", tmp_path / "p.png"]
        process = subprocess.Popen(
            [sys.executable, SCRIPT, *flags],
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            encoding="utf-8",
        )
        processes.append(process)
        for line in process.stdout:
            if line.startswith("Epoch 3"):
                return process
        raise AssertionError(process.communicate())

    yield start
    for process in processes:
        process.kill()
        process.wait()


@posix
def test_ctrl_c_ends_the_training_with_its_results(start, tmp_path):
    process = start(stderr=subprocess.PIPE)
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


@posix
def test_a_closed_pipe_ends_the_program_quietly(start):
    """As with `| head`: what is printed next finds nobody who reads it."""
    process = start(stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 1


@pytest.fixture
def train_with_ctrl_c(small_file):
    """A function that trains with Ctrl-C pressed twice in the fourth of 9 steps.

    `handler` handles Ctrl-C before and after that.
    """
    data = cnn_mnist.load_data(small_file)[0]

    def press_twice(batch, logs):
        if batch == 3:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    def train(handler):
        model = cnn_mnist.build_model()
        press = keras.callbacks.LambdaCallback(on_train_batch_end=press_twice)
        ctrl_c = cnn_mnist.CtrlC()
        before = signal.signal(signal.SIGINT, handler)
        try:
            cnn_mnist.train(model, *data, epochs=2, callbacks=[ctrl_c, press])
        finally:
            after = signal.signal(signal.SIGINT, before)
        assert after is handler
        return ctrl_c.pressed, int(model.optimizer.iterations)

    return train


def test_the_step_is_finished_and_the_rest_left_out(train_with_ctrl_c):
    """The second Ctrl-C is handled as before: in the program, by `exit_at_once`."""
    handled = []
    assert train_with_ctrl_c(lambda *args: handled.append(args)) == (True, 4)
    assert len(handled) == 1


def test_an_ignored_ctrl_c_stays_ignored(train_with_ctrl_c):
    """As for a program that a shell script has put in the background."""
    assert train_with_ctrl_c(signal.SIG_IGN) == (False, 18)


def test_a_run_outside_the_main_thread(run, small_file):
    done = []
    thread = threading.Thread(
        target=lambda: done.append(run("--data", small_file, "--epochs", 0))
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

    monkeypatch.setattr(keras.Model, "save", save)
    path = tmp_path / "model.keras"
    done = run("--data", small_file, "--epochs", 5, "--save-model", path)
    assert done.status == 1
    assert "Epoch 2/" not in done.out
    assert RESULT.search(done.out)
