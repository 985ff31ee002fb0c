"""Saving and loading models: never a part of one, never a lost run."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import RESULT, TOP, posix

import cnn_mnist


def steps_taken(path):
    return int(keras.saving.load_model(path).optimizer.iterations)


def test_the_model_is_saved_after_every_epoch(run, small_file, tmp_path, monkeypatch):
    """And once more when all is done: without epochs, or if the weights changed since."""
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


def test_a_loaded_model_prints_the_results_it_was_saved_with(run, small_file, tmp_path):
    path = tmp_path / "model.keras"
    done = run("--data", small_file, "--epochs", 2, "--save-model", path)
    again = run("--data", small_file, "--epochs", 0, "--load-model", path)
    assert again.status == 0
    assert RESULT.search(again.out).groups() == RESULT.search(done.out).groups()


def test_training_goes_on_where_it_was_saved(run, small_file, saved, tmp_path):
    path = tmp_path / "more.keras"
    flags = ("--load-model", saved, "--save-model", path, "--epochs", 1)
    done = run("--data", small_file, *flags)
    assert done.status == 0
    assert steps_taken(saved) == 18
    assert steps_taken(path) == 27
    old, new = (keras.saving.load_model(p).optimizer for p in (saved, path))
    assert any(np.any(variable.numpy()) for variable in old.variables[2:])
    assert len(old.variables) == len(new.variables)


@pytest.mark.parametrize("flags", [(), ("--load-model", "{saved}")], ids=str)
def test_a_run_repeats_itself_bit_for_bit(run, small_file, saved, tmp_path, flags):
    """Also one that goes on, though the saved file holds no state of dropout."""
    weights = []
    flags = [flag.format(saved=saved) for flag in flags]
    for seed in (3, 3, 4):
        path = tmp_path / "model.keras"
        more = ("--epochs", 1, "--seed", seed, "--save-model", path)
        assert run("--data", small_file, *flags, *more).status == 0
        weights.append(keras.saving.load_model(path).get_weights())
    first, again, other = weights
    assert all(map(np.array_equal, first, again))
    assert not any(map(np.array_equal, first, other))


def test_loading_a_model_leaves_the_random_numbers_alone(saved):
    np.random.seed(5)
    expected = np.random.random(3)
    np.random.seed(5)
    cnn_mnist.load_model(saved)
    assert np.array_equal(np.random.random(3), expected)


def test_a_model_can_be_loaded_and_saved_in_one_file(run, small_file, tmp_path):
    path = tmp_path / "model.keras"
    for _ in range(2):
        flags = ("--load-model", path) if path.exists() else ()
        done = run("--data", small_file, "--epochs", 1, *flags, "--save-model", path)
        assert done.status == 0
    assert steps_taken(path) == 18


def test_without_epochs_the_model_is_saved_once(run, small_file, saved, tmp_path):
    path = tmp_path / "copy.keras"
    flags = ("--load-model", saved, "--save-model", path, "--epochs", 0)
    assert run("--data", small_file, *flags).status == 0
    assert steps_taken(path) == 18


def test_the_last_tenth_was_held_out(small, run, tmp_path):
    """Wrong labels there cost the validation, not the training."""
    labels = small["y_train"].copy()
    labels[1152:] = (labels[1152:] + 1) % 10
    path, model_path = tmp_path / "wrong.npz", tmp_path / "model.keras"
    np.savez(path, **small | {"y_train": labels})
    done = run("--data", path, "--epochs", 4, "--save-model", model_path)
    assert done.status == 0
    model = keras.saving.load_model(model_path)
    (x, y), _ = cnn_mnist.load_data(path)
    assert model.evaluate(x[:1152], y[:1152], verbose=0)[1] > 0.7
    loss, accuracy = model.evaluate(x[1152:], y[1152:], verbose=0)
    assert accuracy < 0.2
    assert f" - val_accuracy: {accuracy:.4f} - val_loss: {loss:.4f}\n" in done.out


# --- Models that cannot be used -----------------------------------------------


def text(path):
    path.write_text("a model")


def zip_of_something_else(path):
    np.savez(path.with_suffix(".npz"), weights=np.zeros(3))
    path.with_suffix(".npz").rename(path)


def cut_short(path):
    cnn_mnist.build_model().save(path)
    path.write_bytes(path.read_bytes()[:-100])


def saved_network(*layers, **compile):
    def write(path):
        model = keras.Sequential(layers)
        if compile:
            model.compile(**compile)
        model.save(path)

    return write


IMAGES = (keras.Input((28, 28, 1)), keras.layers.Flatten())
PROBABILITIES = keras.layers.Dense(10, activation="softmax")
COMPILE = {"loss": "categorical_crossentropy", "metrics": ["accuracy"]}
BAD_MODELS = {
    "missing": (lambda path: None, "No such file or directory"),
    "folder": (lambda path: path.mkdir(), "Is a directory"),
    "text": (text, "not a zip file"),
    "another zip": (zip_of_something_else, "config.json"),
    "cut short": (cut_short, "not a zip file"),
    "other images": (
        saved_network(
            keras.Input((32, 32, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(10),
            **COMPILE,
        ),
        "maps (None, 32, 32, 1) to (None, 10), not (None, 28, 28, 1) to (None, 10)",
    ),
    "no channel axis": (
        saved_network(
            keras.Input((28, 28)),
            keras.layers.Flatten(),
            keras.layers.Dense(10),
            **COMPILE,
        ),
        "maps (None, 28, 28) to (None, 10), not",
    ),
    "26 classes": (
        saved_network(*IMAGES, keras.layers.Dense(26), **COMPILE),
        "maps (None, 28, 28, 1) to (None, 26), not",
    ),
    "not compiled": (saved_network(*IMAGES, PROBABILITIES), "compile()"),
    "labels that are no rows": (
        saved_network(*IMAGES, PROBABILITIES, loss="sparse_categorical_crossentropy"),
        "one-hot labels",
    ),
    "no loss": (saved_network(*IMAGES, PROBABILITIES, metrics=["accuracy"]), "No loss"),
    "scores, no probabilities": (
        saved_network(
            *IMAGES,
            keras.layers.Dense(10),
            loss=keras.losses.CategoricalCrossentropy(from_logits=True),
        ),
        "not probabilities",
    ),
    "each probability for itself": (
        saved_network(
            *IMAGES,
            keras.layers.Dense(10, activation="sigmoid"),
            loss="binary_crossentropy",
        ),
        "not probabilities",
    ),
    "weights that are no numbers": (
        saved_network(
            *IMAGES,
            keras.layers.Dense(
                10,
                activation="softmax",
                bias_initializer=keras.initializers.Constant(np.nan),
            ),
            **COMPILE,
        ),
        "not probabilities",
    ),
}


@pytest.mark.parametrize("case", BAD_MODELS)
def test_an_unusable_model_is_named_in_one_line(case, run, small_file, tmp_path):
    write, message = BAD_MODELS[case]
    path = tmp_path / "bad.keras"
    write(path)
    done = run("--data", small_file, "--load-model", path)
    assert done.status == 2
    assert done.out == ""
    assert done.err.startswith(f"cnn_mnist.py: error: cannot read {path}: ")
    assert message in done.err
    assert done.err.count("\n") == 1


def test_a_foreign_model_is_answered_without_warnings(run, small_file, tmp_path):
    path = tmp_path / "other.keras"
    model = keras.Sequential([*IMAGES, keras.layers.Dense(26)])
    model.compile(**COMPILE, optimizer="adam")
    model.build((None, 28, 28, 1))
    model.save(path)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        keras.saving.load_model(path)
        assert any("Skipping variable loading" in str(w.message) for w in found)
        found.clear()
        done = run("--data", small_file, "--load-model", path)
    assert done.status == 2
    assert not found


def test_a_missing_model_is_answered_before_keras_is_loaded(small_file):
    code = (
        "import sys, cnn_mnist\n"
        f"flags = ['--data', {small_file!r}, '--load-model', 'nowhere.keras']\n"
        "assert cnn_mnist.main(flags) == 2\n"
        "print('keras' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=TOP,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "False\n"


def test_an_empty_name_of_a_model_is_not_ignored(run, small_file):
    done = run("--data", small_file, "--load-model", "")
    assert (done.status, done.out) == (2, "")
    assert "cannot read" in done.err


# --- Paths that cannot be written ---------------------------------------------


@pytest.mark.parametrize(
    ("flag", "name", "message"),
    [
        ("--save-model", "model.h5", "must end in .keras"),
        ("--save-model", "model.KERAS", "must end in .keras"),
        ("--save-model", "loop.keras", "Too many levels of symbolic links"),
        ("--save-model", "nowhere/model.keras", "No such file or directory"),
        ("--save-model", "file/model.keras", "Not a directory"),
        ("--save-model", "folder.keras", "Is a directory"),
        ("--plot", "plot.jpg", "must end in .png .svg .pdf"),
        ("--plot", "nowhere/plot.png", "No such file or directory"),
        ("--plot", "folder.png", "Is a directory"),
        ("--page", "page.htm", "must end in .html"),
        ("--page", "nowhere/page.html", "No such file or directory"),
    ],
)
def test_a_wrong_path_is_answered_before_training(run, tmp_path, flag, name, message):
    (tmp_path / "file").touch()
    (tmp_path / "folder.keras").mkdir()
    (tmp_path / "folder.png").mkdir()
    if "loop" in name:
        (tmp_path / name).symlink_to(name)
    before = sorted(os.listdir(tmp_path))
    done = run(flag, tmp_path / name)
    assert (done.status, done.out) == (2, "")
    assert done.err.splitlines()[-1].startswith("cnn_mnist.py: error: cannot write ")
    assert str(tmp_path / name) in done.err
    assert message in done.err
    assert sorted(os.listdir(tmp_path)) == before


@posix
def test_a_read_only_folder_is_answered_before_training(run, tmp_path, monkeypatch):
    tmp_path.chmod(0o500)
    if os.geteuid() == 0:  # whom no permission stops

        def mkdir(path, mode=0o777):
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr(os, "mkdir", mkdir)
    done = run("--save-model", tmp_path / "model.keras")
    tmp_path.chmod(0o700)
    assert (done.status, done.out) == (2, "")
    assert "Permission denied" in done.err


def test_the_check_leaves_an_existing_file_as_it_is(run, saved, tmp_path):
    path = tmp_path / "model.keras"
    path.write_bytes(saved.read_bytes())
    done = run("--save-model", path, "--data", "nowhere.npz")
    assert done.status == 2
    assert path.read_bytes() == saved.read_bytes()
    assert os.listdir(tmp_path) == ["model.keras"]


# --- Writes that fail, and runs that are killed -------------------------------


@posix
def test_a_write_that_fails_costs_neither_the_run_nor_the_old_model(
    run, small_file, saved, tmp_path
):
    import resource

    path, plot = tmp_path / "model.keras", tmp_path / "plot.png"
    path.write_bytes(saved.read_bytes())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))  # bytes in a file
    flags = ("--save-model", path, "--plot", plot)
    try:
        done = run("--data", small_file, "--epochs", 2, *flags)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert done.status == 1
    assert RESULT.search(done.out)
    assert done.err.count(f"\ncannot write {path}: File too large") == 3
    assert done.err.count(f"\ncannot write {plot}: File too large") == 1
    assert path.read_bytes() == saved.read_bytes()
    assert os.listdir(tmp_path) == ["model.keras"]


def test_a_write_that_fails_is_tried_again(run, small_file, tmp_path, monkeypatch):
    path = tmp_path / "model.keras"
    save, calls = keras.Model.save, []

    def fails_once(model, part):
        calls.append(part)
        if len(calls) == 1:
            raise OSError(28, "No space left on device")
        save(model, part)

    monkeypatch.setattr(keras.Model, "save", fails_once)
    done = run("--data", small_file, "--epochs", 2, "--save-model", path)
    assert done.status == 0
    assert f"\ncannot write {path}: No space left on device\n" in done.err
    assert steps_taken(path) == 18
    assert os.listdir(tmp_path) == ["model.keras"]


def test_a_mistake_in_what_is_written_is_no_full_disk(tmp_path):
    def write(part):
        raise KeyError("of whoever changed it")

    with pytest.raises(KeyError):
        cnn_mnist.save(tmp_path / "model.keras", write)
    assert os.listdir(tmp_path) == []


def test_a_lost_folder_does_not_cost_the_run(run, small_file, tmp_path, monkeypatch):
    folder, train = tmp_path / "folder", cnn_mnist.train
    folder.mkdir()

    def train_without_folder(*args):
        folder.rmdir()
        return train(*args)

    monkeypatch.setattr(cnn_mnist, "train", train_without_folder)
    path = folder / "model.keras"
    done = run("--data", small_file, "--epochs", 1, "--save-model", path)
    assert done.status == 1
    assert RESULT.search(done.out)
    assert f"cannot write {path}: No such file or directory" in done.err


def test_two_runs_write_to_files_of_their_own(tmp_path):
    """Or one would move into place what the other has only begun to write."""
    path, seen = tmp_path / "model.keras", []

    def write(part):
        seen.append(part)
        part.write_text("the first")
        if len(seen) == 1:
            assert cnn_mnist.save(path, write)
            assert path.read_text() == "the first"
            part.write_text("the second")

    assert cnn_mnist.save(path, write)
    assert path.read_text() == "the second"
    assert seen[0] != seen[1]
    # In folders of their own, beside the target, whose names are hidden.
    assert {part.parent.parent for part in seen} == {tmp_path}
    assert all(part.parent.name.startswith(".") for part in seen)
    assert os.listdir(tmp_path) == ["model.keras"]


@posix
def test_a_link_stays_a_link(run, small_file, tmp_path):
    folder, link = tmp_path / "folder", tmp_path / "link.keras"
    folder.mkdir()
    link.symlink_to(folder / "model.keras")
    assert run("--data", small_file, "--epochs", 1, "--save-model", link).status == 0
    assert link.is_symlink()
    assert steps_taken(folder / "model.keras") == 9


@posix
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664])
def test_a_file_that_is_saved_over_keeps_its_permissions(tmp_path, mode):
    path = tmp_path / "model.keras"
    path.touch()
    path.chmod(mode)
    assert cnn_mnist.save(path, lambda part: part.write_text("new"))
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == mode


def test_a_file_that_cannot_be_replaced_is_written_into(tmp_path, monkeypatch):
    """As one that Docker mounts by itself."""

    def replace(path, target):
        raise OSError(16, "Device or resource busy")

    path = tmp_path / "model.keras"
    path.write_text("a long old model")
    inode = path.stat().st_ino
    monkeypatch.setattr(Path, "replace", replace)
    assert cnn_mnist.save(path, lambda part: part.write_text("new"))
    assert path.read_text() == "new"
    assert path.stat().st_ino == inode
    assert os.listdir(tmp_path) == ["model.keras"]


def test_what_early_stopping_brings_back_is_saved(
    run, small_file, tmp_path, monkeypatch
):
    """It restores the best weights after the last epoch's save."""
    train, best = cnn_mnist.train, []

    def train_badly(model, x, y, batch_size, epochs, callbacks):
        early = keras.callbacks.EarlyStopping(
            monitor="loss", mode="max", patience=2, restore_best_weights=True
        )
        history = train(model, x, y, batch_size, epochs, [*callbacks, early])
        best.extend(model.get_weights())
        return history

    monkeypatch.setattr(cnn_mnist, "train", train_badly)
    path = tmp_path / "model.keras"
    assert run("--data", small_file, "--epochs", 3, "--save-model", path).status == 0
    saved = keras.saving.load_model(path).get_weights()
    assert all(map(np.array_equal, saved, best))


def test_a_kill_in_the_middle_of_a_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "model.keras"
    path.write_text("the old file")
    code = f"""
import os, pathlib, cnn_mnist
def write(part):
    part.write_text("half of the n")
    os._exit(9)
cnn_mnist.save(pathlib.Path({str(path)!r}), write)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=TOP, check=False)
    assert done.returncode == 9
    assert path.read_text() == "the old file"
    # What is left is hidden.
    assert [name for name in os.listdir(tmp_path) if name[0] != "."] == [path.name]


# --- Files that would be lost -------------------------------------------------


@pytest.mark.parametrize("flag", ["--data", "--predict"])
@pytest.mark.parametrize("spelling", ["the same", "another", "link", "hard link"])
def test_a_file_that_is_read_is_not_overwritten(run, tmp_path, flag, spelling):
    source, output = tmp_path / "seven.png", tmp_path / "seven.png"
    source.write_text("precious")
    if spelling == "another":
        output = Path(os.path.relpath(source))
    elif spelling != "the same":
        output = tmp_path / "out.png"
        output.symlink_to(source) if spelling == "link" else os.link(source, output)
    done = run(flag, source, "--plot", output)
    assert (done.status, done.out) == (2, "")
    assert f"{source}" in done.err.splitlines()[-1]
    assert source.read_text() == "precious"


# --- Models that carry code ---------------------------------------------------


def lambda_layer(mark, folder):
    """A layer of Python code, which is stored in the model's file."""

    def leave_mark(x):
        from pathlib import Path  # what else is stored with the code is not

        Path(mark).touch()
        return x[:, :10]

    return keras.layers.Lambda(leave_mark)


def saved_graph_layer(mark, folder):
    """A layer of TensorFlow's operations, which a folder holds."""
    import tensorflow as tf

    class Graph(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 784])])
        def serve(self, x):
            tf.io.write_file(mark, "")
            return x[:, :10]

    tf.saved_model.save(Graph(), folder, signatures=Graph().serve)
    return keras.layers.TFSMLayer(folder, call_endpoint="serve")


@pytest.mark.parametrize("layer", [lambda_layer, saved_graph_layer])
def test_of_a_model_that_carries_code_nothing_runs(run, small_file, tmp_path, layer):
    path, mark = tmp_path / "model.keras", tmp_path / "it ran"
    model = keras.Sequential([*IMAGES, layer(str(mark), str(tmp_path / "graph"))])
    model.compile(**COMPILE)
    model.save(path)
    model(np.zeros((1, 28, 28, 1)))
    mark.unlink()  # or it would leave no mark when it runs

    done = run("--data", small_file, "--load-model", path, "--epochs", 0)
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith(f"cnn_mnist.py: error: cannot read {path}: ")
    assert done.err.count("\n") == 1
    assert not mark.exists()
