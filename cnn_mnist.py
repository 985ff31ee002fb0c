#!/usr/bin/env python3
"""Train the classic Keras convolutional network on the MNIST digits.

    python3 cnn_mnist.py

Expected after 15 epochs, in 95 of 100 runs with different seeds: a test accuracy of
0.989 to 0.993 and a test loss of 0.020 to 0.032.
"""

import os
import signal
import sys

# Ctrl-C while modules load would end in a traceback of whatever was loading. So until
# Keras is loaded it ends the process, unless that is a whole notebook.
NOTEBOOK = hasattr(sys, "ps1")
CTRL_C = signal.getsignal(signal.SIGINT)
if __name__ == "__main__" and CTRL_C is signal.default_int_handler and not NOTEBOOK:
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

import argparse
import contextlib
import shutil
import tempfile
import warnings
import zipfile
from pathlib import Path

import numpy as np

# TensorFlow reads these as it loads; a value that is already set wins. oneDNN makes a
# step faster, but is not always the default. Level 1 hides information, not warnings.
SHOW_LOG = "TF_CPP_MIN_LOG_LEVEL" in os.environ
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

# Batch work, to Linux: or the thread that tunes TensorFlow's input pipeline, woken at
# the end of an epoch before it is told to stop, sleeps on, and the next epoch waits.
with contextlib.suppress(AttributeError, OSError):
    if os.sched_getscheduler(0) == os.SCHED_OTHER:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))

NUM_CLASSES = 10
INPUT_SHAPE = (28, 28, 1)
BATCH_SIZE = 128
EPOCHS = 15
VALIDATION_SPLIT = 0.1
SEED = 1
DATA = Path(__file__).resolve().with_name("mnist.npz")


def load_data(path=None):
    """Return `(x_train, y_train), (x_test, y_test)`, ready for the network.

    x: float32, shape (n, 28, 28, 1), values in [0, 1]; n is 60,000 for training and
        10,000 for testing.
    y: float32, shape (n, 10), one-hot.

    path: an .npz file with the uint8 arrays x_train and x_test, shape (n, 28, 28),
        and y_train and y_test, shape (n,), values 0 to 9. By default mnist.npz
        beside this script or, where that is missing, `keras.datasets.mnist`.

    Raises ValueError, saying which file and what is wrong with it.

    Source: the MNIST database of Yann LeCun and Corinna Cortes.
    """
    x_train, y_train, x_test, y_test = read_arrays(path)

    # Grey values 0 to 255 become 0 to 1, and the one channel that a grey image has
    # becomes an axis, which Conv2D expects: (n, 28, 28) -> (n, 28, 28, 1).
    x_train = x_train[..., np.newaxis].astype("float32") / 255
    x_test = x_test[..., np.newaxis].astype("float32") / 255

    # The label 3 becomes the row 0 0 0 1 0 0 0 0 0 0: (n,) -> (n, 10).
    one_hot = np.eye(NUM_CLASSES, dtype="float32")
    return (x_train, one_hot[y_train]), (x_test, one_hot[y_test])


def build_model():
    """Return the compiled network, 34,826 parameters, weights freshly drawn.

    Input: float32, shape (batch, 28, 28, 1), values in [0, 1].
    Output: float32, shape (batch, 10), the probability of each digit.

    Source: the `mnist_convnet` example of Keras.
    """
    import keras  # not before it is needed, as it takes seconds
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


def train(model, x, y, batch_size=BATCH_SIZE, epochs=EPOCHS, callbacks=()):
    """Fit the model; return loss, accuracy, val_loss, val_accuracy of each epoch.

    x, y: as from `load_data`. The last tenth is held out for validation, the rest
        shuffled before each epoch.

    Ctrl-C ends the training after the current step and leaves `model.stop_training`
    True; a second one raises KeyboardInterrupt.
    """
    with ctrl_c_stops(model) as listen:
        return model.fit(
            x,
            y,
            batch_size=batch_size,
            epochs=epochs,
            validation_split=VALIDATION_SPLIT,
            callbacks=[listen, *callbacks],
            # Only a terminal or a notebook can show a progress bar, which is redrawn.
            verbose=1 if sys.stdout.isatty() or NOTEBOOK else 2,
        ).history


def main(argv=None):
    """Run with the options `argv`, by default sys.argv[1:]; return the exit status."""
    args = parse_args(argv)
    try:
        (x_train, y_train), (x_test, y_test) = load_data(args.data)
        model = None if args.load_model is None else load_model(args.load_model)
    except ValueError as error:
        print(f"cnn_mnist.py: error: {error}", file=sys.stderr)
        return 2

    keras, where = load_keras()
    print(where)  # which versions, and whether on a CPU or a GPU

    keras.utils.set_random_seed(args.seed)
    model = model or build_model()
    model.summary()

    batch_size = min(args.batch_size, len(x_train))
    unwritten = []  # the files that could not be written
    callbacks = saving(model, args.save_model, args.epochs, unwritten)
    history = train(model, x_train, y_train, batch_size, args.epochs, callbacks)

    loss, accuracy = model.evaluate(x_test, y_test, batch_size=batch_size, verbose=0)
    print(f"Test loss: {loss:.4f}")
    print(f"Test accuracy: {accuracy:.4f}")

    if args.plot:
        probabilities = model.predict(x_test, batch_size=batch_size, verbose=0)
        figure = draw(history, x_test, y_test, probabilities)
        save(args.plot, figure.savefig, unwritten)
    return 1 if unwritten else 130 if model.stop_training else 0


# --- Behind the story: Keras's start, Ctrl-C, the figure, files, flags ---------------


def load_keras():
    """Return Keras, loaded, and a line with its version, its backend's and the device.

    Without a GPU, TensorFlow's C++ code writes alarming lines to standard error, which
    no setting keeps away (its issue 100442). They are held back, unless loading fails,
    an NVIDIA driver does not lead to a GPU, or TF_CPP_MIN_LOG_LEVEL was set.
    """
    with tempfile.TemporaryFile() as held:
        stderr = os.dup(2)
        os.dup2(stderr if SHOW_LOG else held.fileno(), 2)
        try:
            import keras

            backend = keras.backend.backend()
            version = sys.modules[backend].__version__
            # TensorFlow's tensors are on /job:localhost/replica:0/task:0/device:GPU:0.
            device = str(keras.ops.zeros(()).device).rpartition("device:")[-1]
            if "cpu" not in device.lower() or not shutil.which("nvidia-smi"):
                held.truncate(0)
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            held.seek(0)
            sys.stderr.write(held.read().decode(errors="replace"))
    if __name__ == "__main__":
        signal.signal(signal.SIGINT, CTRL_C)
    return keras, f"Keras {keras.__version__} with {backend} {version} on {device}"


@contextlib.contextmanager
def ctrl_c_stops(model):
    """Let Ctrl-C end `model.fit` after its step; yield the callback that it needs."""
    import keras

    previous = signal.getsignal(signal.SIGINT)

    def stop(signum, frame):
        signal.signal(signal.SIGINT, previous)
        model.stop_training = True
        text = "\nInterrupted: stopping after this step. Ctrl-C again stops at once."
        print(text, file=sys.stderr)

    def listen(logs):
        if callable(previous):  # and not, say, ignored
            with contextlib.suppress(ValueError):  # only the main thread can listen
                signal.signal(signal.SIGINT, stop)

    try:
        # From on_train_begin on, because fit() first sets stop_training to False.
        yield keras.callbacks.LambdaCallback(on_train_begin=listen)
    finally:
        if signal.getsignal(signal.SIGINT) is stop:
            signal.signal(signal.SIGINT, previous)


def draw(history, x, y, probabilities):
    """Return a matplotlib figure of the training and of the mistakes.

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
    parts = figure.subfigures(len(heights), height_ratios=heights, squeeze=False)
    *curves, tiles = parts.flat
    for part in curves:
        epochs = range(1, len(history["loss"]) + 1)
        for axes, name in zip(part.subplots(1, 2), ("loss", "accuracy")):
            axes.plot(epochs, history[name], "o-", label="training")
            axes.plot(epochs, history["val_" + name], "s--", label="validation")
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
        label = f"is {truth[i]}, said {answer[i]}\n{confidence[i]:.1%} sure"
        axes.set_title(label, fontsize=9, pad=2)
        axes.axis("off")
    return figure


def reason(error):
    """Return what the error says, without errno and file name, in one line."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text.partition("\n")[0]


@contextlib.contextmanager
def reading(verb, path):
    """Turn whatever is wrong with the zip archive at `path` into one ValueError."""
    try:
        with open(path, "rb") as file:
            if not zipfile.is_zipfile(file):
                raise ValueError("it is of another format, or was cut short")
        yield
    except Exception as error:  # of any kind, depending on which byte is damaged
        raise ValueError(f"cannot {verb} {path}: {reason(error)}") from error


def read_arrays(path):
    """Return the uint8 arrays x_train, y_train, x_test, y_test, as `load_data` says."""
    if path is None and not DATA.exists():
        path, arrays = "keras.datasets.mnist", download()
    else:
        path, arrays = DATA if path is None else path, []
        with reading("read", path), np.load(path, allow_pickle=False) as archive:
            for name in ("x_train", "y_train", "x_test", "y_test"):
                if name not in archive:
                    raise ValueError(f"there is no array {name} in it")
                arrays.append(np.asarray(archive[name]))

    # With fewer than 10 training images, the tenth held out is less than one.
    for part, x, y, least in (("train", *arrays[:2], 10), ("test", *arrays[2:], 1)):
        if x.dtype != np.uint8 or x.shape[1:] != INPUT_SHAPE[:2]:
            wrong = f"x_{part} is {x.dtype} {x.shape}, not uint8 (n, 28, 28)"
        elif y.dtype != np.uint8 or y.ndim != 1:
            wrong = f"y_{part} is {y.dtype} {y.shape}, not uint8 (n,)"
        elif len(x) != len(y):
            wrong = f"x_{part} has {len(x)} images, but y_{part} {len(y)} labels"
        elif len(x) < least:
            wrong = f"x_{part} has {len(x)} images, at least {least} are needed"
        elif y.max() >= NUM_CLASSES:
            wrong = f"y_{part} has a label {y.max()}, not 0 to 9"
        else:
            continue
        raise ValueError(f"{path}: {wrong}")
    return arrays


def download():
    """Return the arrays of `keras.datasets.mnist`, from its cache or the network."""
    keras, _ = load_keras()
    try:
        # The progress bar of a download is no part of the program's output.
        with contextlib.redirect_stdout(sys.stderr):
            train, test = keras.datasets.mnist.load_data()
        return *train, *test
    except Exception as error:  # Keras raises nothing more specific.
        raise ValueError(
            f"there is no {DATA}, and keras.datasets.mnist could not fetch the data "
            f"({reason(error)}): put mnist.npz beside the script, or name it with --data"
        ) from error


def load_model(path):
    """Return the compiled model saved at `path`, with the state of its optimizer.

    Raises ValueError if there is no such model, if Keras's safe mode rejects it, or
    if it does not map (batch, 28, 28, 1) to (batch, 10) and report loss and accuracy.
    """
    with reading("load", path), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what a foreign model has or lacks
        keras, _ = load_keras()
        model = keras.saving.load_model(path, safe_mode=True)
        shapes = model.input_shape, model.output_shape
        if shapes != ((None, *INPUT_SHAPE), (None, NUM_CLASSES)):
            raise ValueError("it maps {} to {}, not (28, 28, 1) to 10".format(*shapes))
        # What a model was compiled with shows in what it reports.
        x, y = np.zeros((1, *INPUT_SHAPE)), np.eye(1, NUM_CLASSES)
        report = model.evaluate(x, y, verbose=0, return_dict=True)
        if set(report) != {"loss", "accuracy"}:
            raise ValueError("it was not compiled to report loss and accuracy")
    return model


def save(path, write, unwritten):
    """Let `write` fill a temporary file, then move it to `path`.

    Whoever opens `path` finds the old file or the whole new one, never a part. If that
    fails, as on a full disk, say so and add `path` to the list `unwritten`.
    """
    target = path.resolve()  # so that a link stays a link
    try:
        with tempfile.TemporaryDirectory(prefix=".mnist.", dir=target.parent) as new:
            part = Path(new, target.name)
            write(part)
            part.replace(target)
    except OSError as error:
        unwritten.append(path)
        text = f"\ncnn_mnist.py: cannot write {path}: {reason(error)}"
        print(text, file=sys.stderr)


def saving(model, path, epochs, unwritten):
    """Return the callback that saves the model after every epoch, if any, in a list."""
    import keras

    def save_model(*_):
        save(path, model.save, unwritten)

    moment = "on_epoch_end" if epochs else "on_train_end"
    return [keras.callbacks.LambdaCallback(**{moment: save_model})] if path else []


def output(name, *suffixes):
    """Return `name` as a path that can be written, or raise what argparse reports."""
    path = Path(name)
    if path.suffix not in suffixes:
        ends = " or ".join(suffixes)
        raise argparse.ArgumentTypeError(f"{path} needs a name that ends in {ends}")
    try:
        if path.exists():
            path.open("ab").close()  # fails on a folder or a read-only file
        tempfile.TemporaryDirectory(dir=path.resolve().parent).cleanup()
    except OSError as error:
        text = f"cannot write {path.resolve()}: {reason(error)}"
        raise argparse.ArgumentTypeError(text) from error
    return path


def parse_args(argv=None):
    """Return the options; a wrong one exits with status 2, as argparse does."""
    parser = argparse.ArgumentParser(
        prog="cnn_mnist.py",
        description="Train a convolutional network on the MNIST digits.",
        epilog="Exit status: 0 done, 1 a model or figure could not be written, 2 a "
        "wrong flag or file, 130 interrupted by Ctrl-C.",
    )

    def add(flag, kind, default, text):
        value, metavar = (default, "N") if kind is int else (None, "PATH")
        text += f" (default: {default})"
        parser.add_argument(flag, type=kind, default=value, metavar=metavar, help=text)

    add("--epochs", int, EPOCHS, "passes over the training data, 0 or more")
    add("--batch-size", int, BATCH_SIZE, "images per training step, 1 or more")
    add("--seed", int, SEED, "seed of weights, shuffling and dropout")
    add("--data", str, "mnist.npz beside the script", ".npz file to train and test on")
    add("--load-model", str, "a new one", "start from this saved .keras model")
    text = "write the model to this .keras file after every epoch"
    add("--save-model", lambda name: output(name, ".keras"), "not saved", text)
    text = "draw the training and the mistakes to this .png, .svg or .pdf file; needs "
    text += "matplotlib"
    add("--plot", lambda name: output(name, ".png", ".svg", ".pdf"), "not drawn", text)
    args = parser.parse_args(argv)

    if args.epochs < 0:
        parser.error("argument --epochs: must be 0 or more")
    if args.batch_size < 1:
        parser.error("argument --batch-size: must be 1 or more")
    if not 0 <= args.seed < 2**32:  # what NumPy takes as a seed
        parser.error("argument --seed: must be from 0 to 4294967295")
    if args.plot:
        try:
            import matplotlib.figure  # noqa: F401
        except ImportError:
            parser.error("argument --plot: needs matplotlib: pip install matplotlib")
    return args


if __name__ == "__main__":
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:  # it was closed
            setattr(sys, name, open(os.devnull, "r+"))  # noqa: SIM115
    try:
        status = main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        status = 130
    except BrokenPipeError:  # head, say, has read enough
        os._exit(1)  # without an attempt to write the rest
    sys.exit(status)
