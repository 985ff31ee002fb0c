"""Ctrl-C: once to end the training with its results, twice to stop at once."""

import os
import signal
import subprocess
import sys
import threading

import keras
import pytest
from conftest import ENVIRONMENT, RESULT, SCRIPT, STUB, posix

import cnn_mnist


@pytest.fixture
def start(small_file, tmp_path):
    """A function that starts the program and returns it in its third epoch."""
    processes = []

    def start(**env):
        flags = ["--data", small_file, "--epochs", "100000"]
        flags += ["--save-model", tmp_path / "m.keras", "--plot", tmp_path / "p.png"]
        process = subprocess.Popen(
            [sys.executable, SCRIPT, *flags],
            env=ENVIRONMENT | env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            # A shell starts what it puts in the background with SIGINT ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
        )
        processes.append(process)
        for line in process.stdout:
            if line.startswith("Epoch 3"):
                return process
        raise AssertionError(process.stderr.read())

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def interrupt(process):
    """Press Ctrl-C and wait for the answer."""
    process.send_signal(signal.SIGINT)
    for line in process.stderr:
        if "Ctrl-C again" in line:
            return
    raise AssertionError("no answer to Ctrl-C")


@posix
def test_ctrl_c_ends_the_training_with_its_results(start, tmp_path):
    process = start()
    interrupt(process)
    out, err = process.communicate()
    assert process.returncode == -signal.SIGINT
    assert RESULT.search(out)
    assert err == ""
    assert keras.saving.load_model(tmp_path / "m.keras").optimizer.iterations >= 18
    assert (tmp_path / "p.png").exists()


@posix
def test_a_second_ctrl_c_stops_at_once(start, tmp_path):
    process = start(PYTHONPATH=str(STUB), SLEEP="60")
    interrupt(process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert process.returncode == -signal.SIGINT
    assert "Test" not in out
    assert err == ""
    assert os.listdir(tmp_path) == ["m.keras"]


SAVE_WITH_CTRL_C = """
import os, pathlib, signal, sys, cnn_mnist
signal.signal(signal.SIGINT, {handler})
def write(part):
    part.write_text("half of the n")
    signal.raise_signal(signal.SIGINT)
    part.write_text("the new file")
cnn_mnist.save(pathlib.Path(sys.argv[1]), write)
print("it goes on")
"""


@posix
@pytest.mark.parametrize(
    ("handler", "status"),
    [
        ("signal.SIG_DFL", -signal.SIGINT),
        ("signal.default_int_handler", -signal.SIGINT),
        ("signal.SIG_IGN", 0),
    ],
)
def test_ctrl_c_while_a_file_is_written_waits_for_it(tmp_path, handler, status):
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            SAVE_WITH_CTRL_C.format(handler=handler),
            tmp_path / "a.txt",
        ],
        cwd=SCRIPT.parent,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == status
    assert done.stdout == ("" if status else "it goes on\n")
    assert (tmp_path / "a.txt").read_text() == "the new file"
    assert os.listdir(tmp_path) == ["a.txt"]


@posix
def test_two_ctrl_c_while_the_model_is_written_stop_at_once(start, tmp_path):
    """The second one, too, is only held back, and not lost."""
    process = start(PYTHONPATH=str(STUB), PRESSES="2")
    out, _ = process.communicate()
    assert process.returncode == -signal.SIGINT
    assert "Test" not in out
    assert os.listdir(tmp_path) == ["m.keras"]


@posix
def test_nobody_may_read_the_answer(start):
    """As after `2>&1 >log | tee err`: Ctrl-C ends tee, too."""
    process = start(PYTHONPATH=str(STUB))
    process.stderr.close()
    process.send_signal(signal.SIGINT)
    out = process.stdout.read()
    assert process.wait() == -signal.SIGINT
    assert RESULT.search(out)


@posix
def test_a_shell_s_loop_over_the_program_stops_as_well(small_file):
    """As for every program that ends by the signal, and not with a status of its own."""
    command = f"{sys.executable} {SCRIPT} --data {small_file} --epochs 1000"
    code = f"for i in 1 2; do {command}; done; echo the loop went on"
    shell = subprocess.Popen(
        ["bash", "-c", code],
        env=ENVIRONMENT | {"PYTHONPATH": str(STUB)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    for line in shell.stdout:
        if line.startswith("Epoch 1"):
            break
    os.killpg(shell.pid, signal.SIGINT)
    out, _ = shell.communicate()
    assert RESULT.search(out)
    assert "Epoch" not in out


@pytest.fixture
def data(small_file):
    return cnn_mnist.load_data(small_file)[0]


@pytest.fixture
def train_with_ctrl_c(data):
    """A function that trains with Ctrl-C pressed in the fourth of 9 steps."""

    def train():
        model = cnn_mnist.build_model()
        press = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs: (
                signal.raise_signal(signal.SIGINT) if batch == 3 else None
            )
        )
        with cnn_mnist.ctrl_c_stops_training() as ctrl_c:
            history = cnn_mnist.train(model, *data, epochs=2, callbacks=[ctrl_c, press])
        return model, ctrl_c, {name: len(values) for name, values in history.items()}

    return train


EACH = ("loss", "accuracy", "val_loss", "val_accuracy")


def test_the_step_is_finished_and_the_rest_left_out(train_with_ctrl_c, capsys):
    before = signal.getsignal(signal.SIGINT)
    model, ctrl_c, lengths = train_with_ctrl_c()
    assert ctrl_c.pressed
    assert model.optimizer.iterations == 4
    assert lengths == dict.fromkeys(EACH, 1)
    assert signal.getsignal(signal.SIGINT) is before
    assert "Ctrl-C again" in capsys.readouterr().err


def test_an_ignored_ctrl_c_stays_ignored(train_with_ctrl_c, capsys):
    """As for a program that a shell script has put in the background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        model, ctrl_c, _ = train_with_ctrl_c()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert not ctrl_c.pressed
    assert model.optimizer.iterations == 18
    assert capsys.readouterr().err == ""


def test_a_run_outside_the_main_thread(run, small_file):
    done = []
    thread = threading.Thread(
        target=lambda: done.append(run("--data", small_file, "--epochs", 1))
    )
    thread.start()
    thread.join()
    assert done[0].status == 0


def test_the_handler_is_put_back_after_a_failed_training(data):
    x, y = data
    before = signal.getsignal(signal.SIGINT)
    model = cnn_mnist.build_model()
    fail = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: 1 / 0)
    with (
        pytest.raises(ZeroDivisionError),
        cnn_mnist.ctrl_c_stops_training() as ctrl_c,
    ):
        cnn_mnist.train(model, x, y, epochs=1, callbacks=[ctrl_c, fail])
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    ("disk_is_full", "status"), [(False, 130), (True, 1)], ids=["saved", "not saved"]
)
def test_the_exit_status_after_ctrl_c(
    run, small_file, tmp_path, monkeypatch, disk_is_full, status
):
    pressed = []

    def save(model, path):
        if not pressed:
            pressed.append(signal.raise_signal(signal.SIGINT))
        if disk_is_full:
            raise OSError(28, "No space left on device")
        path.touch()

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(keras.Model, "save", save)
    path = tmp_path / "model.keras"
    try:
        done = run("--data", small_file, "--epochs", 5, "--save-model", path)
    finally:
        signal.signal(signal.SIGINT, before)
    assert done.status == status
    assert "Epoch 2/" not in done.out
    assert RESULT.search(done.out)


def test_early_stopping_is_no_interruption(run, small_file, monkeypatch):
    train = cnn_mnist.train

    def train_less(model, x, y, batch_size, epochs, callbacks):
        early = keras.callbacks.EarlyStopping(monitor="loss", min_delta=10, patience=0)
        return train(model, x, y, batch_size, epochs, [*callbacks, early])

    monkeypatch.setattr(cnn_mnist, "train", train_less)
    done = run("--data", small_file, "--epochs", 5)
    assert "Epoch 3/" not in done.out
    assert done.status == 0
