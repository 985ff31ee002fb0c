"""Saving and loading models: never a part of one, never a lost run."""

import io
import os
import shutil
import signal

import keras
import numpy as np
import pytest
from conftest import RESULT, posix
from keras.layers import Dense, Flatten, Lambda

import cnn_mnist


def test_the_model_is_saved_after_every_epoch_and_at_the_end(
    run, small_file, tmp_path, monkeypatch
):
    """At the end, EarlyStopping has brought back the weights of the first epoch."""
    path = tmp_path / "model.keras"
    save, train, saved = cnn_mnist.save, cnn_mnist.train, []

    def save_and_load(*args):
        done = save(*args)
        saved.append(keras.saving.load_model(path))
        return done

    def train_badly(*args, callbacks):
        early = keras.callbacks.EarlyStopping(
            monitor="loss", mode="max", patience=1, restore_best_weights=True
        )
        return train(*args, callbacks=[*callbacks, early])

    monkeypatch.setattr(cnn_mnist, "save", save_and_load)
    monkeypatch.setattr(cnn_mnist, "train", train_badly)
    done = run("--data", small_file, "--epochs", 3, "--save-model", path)
    assert done.status == 0  # it was no Ctrl-C
    assert [int(model.optimizer.iterations) for model in saved] == [9, 18, 18]
    first, second, last = (model.get_weights() for model in saved)
    assert all(map(np.array_equal, last, first))
    assert not any(map(np.array_equal, last, second))
    assert os.listdir(tmp_path) == ["model.keras"]


def test_a_run_repeats_itself_bit_for_bit(run, small_file, saved, tmp_path):
    """Also one that writes a page and a figure, which `saved` did not."""
    path = tmp_path / "model.keras"
    flags = ["--data", small_file, "--epochs", 2, "--save-model", path]
    flags += ["--page", tmp_path / "mine.html", "--plot", tmp_path / "plot.png"]
    assert run(*flags).status == 0
    first, again = (keras.saving.load_model(file) for file in (saved, path))
    assert all(map(np.array_equal, first.get_weights(), again.get_weights()))


def test_training_goes_on_where_it_was_saved(run, small_file, saved, tmp_path):
    """With the state of the optimizer, in one file that is loaded and saved over."""
    path = shutil.copy(saved, tmp_path)
    flags = ("--load-model", path, "--save-model", path, "--epochs", 1)
    assert run("--data", small_file, *flags).status == 0
    assert keras.saving.load_model(path).optimizer.iterations == 27


# --- Models that cannot be used -----------------------------------------------


def model_of(*layers, compiled=True):
    """A function that saves a model of these layers."""

    def write(path):
        model = keras.Sequential(layers)
        if compiled:
            model.compile("sgd", "categorical_crossentropy")
        model.save(path)

    return write


IMAGES = keras.Input((28, 28, 1))
BAD_MODELS = {
    "missing": lambda path: None,
    "other images": model_of(keras.Input((32, 32, 1)), Flatten(), Dense(10)),
    "26 classes": model_of(IMAGES, Flatten(), Dense(26)),
    "not compiled": model_of(IMAGES, Flatten(), Dense(10), compiled=False),
    "not built": model_of(Flatten(), Dense(10)),
    # Code in a model's file, which Keras's safe mode does not run.
    "code": model_of(IMAGES, Flatten(), Lambda(lambda x: x), Dense(10)),
}


@pytest.mark.filterwarnings("ignore:You are saving a model that has not yet been built")
@pytest.mark.parametrize("case", BAD_MODELS)
def test_an_unusable_model_is_named_in_one_line(case, run, small_file, tmp_path):
    path = tmp_path / "bad.keras"
    BAD_MODELS[case](path)
    done = run("--data", small_file, "--load-model", path)
    assert (done.status, done.out, done.err.count("\n")) == (2, "", 1)
    assert done.err.startswith("cnn_mnist.py: error: ")
    assert str(path) in done.err


# --- Paths that cannot be written ---------------------------------------------


@pytest.mark.parametrize(
    ("flag", "name"),
    [
        ("--save-model", "model.h5"),
        ("--save-model", "folder.keras"),
        ("--save-model", "nowhere/model.keras"),
        ("--save-model", "/proc/model.keras"),  # on Linux not even root may do this
        ("--plot", "plot.jpg"),
        ("--page", "page.htm"),
    ],
)
def test_a_wrong_path_is_answered_before_training(
    run, small_file, tmp_path, flag, name
):
    """A file that is there already, and is checked first, stays as it is."""
    old, path = tmp_path / "old.keras", tmp_path / name
    old.write_text("a model")
    (tmp_path / "folder.keras").mkdir()
    flags = ("--epochs", 0, "--save-model", old, flag, path)
    done = run("--data", small_file, *flags)
    assert (done.status, done.out, done.err.count("\n")) == (2, "", 1)
    assert str(path) in done.err or f"folder {path.parent}:" in done.err
    assert sorted(os.listdir(tmp_path)) == ["folder.keras", "old.keras"]
    assert old.read_text() == "a model"


# --- Writes that fail, mistakes, and runs that are killed ---------------------


@posix
def test_a_write_that_fails_costs_neither_the_run_nor_the_old_model(
    run, small_file, tmp_path
):
    import resource

    path, page = tmp_path / "model.keras", tmp_path / "mine.html"
    path.write_text("a model")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))  # bytes in a file
    flags = ("--save-model", path, "--page", page)
    try:
        done = run("--data", small_file, "--epochs", 1, *flags)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert done.status == 1
    assert RESULT.search(done.out)
    assert done.err.count(f"cannot write {path}: ") == 2
    assert done.err.count(f"cannot write {page}: ") == 1
    assert path.read_text() == "a model"
    assert os.listdir(tmp_path) == ["model.keras"]


@posix
def test_a_link_stays_a_link(tmp_path):
    link, path = tmp_path / "link.keras", tmp_path / "model.keras"
    link.symlink_to(path)
    assert cnn_mnist.save(link, lambda file: file.write_text("a model"))
    assert link.is_symlink()
    assert path.read_text() == "a model"


@posix
@pytest.mark.parametrize(
    ("end", "status", "left"),
    [
        (lambda: os._exit(9), 9, 1),  # what is left is hidden
        (lambda: cnn_mnist.exit_at_once(signal.SIGINT, None), 130, 0),
    ],
    ids=["a kill", "Ctrl-C"],
)
def test_an_end_in_the_middle_of_a_write_leaves_the_old_file(
    end, status, left, tmp_path
):
    path = tmp_path / "model.keras"
    path.write_text("the old file")

    def write(part):
        part.write_text("half of the n")
        end()

    child = os.fork()
    if not child:
        try:
            cnn_mnist.save(path, write)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == status
    assert path.read_text() == "the old file"
    others = set(os.listdir(tmp_path)) - {path.name}
    assert [name[0] for name in others] == ["."] * left


@pytest.mark.parametrize(
    "function", ["check_images", "build_model", "describe", "evaluate", "draw"]
)
def test_a_mistake_in_the_script_keeps_its_traceback(
    function, small_file, tmp_path, monkeypatch
):
    """Its error is a ValueError and an OSError, which the script handles elsewhere."""

    def mistake(*args):
        raise io.UnsupportedOperation("a mistake")

    monkeypatch.setattr(cnn_mnist, function, mistake)
    flags = ["--data", small_file, "--epochs", "0"]
    flags += ["--plot", f"{tmp_path}/plot.png", "--page", f"{tmp_path}/page.html"]
    with pytest.raises(io.UnsupportedOperation):
        cnn_mnist.main(flags)
    assert os.listdir(tmp_path) == []


def test_a_mistake_while_a_file_is_written_is_no_full_disk(
    run, small_file, tmp_path, monkeypatch
):
    def save(model, path):
        path.write_text("half of it")
        raise KeyError("a mistake")

    monkeypatch.setattr(keras.Model, "save", save)
    with pytest.raises(KeyError, match="a mistake"):
        run("--data", small_file, "--epochs", 0, "--save-model", tmp_path / "m.keras")
    assert os.listdir(tmp_path) == []
