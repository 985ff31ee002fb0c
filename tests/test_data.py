"""mnist.npz, and what `load_data` makes of it and of files that are not right."""

import hashlib
import zipfile

import keras
import numpy as np
import pytest

import cnn_mnist

# The MD5 sums of the four original files, unpacked.
ORIGINAL_MD5 = {
    "x_train": "6bbc9ace898e44ae57da46a324031adb",
    "y_train": "a25bea736e30d166cdddb491f175f624",
    "x_test": "2646ac647ad5339dbf082846283269ea",
    "y_test": "27ae3e4e09519cfbb04c329615203637",
}


def as_idx(array):
    """The array in the original format: its type, its axes, their lengths, its values."""
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
    return header + array.tobytes()


def test_mnist_is_the_original(mnist):
    found = {name: hashlib.md5(as_idx(mnist[name])).hexdigest() for name in mnist}
    assert found == ORIGINAL_MD5


def test_load_data_on_mnist(mnist, tmp_path, monkeypatch):
    """The file beside the script, from anywhere, without a network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(keras.datasets.mnist, "load_data", None)
    train, test = cnn_mnist.load_data()
    for (x, y), part in ((train, "train"), (test, "test")):
        assert x.dtype == y.dtype == np.float32
        grey = mnist[f"x_{part}"].astype(np.float32)
        assert np.array_equal(x, grey[..., np.newaxis] / np.float32(255))
        assert np.array_equal(y, np.eye(10)[mnist[f"y_{part}"]])


def test_without_the_file_keras_fetches_the_data(small, monkeypatch, tmp_path):
    x_train, y_train, x_test, y_test = small.values()
    fetched = (x_train, y_train), (x_test, y_test)
    monkeypatch.setattr(cnn_mnist, "DATA", tmp_path / "mnist.npz")
    monkeypatch.setattr(keras.datasets.mnist, "load_data", lambda: fetched)
    for (x, y), (pixels, labels) in zip(cnn_mnist.load_data(cnn_mnist.DATA), fetched):
        assert np.array_equal(x[..., 0] * np.float32(255), pixels)
        assert np.array_equal(y.argmax(axis=1), labels)


def test_without_the_file_and_a_network(monkeypatch, tmp_path, run):
    def load_data():
        raise Exception("URL fetch failure:\nno network")  # noqa: TRY002, as keras.utils does

    monkeypatch.setattr(cnn_mnist, "DATA", tmp_path / "mnist.npz")
    monkeypatch.setattr(keras.datasets.mnist, "load_data", load_data)
    done = run("--data", cnn_mnist.DATA)
    assert (done.status, done.out, done.err.count("\n")) == (2, "", 1)
    assert str(cnn_mnist.DATA) in done.err
    assert "URL fetch failure: no network" in done.err


def bit_flipped(path, small):
    np.savez(path, **small)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def without(name, small):
    return {other: array for other, array in small.items() if other != name}


def no_array_inside(path, small):
    np.savez(path, **without("y_test", small))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("y_test", b"7 2 1 0 4")


def saved_with(**changed):
    """A function that writes the small data with some arrays changed."""

    def write(path, small):
        changes = {name: change(small[name]) for name, change in changed.items()}
        np.savez(path, **small | changes)

    return write


BAD_FILES = {
    "missing": lambda path, small: None,
    "bit flip": bit_flipped,
    "no labels": lambda path, small: np.savez(path, **without("y_train", small)),
    "a member that is no array": no_array_inside,
    "image size": saved_with(x_test=lambda x: np.pad(x, ((0, 0), (2, 2), (2, 2)))),
    "image dtype": saved_with(x_train=lambda x: x / 255),
    "label axes": saved_with(y_train=lambda y: y[:, np.newaxis]),
    "label dtype": saved_with(y_test=lambda y: y.astype(np.int64)),
    "label 10": saved_with(y_test=lambda y: np.append(y[1:], np.uint8(10))),
    "counts": saved_with(x_test=lambda x: x[1:]),
    "nothing to hold out": saved_with(x_train=lambda x: x[:1], y_train=lambda y: y[:1]),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_named_in_one_line(case, run, small, tmp_path):
    path = tmp_path / "bad.npz"
    BAD_FILES[case](path, small)
    done = run("--data", path)
    assert (done.status, done.out, done.err.count("\n")) == (2, "", 1)
    assert done.err.startswith("cnn_mnist.py: error: ")
    assert str(path) in done.err
