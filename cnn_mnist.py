#!/usr/bin/env python3
"""Train the classic Keras convolutional network on the MNIST digits.

    python3 cnn_mnist.py

Expected after 15 epochs: a test accuracy of 0.991, give or take 0.001, and a test
loss between 0.023 and 0.031.
"""

import argparse
import contextlib
import glob
import io
import os
import signal
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

# TensorFlow reads these as it loads; a value that is already set wins. oneDNN makes
# a training step faster, but TensorFlow switches it on by itself on recent CPUs only.
# Level 1 hides information, not warnings such as the one of a GPU that cannot be used.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")

# On Linux, call the process batch work, which the threads that TensorFlow starts as it
# loads inherit. Otherwise the thread that tunes its input pipeline, woken at the end of
# an epoch, may run before the main thread has finished telling it to stop: it sleeps
# on, and the next epoch waits for it, for up to the length of an epoch.
with contextlib.suppress(AttributeError, OSError):
    if os.sched_getscheduler(0) == os.SCHED_OTHER:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))

# Loading Keras takes seconds, so each function that needs it imports it: a wrong
# flag or a damaged file is answered without the wait.
if TYPE_CHECKING:
    import keras
    from matplotlib.figure import Figure

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
        require_zip(path)
        with np.load(path, allow_pickle=False) as archive:
            for name in ("x_train", "y_train", "x_test", "y_test"):
                if name not in archive:
                    raise ValueError(f"there is no array {name} in it")
                arrays[name] = np.asarray(archive[name])
    # Depending on which byte is wrong, a damaged archive raises BadZipFile,
    # zlib.error, EOFError, NotImplementedError and more.
    except Exception as error:
        raise ValueError(f"cannot read {path}: {reason(error)}") from error
    return arrays


def download() -> dict[str, np.ndarray]:
    """Return the arrays of `read_npz` from `keras.datasets.mnist`, cached or fetched.

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
            f"({reason(error)}): put mnist.npz beside the script, or name it with --data"
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
    # With fewer than 10 images, the tenth held out is less than one.
    for part, minimum in (("train", 10), ("test", 1)):
        x, y = arrays[f"x_{part}"], arrays[f"y_{part}"]
        if x.dtype != np.uint8 or x.shape[1:] != INPUT_SHAPE[:2]:
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


def load_model(path: str | Path) -> "keras.Model":
    """Return the compiled model saved at `path`, with the state of its optimizer.

    Raises ValueError if there is no such model, if Keras's safe mode rejects it, or
    if it does not map (batch, 28, 28, 1) to (batch, 10) and report loss and accuracy.
    """
    try:
        require_zip(path)

        import keras

        model = keras.saving.load_model(path, safe_mode=True)
        shapes = model.input_shape, model.output_shape
        if shapes != ((None, *INPUT_SHAPE), (None, NUM_CLASSES)):
            raise ValueError("it maps {} to {}, not (28, 28, 1) to 10".format(*shapes))
        # What a model was compiled with shows in what it reports.
        x, y = np.zeros((1, *INPUT_SHAPE)), np.eye(1, NUM_CLASSES)
        report = model.evaluate(x, y, verbose=0, return_dict=True)
        if set(report) != {"loss", "accuracy"}:
            raise ValueError("it was not compiled to report loss and accuracy")
    # A damaged or foreign file fails wherever Keras first trips over it.
    except Exception as error:
        raise ValueError(f"cannot load {path}: {reason(error)}") from error
    return model


# --- Training -----------------------------------------------------------------


def train(
    model: "keras.Model",
    x: np.ndarray,
    y: np.ndarray,
    batch_size: int = BATCH_SIZE,
    epochs: int = EPOCHS,
    callbacks: Sequence["keras.callbacks.Callback"] = (),
) -> dict[str, list[float]]:
    """Fit the model; return loss, accuracy, val_loss, val_accuracy of each epoch.

    x, y: as from `load_data`. The last tenth is held out for validation, the rest
        shuffled before each epoch.

    Ctrl-C ends the training after the current step and leaves `model.stop_training`
    True; a second one raises KeyboardInterrupt.
    """
    import keras

    previous = signal.getsignal(signal.SIGINT)

    def stop(signum, frame):
        signal.signal(signal.SIGINT, previous)
        model.stop_training = True
        print(
            "\nInterrupted: stopping after this step. Ctrl-C again stops at once.",
            file=sys.stderr,
        )

    # From on_train_begin on, because fit() first sets stop_training to False.
    listen = keras.callbacks.LambdaCallback(
        on_train_begin=lambda logs: signal.signal(signal.SIGINT, stop)
    )
    try:
        return model.fit(
            x,
            y,
            batch_size=batch_size,
            epochs=epochs,
            validation_split=VALIDATION_SPLIT,
            callbacks=[listen, *callbacks],
            # The progress bar redraws its line, which only a terminal can show.
            verbose=1 if sys.stdout.isatty() else 2,
        ).history
    finally:
        signal.signal(signal.SIGINT, previous)


# --- Evaluation ---------------------------------------------------------------


def draw(
    history: dict[str, list[float]],
    x: np.ndarray,
    y: np.ndarray,
    probabilities: np.ndarray,
) -> "Figure":
    """Return a figure of the training and of the digits that the network got wrong.

    history: as from `train`; without epochs the curves are left out.
    x, y: the test set as from `load_data`.
    probabilities: float32, shape (n, 10), the network's output for x.
    """
    from matplotlib.figure import Figure

    truth, answer = y.argmax(axis=1), probabilities.argmax(axis=1)
    confidence = probabilities.max(axis=1)
    wrong = np.flatnonzero(answer != truth)
    wrong = wrong[np.argsort(-confidence[wrong], kind="stable")]  # most confident first
    shown = wrong[:32]
    rows = -(-len(shown) // 8)  # of 8 tiles, rounded up

    heights = [3.0] * bool(history) + [0.5 + 1.15 * rows]  # in inches
    figure = Figure(figsize=(8.5, sum(heights)), dpi=120, layout="constrained")
    *curves, tiles = figure.subfigures(
        len(heights), height_ratios=heights, squeeze=False
    ).flat

    for part in curves:
        epochs = range(1, len(history["loss"]) + 1)
        for axes, name in zip(part.subplots(1, 2), ("loss", "accuracy")):
            # Blue and vermilion differ for colour-blind readers too.
            axes.plot(epochs, history[name], "o-", color="#0072B2", label="training")
            axes.plot(
                epochs,
                history["val_" + name],
                "s--",
                color="#D55E00",
                label="validation",
            )
            axes.set(xlabel="epoch", ylabel=name)
            axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
            axes.grid(alpha=0.3)
            axes.legend()

    title = f"{len(wrong):,} of {len(x):,} test images wrong"
    if len(shown) < len(wrong):
        title += f", the {len(shown)} most confident of them:"
    tiles.suptitle(title)
    for position, i in enumerate(shown, start=1):
        axes = tiles.add_subplot(rows, 8, position)
        axes.imshow(x[i], cmap="gray_r", vmin=0, vmax=1)
        axes.set_title(
            f"is {truth[i]}, said {answer[i]}\n{confidence[i]:.1%} sure",
            fontsize=9,
            pad=2,
        )
        axes.axis("off")
    return figure


# --- Files --------------------------------------------------------------------


def reason(error: Exception) -> str:
    """Return what the error says, without errno and file name, in one line."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text.partition("\n")[0]


def require_zip(path: str | Path) -> None:
    """Raise OSError if `path` cannot be opened, ValueError if it is no zip archive."""
    with open(path, "rb") as file:
        if not zipfile.is_zipfile(file):
            raise ValueError("it is of another format, or was cut short")


def temporary(path: Path, pid: int | str) -> Path:
    """Return the file beside `path` that the process `pid` writes to first."""
    return path.with_name(f".{path.stem}.{pid}.tmp{path.suffix}")


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file, then move it to `path`.

    Whoever opens `path` finds the old file or the whole new one, never a part.
    Raises OSError if the disk is full or the folder gone.
    """
    path = path.resolve()  # so that a link stays a link
    part = temporary(path, os.getpid())
    try:
        write(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def check_output(path: Path, suffixes: tuple[str, ...]) -> None:
    """Raise ValueError unless `replace_file` can write `path`; leave it as it is."""
    if path.suffix not in suffixes:
        raise ValueError(f"{path} needs a name that ends in {' or '.join(suffixes)}")
    path = path.resolve()
    try:
        if path.exists():
            path.open("ab").close()  # fails on a folder or a read-only file
        temporary(path, os.getpid()).touch()
        temporary(path, os.getpid()).unlink()
    except OSError as error:
        raise ValueError(f"cannot write {path}: {reason(error)}") from error


def remove_leftovers(path: Path) -> None:
    """Remove the temporary files of runs that were killed while writing `path`."""
    path = path.resolve()
    name = temporary(path.with_stem(glob.escape(path.stem)), "*").name
    for part in path.parent.glob(name):
        pid = part.name.split(".")[-3]
        # On Windows os.kill would end the process instead of looking for it.
        if pid.isdecimal() and os.name == "posix":
            try:
                os.kill(int(pid), 0)
            except ProcessLookupError:
                part.unlink(missing_ok=True)
            except PermissionError:  # it runs, for another user
                pass


# --- Command line -------------------------------------------------------------


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options; a wrong one exits with status 2, as argparse does."""
    parser = argparse.ArgumentParser(
        prog="cnn_mnist.py",
        description="Train a convolutional network on the MNIST digits.",
        epilog="Exit status: 0 done, 1 a model or figure could not be written, 2 a "
        "wrong flag or file, 130 interrupted by Ctrl-C.",
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
    parser.add_argument(
        "--load-model",
        metavar="PATH",
        help="start from this saved .keras model (default: a new one)",
    )
    parser.add_argument(
        "--save-model",
        type=Path,
        metavar="PATH",
        help="write the model to this .keras file after every epoch (default: not saved)",
    )
    parser.add_argument(
        "--plot",
        type=Path,
        metavar="PATH",
        help="draw the training and the mistakes to this .png, .svg or .pdf file; "
        "needs matplotlib (default: not drawn)",
    )
    args = parser.parse_args(argv)

    if args.epochs < 0:
        parser.error("argument --epochs: must be 0 or more")
    if args.batch_size < 1:
        parser.error("argument --batch-size: must be 1 or more")
    if not 0 <= args.seed < 2**32:  # what NumPy takes as a seed
        parser.error("argument --seed: must be from 0 to 4294967295")
    for flag, path, suffixes in (
        ("--save-model", args.save_model, (".keras",)),
        ("--plot", args.plot, (".png", ".svg", ".pdf")),
    ):
        try:
            if path is not None:
                check_output(path, suffixes)
                remove_leftovers(path)
        except ValueError as error:
            parser.error(f"argument {flag}: {error}")
    if args.plot is not None:
        try:
            import matplotlib.figure  # noqa: F401
        except ImportError:
            parser.error("argument --plot: needs matplotlib: pip install matplotlib")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Load, build, train, evaluate; return the exit status (see the end of --help).

    argv: the command line without the program's name; by default `sys.argv[1:]`.
    """
    args = parse_args(argv)
    try:
        (x_train, y_train), (x_test, y_test) = load_data(args.data)
        model = None if args.load_model is None else load_model(args.load_model)
    except ValueError as error:
        print(f"cnn_mnist.py: error: {error}", file=sys.stderr)
        return 2

    import keras

    keras.utils.set_random_seed(args.seed)
    if model is None:
        model = build_model()

    backend = keras.backend.backend()
    version = sys.modules[backend].__version__
    # Every backend's tensors tell where they are; TensorFlow's tell it as
    # /job:localhost/replica:0/task:0/device:GPU:0.
    device = str(keras.ops.zeros(()).device).rpartition("device:")[-1]
    print(f"Keras {keras.__version__} with {backend} {version} on {device}")
    model.summary()

    status = 0
    batch_size = min(args.batch_size, len(x_train))

    def save(path, write):
        nonlocal status
        try:
            replace_file(path, write)
        except OSError as error:
            status = 1
            print(
                f"\ncnn_mnist.py: cannot write {path}: {reason(error)}", file=sys.stderr
            )

    callbacks = []
    if args.save_model:
        callbacks = [
            keras.callbacks.LambdaCallback(
                on_epoch_end=lambda epoch, logs: save(args.save_model, model.save)
            )
        ]
        if args.epochs == 0:
            save(args.save_model, model.save)
    history = train(model, x_train, y_train, batch_size, args.epochs, callbacks)
    interrupted = model.stop_training

    results = model.evaluate(
        x_test, y_test, batch_size=batch_size, verbose=0, return_dict=True
    )
    print(f"Test loss: {results['loss']:.4f}")
    print(f"Test accuracy: {results['accuracy']:.4f}")

    if args.plot:
        probabilities = model.predict(x_test, batch_size=batch_size, verbose=0)
        # Drawn in memory, as on a full disk matplotlib's PDF writer fails oddly.
        picture = io.BytesIO()
        figure = draw(history, x_test, y_test, probabilities)
        figure.savefig(picture, format=args.plot.suffix[1:])
        save(args.plot, lambda path: path.write_bytes(picture.getvalue()))
    return status or (130 if interrupted else 0)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
