"""mnist.npz, and what `load_data` makes of it and of files that are not right."""

import hashlib
import subprocess
import sys
import warnings
import zipfile

import numpy as np
import pytest
from conftest import TOP

import cnn_mnist

# The MD5 sums of the four original files, unpacked.
ORIGINAL_MD5 = {
    "x_train": "6bbc9ace898e44ae57da46a324031adb",
    "y_train": "a25bea736e30d166cdddb491f175f624",
    "x_test": "2646ac647ad5339dbf082846283269ea",
    "y_test": "27ae3e4e09519cfbb04c329615203637",
}


def as_idx(array):
    """The array in the format of the original files.

    Two zero bytes, 8 for uint8, the number of axes; each axis's length as a
    big-endian int32; the values.
    """
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
    return header + array.tobytes()


@pytest.mark.parametrize("name", ORIGINAL_MD5)
def test_mnist_is_the_original(mnist, name):
    assert mnist[name].dtype == np.uint8
    assert hashlib.md5(as_idx(mnist[name])).hexdigest() == ORIGINAL_MD5[name]


def test_mnist_is_small_enough_to_clone():
    assert (TOP / "mnist.npz").stat().st_size <= 11_600_000


def test_load_data_on_mnist(mnist, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the file beside the script, from anywhere
    (x_train, y_train), (x_test, y_test) = cnn_mnist.load_data()
    assert x_train.shape == (60000, 28, 28, 1)
    assert y_train.shape == (60000, 10)
    assert x_test.shape == (10000, 28, 28, 1)
    assert y_test.shape == (10000, 10)
    for x, y, part in ((x_train, y_train, "train"), (x_test, y_test, "test")):
        assert x.dtype == y.dtype == np.float32
        assert x.min() == 0 and x.max() == 1
        raw = mnist[f"x_{part}"].astype(np.float32)
        assert np.array_equal(x[..., 0], raw / np.float32(255))
        assert np.array_equal(np.unique(y), [0, 1])
        assert np.array_equal(y.sum(axis=1), np.ones(len(y)))
        assert np.array_equal(y.argmax(axis=1), mnist[f"y_{part}"])


def test_load_data_reads_the_named_file(small, small_file):
    (x_train, y_train), (x_test, y_test) = cnn_mnist.load_data(small_file)
    assert x_train.shape == (1280, 28, 28, 1)
    assert y_train.shape == (1280, 10)
    assert np.array_equal(x_test[..., 0] * np.float32(255), small["x_test"])
    assert np.array_equal(y_test.argmax(axis=1), small["y_test"])


def test_a_named_file_needs_no_file_beside_the_script(
    small_file, tmp_path, monkeypatch
):
    monkeypatch.setattr(cnn_mnist, "DATA", tmp_path / "mnist.npz")
    (x_train, _), _ = cnn_mnist.load_data(small_file)
    assert len(x_train) == 1280


def test_ten_training_images_and_one_for_testing_are_enough(small, tmp_path):
    path = tmp_path / "least.npz"
    np.savez(path, **{n: a[: 10 if "train" in n else 1] for n, a in small.items()})
    (x_train, _), (x_test, _) = cnn_mnist.load_data(path)
    assert len(x_train) == 10
    assert len(x_test) == 1


def test_without_the_file_keras_fetches_the_data(small, monkeypatch, tmp_path, capsys):
    import keras

    def load_data():
        print("Downloading")
        return (
            (small["x_train"], small["y_train"]),
            (small["x_test"], small["y_test"]),
        )

    monkeypatch.setattr(cnn_mnist, "DATA", tmp_path / "mnist.npz")
    monkeypatch.setattr(keras.datasets.mnist, "load_data", load_data)
    (x_train, y_train), (x_test, y_test) = cnn_mnist.load_data(cnn_mnist.DATA)
    assert np.array_equal(x_train[..., 0] * np.float32(255), small["x_train"])
    assert np.array_equal(y_train.argmax(axis=1), small["y_train"])
    assert np.array_equal(x_test[..., 0] * np.float32(255), small["x_test"])
    assert np.array_equal(y_test.argmax(axis=1), small["y_test"])
    assert capsys.readouterr() == ("", "Downloading\n")


def test_without_the_file_and_a_network_the_error_helps(run, monkeypatch, tmp_path):
    import keras

    def load_data():
        raise Exception("URL fetch failure")  # noqa: TRY002, as keras.utils does

    monkeypatch.setattr(cnn_mnist, "DATA", tmp_path / "mnist.npz")
    monkeypatch.setattr(keras.datasets.mnist, "load_data", load_data)
    done = run()
    assert done.status == 2
    assert done.out == ""
    assert done.err.count("\n") == 1
    for words in (f"{tmp_path / 'mnist.npz'}", "--data", "URL fetch failure"):
        assert words in done.err


def test_a_damaged_file_beside_the_script_is_no_missing_one(run, monkeypatch, tmp_path):
    path = tmp_path / "mnist.npz"
    path.write_bytes(b"")
    monkeypatch.setattr(cnn_mnist, "DATA", path)
    done = run()
    assert (done.status, done.out) == (2, "")
    assert str(path) in done.err


def truncated(path, small):
    np.savez(path, **small)
    path.write_bytes(path.read_bytes()[:-1000])


def bit_flipped(path, small):
    np.savez(path, **small)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def bit_flipped_compressed(path, small):
    np.savez_compressed(path, **small)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def no_array_inside(path, small):
    np.savez(path, **{name: a for name, a in small.items() if name != "y_test"})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("y_test", b"7 2 1 0 4")


def saved_with(**changed):
    """A function that writes the small data with some arrays changed or left out."""

    def write(path, small):
        arrays = {**small}
        for name, change in changed.items():
            arrays[name] = change(small[name])
        np.savez(path, **{n: a for n, a in arrays.items() if a is not None})

    return write


def no_array(array):
    return None


def with_label(value):
    def change(labels):
        labels = labels.copy()
        labels[7] = value
        return labels

    return change


BAD_FILES = {
    "missing": (lambda path, small: None, "No such file"),
    "folder": (lambda path, small: path.mkdir(), "Is a directory"),
    "text": (lambda path, small: path.write_text("5 0 4 1"), "not a zip file"),
    "empty file": (lambda path, small: path.write_bytes(b""), "not a zip file"),
    "npy": (
        lambda path, small: path.open("wb").write(
            b"\x93NUMPY\x01\x00" + bytes(small["y_test"])
        ),
        "not a zip file",
    ),
    "truncated": (truncated, "not a zip file"),
    "bit flip": (bit_flipped, "Bad CRC-32"),
    "bit flip, compressed": (bit_flipped_compressed, "bad.npz: "),
    "x_train missing": (saved_with(x_train=no_array), "x_train is not a file"),
    "y_train missing": (saved_with(y_train=no_array), "y_train is not a file"),
    "x_test missing": (saved_with(x_test=no_array), "x_test is not a file"),
    "y_test missing": (saved_with(y_test=no_array), "y_test is not a file"),
    "a member that is no array": (no_array_inside, "y_test is |S9 (), not uint8 (1,)"),
    "image size": (
        saved_with(x_test=lambda x: np.pad(x, ((0, 0), (2, 2), (2, 2)))),
        "x_test is uint8 (300, 32, 32), not uint8 (300, 28, 28)",
    ),
    "image axes": (
        saved_with(x_train=lambda x: x[..., np.newaxis]),
        "x_train is uint8 (1280, 28, 28, 1), not uint8 (1280, 28, 28)",
    ),
    "flat images": (
        saved_with(x_train=lambda x: x.reshape(-1, 784)),
        "x_train is uint8 (1280, 784), not uint8 (1280, 28, 28)",
    ),
    "image dtype": (
        saved_with(x_train=lambda x: x / 255),
        "x_train is float64 (1280, 28, 28), not uint8 (1280, 28, 28)",
    ),
    "label axes": (
        saved_with(y_train=lambda y: np.eye(10, dtype=np.uint8)[y]),
        "y_train is uint8 (1280, 10), not",
    ),
    "label dtype": (
        saved_with(y_test=lambda y: y.astype(np.int64)),
        "y_test is int64 (300,), not uint8 (300,)",
    ),
    "one number for labels": (
        saved_with(y_test=lambda y: y[0]),
        "y_test is uint8 (), not uint8 (1,)",
    ),
    "training label 10": (
        saved_with(y_train=with_label(10)),
        "a label 10, needs labels 0 to 9",
    ),
    "test label 255": (
        saved_with(y_test=with_label(255)),
        "a label 255, needs labels 0 to 9",
    ),
    "training counts": (
        saved_with(y_train=lambda y: y[1:]),
        "x_train is uint8 (1280, 28, 28), not uint8 (1279, 28, 28)",
    ),
    "test counts": (
        saved_with(x_test=lambda x: x[1:]),
        "x_test is uint8 (299, 28, 28), not uint8 (300, 28, 28)",
    ),
    "no training images": (
        saved_with(x_train=lambda x: x[:0], y_train=lambda y: y[:0]),
        "10 images to train",
    ),
    "no test images": (
        saved_with(x_test=lambda x: x[:0], y_test=lambda y: y[:0]),
        "1 image to test",
    ),
    "nothing to hold out": (
        saved_with(x_train=lambda x: x[:9], y_train=lambda y: y[:9]),
        "10 images to train",
    ),
    "Python objects": (
        saved_with(y_train=lambda y: np.array([{}] * len(y), dtype=object)),
        "Object arrays cannot be loaded",
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_named_in_one_line(case, run, small, tmp_path):
    write, message = BAD_FILES[case]
    path = tmp_path / "bad.npz"
    write(path, small)
    with pytest.raises(ValueError):
        cnn_mnist.load_data(path)
    done = run("--data", path)
    assert done.status == 2
    assert done.out == ""
    assert done.err.startswith("cnn_mnist.py: error: ")
    assert str(path) in done.err
    assert message in done.err
    assert done.err.count("\n") == 1


def test_a_bad_file_is_answered_before_keras_is_loaded(tmp_path):
    code = (
        "import sys, cnn_mnist\n"
        "assert cnn_mnist.main(['--data', 'nowhere.npz']) == 2\n"
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


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (EOFError(), "EOFError"),
        (ValueError("first line\nsecond"), "first line"),
        (OSError(28, "No space", "file"), "No space"),
        (OSError("no number"), "no number"),
    ],
)
def test_an_error_is_explained_in_one_line(error, words):
    with pytest.raises(cnn_mnist.InputError) as found, cnn_mnist.reading("it"):
        raise error
    assert str(found.value) == f"cannot read it: {words}"
    assert found.value.__cause__ is error


def test_a_warning_of_what_can_be_read_is_not_shown(recwarn):
    with cnn_mnist.reading("it"):
        warnings.warn("odd", stacklevel=1)
    assert not recwarn.list
