"""Saving and loading models: never a part of one, never a lost run."""

import os

import keras
import numpy as np
import pytest
from conftest import RESULT, posix

import cnn_mnist


def steps_taken(path):
    return int(keras.saving.load_model(path).optimizer.iterations)


def test_the_model_is_saved_after_every_epoch(run, small_file, tmp_path, monkeypatch):
    """And once more when all is done."""
    path = tmp_path / "model.keras"
    save, steps = cnn_mnist.save, []

    def recorded(*args):
        steps.append(save(*args) and steps_taken(path))
        return steps[-1]

    monkeypatch.setattr(cnn_mnist, "save", recorded)
    done = run("--data", small_file, "--epochs", 3, "--save-model", path)
    assert done.status == 0
    assert steps == [9, 18, 27, 27]
    assert os.listdir(tmp_path) == ["model.keras"]


def test_training_goes_on_where_it_was_saved(run, small_file, tmp_path):
    """In one file, which is loaded and saved over, with the state of the optimizer."""
    path = tmp_path / "model.keras"
    flags = ("--data", small_file, "--save-model", path)
    done = run(*flags, "--epochs", 2)
    again = run(*flags, "--load-model", path, "--epochs", 0)
    assert again.status == 0
    assert RESULT.search(again.out).groups() == RESULT.search(done.out).groups()
    assert run(*flags, "--load-model", path, "--epochs", 1).status == 0
    assert steps_taken(path) == 27


def test_a_run_repeats_itself_bit_for_bit(run, small_file, tmp_path):
    """Also one that writes a page and a figure."""
    weights = []
    path = tmp_path / "model.keras"
    flags = ["--data", small_file, "--epochs", 1, "--save-model", path]
    more = ["--page", tmp_path / "mine.html", "--plot", tmp_path / "plot.png"]
    for seed, files in ((3, []), (3, more), (4, [])):
        assert run(*flags, "--seed", seed, *files).status == 0
        weights.append(keras.saving.load_model(path).get_weights())
    first, again, other = weights
    assert all(map(np.array_equal, first, again))
    assert not any(map(np.array_equal, first, other))


def test_what_early_stopping_brings_back_is_saved(
    run, small_file, tmp_path, monkeypatch
):
    """It restores the best weights after the last epoch's save. It is no Ctrl-C."""
    train, best = cnn_mnist.train, []

    def train_badly(model, x, y, batch_size, epochs, callbacks):
        early = keras.callbacks.EarlyStopping(
            monitor="loss", mode="max", patience=1, restore_best_weights=True
        )
        history = train(model, x, y, batch_size, epochs, [*callbacks, early])
        best.extend(model.get_weights())
        return history

    monkeypatch.setattr(cnn_mnist, "train", train_badly)
    path = tmp_path / "model.keras"
    done = run("--data", small_file, "--epochs", 3, "--save-model", path)
    assert done.status == 0
    assert "Epoch 3/" not in done.out
    saved = keras.saving.load_model(path).get_weights()
    assert all(map(np.array_equal, saved, best))


# --- Models that cannot be used -----------------------------------------------


def network(classes=10, shape=(28, 28, 1), layer=None):
    stack = [layer] if layer else []
    last = keras.layers.Dense(classes, activation="softmax")
    return keras.Sequential([keras.Input(shape), keras.layers.Flatten(), *stack, last])


def compiled(**options):
    model = network(**options)
    model.compile(loss="categorical_crossentropy")
    return model


def unbuilt():
    model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(10)])
    model.compile(loss="categorical_crossentropy")
    return model


BAD_MODELS = {
    "missing": lambda path: None,
    "text": lambda path: path.write_text("a model"),
    "other images": lambda path: compiled(shape=(32, 32, 1)).save(path),
    "26 classes": lambda path: compiled(classes=26).save(path),
    "not compiled": lambda path: network().save(path),
    "not built": lambda path: unbuilt().save(path),
    # Code in a model's file, which Keras's safe mode does not run.
    "code": lambda path: compiled(layer=keras.layers.Lambda(lambda x: x)).save(path),
}


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
        ("--save-model", "nowhere/model.keras"),
        ("--save-model", "file/model.keras"),
        ("--save-model", "folder.keras"),
        ("--plot", "plot.jpg"),
        ("--plot", "nowhere/plot.png"),
        ("--page", "page.htm"),
        ("--page", "nowhere/page.html"),
    ],
)
def test_a_wrong_path_is_answered_before_training(
    run, small_file, tmp_path, flag, name
):
    (tmp_path / "file").touch()
    (tmp_path / "folder.keras").mkdir()
    before = sorted(os.listdir(tmp_path))
    path = tmp_path / name
    done = run("--data", small_file, "--epochs", 0, flag, path)
    assert (done.status, done.out, done.err.count("\n")) == (2, "", 1)
    assert str(path) in done.err or f"folder {path.parent}:" in done.err
    assert sorted(os.listdir(tmp_path)) == before


@posix
@pytest.mark.skipif(os.geteuid() == 0, reason="no permission stops root")
def test_a_read_only_folder_is_answered_before_training(run, small_file, tmp_path):
    tmp_path.chmod(0o500)
    done = run("--data", small_file, "--save-model", tmp_path / "model.keras")
    tmp_path.chmod(0o700)
    assert (done.status, done.out, done.err.count("\n")) == (2, "", 1)


def test_the_check_leaves_an_existing_file_as_it_is(run, small_file, saved, tmp_path):
    path = tmp_path / "model.keras"
    path.write_bytes(saved.read_bytes())
    plot = tmp_path / "nowhere" / "plot.png"  # is checked after the model's file
    done = run("--data", small_file, "--save-model", path, "--plot", plot)
    assert done.status == 2
    assert path.read_bytes() == saved.read_bytes()
    assert os.listdir(tmp_path) == ["model.keras"]


# --- Writes that fail, and runs that are killed -------------------------------


@posix
def test_a_write_that_fails_costs_neither_the_run_nor_the_old_model(
    run, small_file, saved, tmp_path
):
    import resource

    path, page = tmp_path / "model.keras", tmp_path / "mine.html"
    path.write_bytes(saved.read_bytes())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))  # bytes in a file
    flags = ("--save-model", path, "--page", page)
    try:
        done = run("--data", small_file, "--epochs", 2, *flags)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert done.status == 1
    assert RESULT.search(done.out)
    assert done.err.count(f"cannot write {path}: ") == 3
    assert done.err.count(f"cannot write {page}: ") == 1
    assert path.read_bytes() == saved.read_bytes()
    assert os.listdir(tmp_path) == ["model.keras"]


@posix
def test_a_link_stays_a_link(tmp_path):
    link, path = tmp_path / "link.keras", tmp_path / "model.keras"
    link.symlink_to(path)
    assert cnn_mnist.save(link, lambda file: file.write_text("a model"))
    assert link.is_symlink()
    assert path.read_text() == "a model"


@posix
def test_a_kill_in_the_middle_of_a_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "model.keras"
    path.write_text("the old file")

    def write(part):
        part.write_text("half of the n")
        os._exit(9)

    child = os.fork()
    if not child:
        cnn_mnist.save(path, write)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 9
    assert path.read_text() == "the old file"
    # What is left is hidden.
    assert [name for name in os.listdir(tmp_path) if name[0] != "."] == [path.name]
