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
INTERACTIVE = hasattr(sys, "ps1")
CTRL_C = signal.getsignal(signal.SIGINT)
if __name__ == "__main__" and CTRL_C is signal.default_int_handler and not INTERACTIVE:
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

import argparse
import contextlib
import importlib.util
import shutil
import warnings
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile

import numpy as np

# TensorFlow reads these as it loads; a value that is already set wins. oneDNN makes a
# step faster, but is not always the default. Level 1 hides information, not warnings.
SHOW_LOG = "TF_CPP_MIN_LOG_LEVEL" in os.environ
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

# Run as batch work, on Linux: otherwise an epoch may start with a long idle wait for a
# thread of TensorFlow's input pipeline (more on this in tests/benchmarks/README.md).
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

    x: float32, shape (n, 28, 28, 1), values in [0, 1].
    y: float32, shape (n, 10), one-hot.
    path: an .npz file with the uint8 arrays x_train and x_test, shape (n, 28, 28), and
        y_train and y_test, shape (n,), values 0 to 9. By default mnist.npz beside this
        script, else `keras.datasets.mnist`: 60,000 to train and 10,000 to test with.

    Raises ValueError, saying which file and what is wrong with it.
    Source: the MNIST database of Yann LeCun and Corinna Cortes.
    """
    x_train, y_train, x_test, y_test = read_arrays(path)

    # Grey values 0 to 255 become 0 to 1, and the one channel that a grey image has
    # becomes an axis, which Conv2D expects: (n, 28, 28) -> (n, 28, 28, 1).
    x_train = x_train[..., np.newaxis].astype("float32") / 255
    x_test = x_test[..., np.newaxis].astype("float32") / 255

    # Row 3 of the identity matrix, 0 0 0 1 0 0 0 0 0 0, stands for 3: (n,) -> (n, 10).
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
    model.compile("adam", loss="categorical_crossentropy", metrics=["accuracy"])
    return model


def train(model, x, y, batch_size=BATCH_SIZE, epochs=EPOCHS, callbacks=()):
    """Fit the model; return a dict: loss, accuracy, val_loss, val_accuracy by epoch.

    x, y: as from `load_data`; the last tenth is held out for validation.

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
            verbose=1 if sys.stdout.isatty() or INTERACTIVE else 2,
        ).history


def main(argv=None):
    """Run with the options `argv`, by default sys.argv[1:]; return the exit status."""
    args = parse_args(argv)
    try:
        (x_train, y_train), (x_test, y_test) = load_data(args.data)
        digits = np.array([read_digit(path) for path in args.predict])
        path = args.load_model
        model = None if path is None else load_model(path, args.seed)
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
    print(f"Test loss: {loss:.4f}\nTest accuracy: {accuracy:.4f}")

    answers = model.predict(digits, verbose=0) if args.predict else []
    for path, answer in zip(args.predict, answers):
        print(f"{path}: {answer.argmax()} ({100 * answer.max():.1f} %)")

    if args.plot:
        probabilities = model.predict(x_test, batch_size=batch_size, verbose=0)
        readings = list(zip(args.predict, digits, answers))
        drawn = history, x_test, y_test, probabilities, readings
        save(args.plot, lambda path: draw(*drawn).savefig(path), unwritten)
    return 1 if unwritten else 130 if model.stop_training else 0


# --- Behind the story: Keras's start, Ctrl-C, the figure, files, flags ---------------


def load_keras():
    """Return Keras, loaded, and a line with its version, its backend's and the device.

    Without a GPU, TensorFlow's C++ writes alarming lines to standard error, which no
    setting keeps away (its issue 100442). They are held back, unless loading fails, an
    NVIDIA driver does not lead to a GPU, or TF_CPP_MIN_LOG_LEVEL was set.
    """
    with TemporaryFile() as held, os.fdopen(os.dup(2), "wb") as stderr:
        os.dup2(stderr.fileno() if SHOW_LOG else held.fileno(), 2)
        try:
            import keras

            backend = keras.backend.backend()
            version = sys.modules[backend].__version__
            # TensorFlow's tensors are on /job:localhost/replica:0/task:0/device:GPU:0.
            device = str(keras.ops.zeros(()).device).rpartition("device:")[-1]
            if "cpu" not in device.lower() or not shutil.which("nvidia-smi"):
                held.truncate(0)
        finally:
            os.dup2(stderr.fileno(), 2)
            held.seek(0)
            stderr.write(held.read())
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


def draw(history, x, y, probabilities, readings=()):
    """Return a matplotlib figure of the training, of the mistakes and of the readings.

    history as from `train` (empty without epochs), x and y as from `load_data`,
    probabilities for x, float32, shape (n, 10); readings: of each image the path, the
    digit as from `read_digit`, the probabilities.
    """
    from matplotlib.figure import Figure

    true, said = y.argmax(axis=1), probabilities.argmax(axis=1)
    sure = probabilities.max(axis=1)
    wrong = np.flatnonzero(said != true)
    top = wrong[np.argsort(-sure[wrong], kind="stable")][:32]  # most confident first
    title = f"{len(wrong):,} of {len(x):,} test images wrong"
    if len(top) < len(wrong):
        title += f", the {len(top)} most confident of them:"
    tiles = [(x[i], f"is {true[i]}, said {said[i]}\n{sure[i]:.1%} sure") for i in top]
    pairs = []
    for path, digit, output in readings[:32]:
        label = f"said {output.argmax()}\n{output.max():.1%} sure"
        page = 1 - np.asarray(open_grey(path)) / 255
        pairs += [(page, Path(path).name[-12:]), (digit, label)]
    sheets = [(title, tiles)]
    sheets += [("What the network was shown:", pairs)] * bool(pairs)

    heights = [3.0] * bool(history)  # in inches; 8 tiles in a row
    heights += [0.5 + 1.15 * -(-len(tiles) // 8) for _, tiles in sheets]
    figure = Figure(figsize=(8.5, sum(heights)), dpi=120, layout="constrained")
    parts = figure.subfigures(len(heights), height_ratios=heights, squeeze=False)
    for part in parts[: -len(sheets), 0]:
        epochs = range(1, len(history["loss"]) + 1)
        for axes, name in zip(part.subplots(1, 2), ("loss", "accuracy")):
            axes.plot(epochs, history[name], "o-", label="training")
            axes.plot(epochs, history["val_" + name], "s--", label="validation")
            axes.set(xlabel="epoch", ylabel=name)
            axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
            axes.grid(alpha=0.3)
            axes.legend()
    for part, (title, tiles) in zip(parts[-len(sheets) :, 0], sheets):
        part.suptitle(title)
        for position, (tile, label) in enumerate(tiles, start=1):
            axes = part.add_subplot(-(-len(tiles) // 8), 8, position)
            axes.imshow(tile, cmap="gray_r", vmin=0, vmax=1)
            axes.set_title(label, fontsize=9, pad=2, parse_math=False)  # a$b$.png
            axes.axis("off")
    return figure


def open_grey(path):
    """Return an image upright and in grey (mode L), its longer side 200 pixels."""
    from PIL import Image, ImageChops, ImageOps

    with explained("cannot read", path), Image.open(path) as image:
        image.draft("L", (200, 200))  # decodes a large JPEG no larger than needed
        ImageOps.exif_transpose(image, in_place=True)
        if image.mode[0] in "IF":  # more than 8 bits, which convert() would cut off
            image = Image.fromarray(np.asarray(image, "float32"))
            values = np.asarray(ImageOps.contain(image, (200, 200), Image.BILINEAR))
            values = (values - values.min()) * (255 / (np.ptp(values) or 1))
            image = Image.fromarray(np.uint8(values))
        elif image.has_transparency_data:
            image = image.convert("RGBA")
            light, alpha = image.convert("L"), image.getchannel("A")
            ink = ImageChops.multiply(ImageChops.invert(light), alpha)  # on white paper
            image = ImageChops.invert(ink if ink.getbbox() else alpha)  # or white ink
        return ImageOps.contain(image.convert("L"), (200, 200), Image.BILINEAR)


def read_digit(path):
    """Return the digit on an image in the form of MNIST's, which the network takes.

    float32, shape (28, 28, 1), values in [0, 1]: ink 1, paper 0.
    path: an image that Pillow reads, of one digit, dark on light or light on dark.

    Raises ValueError if it cannot be read, or if there is no ink on it.
    Source: the MNIST database's page (20 x 20 pixels, centred by mass in 28 x 28).
    """
    from PIL import Image, ImageFilter, ImageOps

    page = paper = open_grey(path)
    for _ in range(2):
        # Blurred, the page keeps soft shadows but no strokes: that is the paper. The
        # second time it is without the ink found the first time, which darkened it.
        blurred = paper.filter(ImageFilter.GaussianBlur(20))
        ink = np.asarray(blurred, "float32") - page
        ink = np.maximum(ink if np.sum(ink * abs(ink)) > 0 else -ink, 0)  # or light ink
        if ink.max(initial=0) < 10:
            raise ValueError(f"cannot read {path}: there is no ink on it")
        threshold = ink.max() / 2  # then halfway between the means of ink and paper
        threshold = (ink[ink > threshold].mean() + ink[ink <= threshold].mean()) / 2
        paper = Image.composite(blurred, page, Image.fromarray(ink > threshold))
    box = Image.fromarray(ink > threshold).getbbox()
    ink = np.uint8(np.minimum(255 * ink / ink[ink > threshold].mean(), 255))
    digit = ImageOps.contain(Image.fromarray(ink).crop(box), (200, 200))
    digit = ImageOps.expand(digit, 40)  # ten times the size of MNIST's

    # A stroke's area is width times length, its edges are two lengths. MNIST's strokes
    # are 2.5 pixels wide; thinner ones are widened by a blur, which adds 12 times its
    # variance to the square of the width, and made as black as before.
    ink = np.asarray(digit, "float32")
    width = 2 * ink.sum() / np.hypot(*np.gradient(ink)).sum()
    if width < 25:
        radius = float(((25**2 - width**2) / 12) ** 0.5)
        ink = np.asarray(digit.filter(ImageFilter.GaussianBlur(radius)), "float32")
        ink = np.minimum(ink * (255 * ink.sum() / np.sum(ink**2)), 255)

    # MNIST's centre of mass is in the middle of pixel 14 of 0 to 27.
    y, x = (np.average(axis, weights=ink) for axis in np.indices(ink.shape))
    left, top = round(x - 144.5), round(y - 144.5)
    digit = Image.fromarray(np.uint8(ink)).crop((left, top, left + 280, top + 280))
    return np.asarray(digit.reduce(10), "float32")[..., np.newaxis] / 255


@contextlib.contextmanager
def explained(problem, path, archive=False, kind=ValueError):
    """Turn whatever goes wrong with `path` into one error that names it."""
    try:
        if archive and not zipfile.is_zipfile(path):
            open(path).close()  # says what is wrong with a missing file or a folder
            raise ValueError("it is of another format, or was cut short")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is odd, but not wrong
            yield
    except Exception as error:  # of any kind, depending on which byte is damaged
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise kind(f"{problem} {path}: {reason.splitlines()[0]}") from error


def read_arrays(path):
    """Return the uint8 arrays x_train, y_train, x_test, y_test, as `load_data` says."""
    if path is None and not DATA.exists():
        text = f"there is no {DATA}: put it there, or name it with --data; cannot fetch"
        path, (keras, _) = "keras.datasets.mnist", load_keras()
        # The progress bar of a download is no part of the program's output.
        with explained(text, path), contextlib.redirect_stdout(sys.stderr):
            train, test = keras.datasets.mnist.load_data()
        arrays = [*train, *test]
    else:
        path, arrays = DATA if path is None else path, []
        with explained("cannot read", path, archive=True), np.load(path) as archive:
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


def load_model(path, seed=SEED):
    """Return the compiled model at `path`, optimizer as it was, dropout from `seed`.

    Raises ValueError if there is no such model, if Keras's safe mode rejects it, or
    if it does not map (batch, 28, 28, 1) to (batch, 10) and report loss and accuracy.
    """
    with explained("cannot load", path, archive=True):
        keras, _ = load_keras()
        keras.utils.set_random_seed(seed)  # the state of dropout is not in the file
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

    Whoever opens `path` finds the old file or the whole new one. What fails, as on a
    full disk, is printed, and `path` added to the list `unwritten`.
    """
    target = path.resolve()  # so that a link stays a link
    try:
        with (
            explained("cannot write", path),
            TemporaryDirectory(prefix=".mnist.", dir=target.parent) as new,
        ):
            part = Path(new, target.name)
            write(part)
            part.replace(target)
    except ValueError as error:
        unwritten.append(path)
        print(f"\ncnn_mnist.py: {error}", file=sys.stderr)


def saving(model, path, epochs, unwritten):
    """Return the callback that saves the model after every epoch, if any, in a list."""
    import keras

    moment = "on_epoch_end" if epochs else "on_train_end"
    callback = {moment: lambda *_: save(path, model.save, unwritten)}
    return [keras.callbacks.LambdaCallback(**callback)] if path else []


def output(name, *suffixes):
    """Return `name` as a Path, after a check that it can be written."""
    path = Path(name)
    if path.suffix not in suffixes:
        ends = " or ".join(suffixes)
        raise argparse.ArgumentTypeError(f"{path} needs a name that ends in {ends}")
    with explained("cannot write", path.resolve(), kind=argparse.ArgumentTypeError):
        if path.exists():
            path.open("ab").close()  # fails on a folder or a read-only file
        TemporaryDirectory(dir=path.resolve().parent).cleanup()
    return path


def parse_args(argv=None):
    """Return the options; a wrong one exits with status 2, as argparse does."""
    parser = argparse.ArgumentParser(
        prog="cnn_mnist.py",
        description="Train a convolutional network on the MNIST digits.",
        epilog="Exit status: 0 done, 1 something could not be written, 2 a wrong flag "
        "or file, 130 interrupted by Ctrl-C.",
    )

    def add(flag, default, text, metavar="PATH", kind=str, **more):
        text += f" (default: {default})"
        parser.add_argument(flag, metavar=metavar, type=kind, help=text, **more)

    add("--epochs", EPOCHS, "passes over the training data, 0 or more", "N", int)
    add("--batch-size", BATCH_SIZE, "images per training step, 1 or more", "N", int)
    add("--seed", SEED, "seed of weights, shuffling and dropout", "N", int)
    add("--data", "mnist.npz beside the script", ".npz file to train and test on")
    add("--load-model", "a new one", "start from this saved .keras model")
    text = "write the model to this .keras file after every epoch"
    add("--save-model", "not saved", text, kind=lambda p: output(p, ".keras"))
    text = "draw training and mistakes to this .png, .svg or .pdf; needs matplotlib"
    add("--plot", "not drawn", text, kind=lambda p: output(p, ".png", ".svg", ".pdf"))
    text = "read the digits on these images; needs pillow"
    add("--predict", "none", text, "IMAGE", nargs="+")
    parser.set_defaults(epochs=EPOCHS, batch_size=BATCH_SIZE, seed=SEED, predict=[])
    args = parser.parse_args(argv)

    if args.epochs < 0:
        parser.error("argument --epochs: must be 0 or more")
    if args.batch_size < 1:
        parser.error("argument --batch-size: must be 1 or more")
    if not 0 <= args.seed < 2**32:  # what NumPy takes as a seed
        parser.error("argument --seed: must be from 0 to 4294967295")
    needs = {"plot": ("matplotlib", "matplotlib"), "predict": ("PIL", "pillow")}
    for name, (module, package) in needs.items():
        if getattr(args, name) and not importlib.util.find_spec(module):
            parser.error(f"argument --{name}: needs {package}: pip install {package}")
    return args


if __name__ == "__main__":
    for name in ("stdin", "stdout", "stderr"):  # None stands for a closed one
        setattr(sys, name, getattr(sys, name) or open(os.devnull, "r+"))  # noqa: SIM115
    try:
        status = main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        status = 130
    except BrokenPipeError:  # head, say, has read enough
        os._exit(1)  # without an attempt to write the rest
    sys.exit(status)
