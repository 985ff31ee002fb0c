#!/usr/bin/env python3
"""Train the classic Keras convolutional network on the MNIST digits.

    python3 cnn_mnist.py

Expected after 15 epochs, on any machine: a test loss of about 0.026 and a test
accuracy of about 0.991.
"""

import argparse
import contextlib
import os
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

# TensorFlow reads both when it loads; a value that is already set wins. oneDNN's
# kernels are the faster ones on every x86 CPU, but TensorFlow switches them on by
# itself only on recent ones. Level 1 hides information, never a warning such as
# the one about a GPU that cannot be used.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")

# Loading Keras takes seconds, so each function that needs it imports it: a wrong
# flag or a damaged file is answered without the wait.
if TYPE_CHECKING:
    import keras

NUM_CLASSES = 10
INPUT_SHAPE = (28, 28, 1)
BATCH_SIZE = 128
EPOCHS = 15
VALIDATION_SPLIT = 0.1
SEED = 1
DATA = Path(__file__).resolve().with_name("mnist.npz")


# --- Data ---------------------------------------------------------------------


def read_npz(path: str | Path) -> dict[str, np.ndarray]:
    """Return the arrays x_train, y_train, x_test and y_test of an .npz file.

    Raises ValueError if the file cannot be read or lacks one of the arrays.
    """
    arrays = {}
    try:
        with open(path, "rb") as file:
            if not zipfile.is_zipfile(file):
                raise ValueError("not an .npz file, or one that was cut short")
            archive = np.load(file, allow_pickle=False)
            for name in ("x_train", "y_train", "x_test", "y_test"):
                if name not in archive:
                    raise ValueError(f"there is no array {name} in it")
                arrays[name] = np.asarray(archive[name])
    # Depending on which byte is wrong, a damaged archive raises BadZipFile,
    # zlib.error, EOFError, NotImplementedError and more.
    except Exception as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"cannot read {path}: {reason}") from error
    return arrays


def download() -> dict[str, np.ndarray]:
    """Return the same four arrays from `keras.datasets.mnist` (cached or fetched).

    Raises ValueError if there is neither a cached copy nor a connection.
    """
    import keras

    try:
        # The progress bar of a download is no part of the program's output.
        with contextlib.redirect_stdout(sys.stderr):
            train, test = keras.datasets.mnist.load_data()
    except Exception as error:  # Keras raises nothing more specific.
        raise ValueError(
            f"there is no {DATA}, and keras.datasets.mnist could not fetch the data "
            f"({error}): put mnist.npz beside the script, or name it with --data"
        ) from error
    return dict(zip(("x_train", "y_train", "x_test", "y_test"), train + test))


def load_data(
    path: str | Path | None = None,
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Return `(x_train, y_train), (x_test, y_test)`, ready for the network.

    x: float32, shape (n, 28, 28, 1), grey values 0 to 255 divided by 255, so in
        [0, 1]; n is 60,000 for training and 10,000 for testing.
    y: float32, shape (n, 10), one-hot.

    path: an .npz file with the uint8 arrays x_train and x_test, shape (n, 28, 28),
        and y_train and y_test, shape (n,), values 0 to 9. By default mnist.npz
        beside this script or, where that is missing, `keras.datasets.mnist`.

    Raises ValueError, saying which file and what is wrong with it.

    Source: the MNIST database of Yann LeCun and Corinna Cortes.
    """
    if path is None and not DATA.exists():
        path, arrays = "keras.datasets.mnist", download()
    else:
        path = DATA if path is None else path
        arrays = read_npz(path)

    data = []
    # Of fewer than 10 images no whole one can be held out for validation.
    for part, minimum in (("train", 10), ("test", 1)):
        x, y = arrays[f"x_{part}"], arrays[f"y_{part}"]
        if x.dtype != np.uint8 or x.ndim != 3 or x.shape[1:] != INPUT_SHAPE[:2]:
            raise ValueError(
                f"{path}: x_{part} is {x.dtype} {x.shape}, not uint8 (n, 28, 28)"
            )
        if y.dtype != np.uint8 or y.ndim != 1:
            raise ValueError(f"{path}: y_{part} is {y.dtype} {y.shape}, not uint8 (n,)")
        if len(x) != len(y):
            raise ValueError(
                f"{path}: x_{part} has {len(x)} images, but y_{part} {len(y)} labels"
            )
        if len(x) < minimum:
            raise ValueError(
                f"{path}: x_{part} has {len(x)} images, at least {minimum} are needed"
            )
        if y.max() >= NUM_CLASSES:
            raise ValueError(f"{path}: y_{part} has a label {y.max()}, not 0 to 9")

        x = np.divide(x, 255, dtype=np.float32)[..., np.newaxis]  # (n, 28, 28, 1)
        y = np.eye(NUM_CLASSES, dtype=np.float32)[y]  # (n,) -> (n, 10)
        data.append((x, y))
    return data[0], data[1]


# --- Model --------------------------------------------------------------------


def build_model() -> "keras.Sequential":
    """Return the compiled network, 34,826 parameters, weights freshly drawn.

    Input: float32, shape (batch, 28, 28, 1), values in [0, 1].
    Output: float32, shape (batch, 10), the probability of each digit.

    Source: the `mnist_convnet` example of Keras.
    """
    import keras
    from keras import layers

    model = keras.Sequential(
        [
            keras.Input(shape=INPUT_SHAPE),
            layers.Conv2D(32, kernel_size=(3, 3), activation="relu"),  # (26, 26, 32)
            layers.MaxPooling2D(pool_size=(2, 2)),  # (13, 13, 32)
            layers.Conv2D(64, kernel_size=(3, 3), activation="relu"),  # (11, 11, 64)
            layers.MaxPooling2D(pool_size=(2, 2)),  # (5, 5, 64)
            layers.Flatten(),  # (1600,)
            layers.Dropout(0.5),
            layers.Dense(NUM_CLASSES, activation="softmax"),  # (10,)
        ]
    )
    model.compile(
        loss="categorical_crossentropy", optimizer="adam", metrics=["accuracy"]
    )
    return model


# --- Command line -------------------------------------------------------------


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the options; a wrong one exits with status 2, as argparse does."""
    parser = argparse.ArgumentParser(
        prog="cnn_mnist.py",
        description="Train a convolutional network on the MNIST digits.",
    )
    parser.add_argument(
        "--epochs",
        type=int,
        default=EPOCHS,
        metavar="N",
        help="passes over the training data, 0 or more (default: %(default)s)",
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        default=BATCH_SIZE,
        metavar="N",
        help="images per training step, 1 or more (default: %(default)s)",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=SEED,
        metavar="N",
        help="seed of weights, shuffling and dropout (default: %(default)s)",
    )
    parser.add_argument(
        "--data",
        metavar="PATH",
        help=".npz file to train and test on (default: mnist.npz beside the script)",
    )
    args = parser.parse_args(argv)
    if args.epochs < 0:
        parser.error("argument --epochs: must be 0 or more")
    if args.batch_size < 1:
        parser.error("argument --batch-size: must be 1 or more")
    if not 0 <= args.seed < 2**32:  # what NumPy takes as a seed
        parser.error("argument --seed: must be from 0 to 4294967295")
    return args


def main(argv: list[str] | None = None) -> int:
    """Load, build, train, evaluate; return the exit status: 0, or 2 for bad data.

    argv: the command line without the program's name; by default `sys.argv[1:]`.
    """
    args = parse_args(argv)
    try:
        (x_train, y_train), (x_test, y_test) = load_data(args.data)
    except ValueError as error:
        print(f"cnn_mnist.py: error: {error}", file=sys.stderr)
        return 2

    import keras

    backend = keras.backend.backend()
    version = sys.modules[backend].__version__
    # Every backend's tensors tell where they are; TensorFlow's tell it as
    # /job:localhost/replica:0/task:0/device:GPU:0.
    device = str(keras.ops.zeros(()).device).rpartition("device:")[-1]
    print(f"Keras {keras.__version__} with {backend} {version} on {device}")

    keras.utils.set_random_seed(args.seed)
    model = build_model()
    model.summary()
    model.fit(
        x_train,
        y_train,
        batch_size=args.batch_size,
        epochs=args.epochs,
        validation_split=VALIDATION_SPLIT,
        # The progress bar redraws its line, which only a terminal can show.
        verbose=1 if sys.stdout.isatty() else 2,
    )
    loss, accuracy = model.evaluate(
        x_test, y_test, batch_size=args.batch_size, verbose=0
    )
    print(f"Test loss: {loss:.4f}")
    print(f"Test accuracy: {accuracy:.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
