#!/usr/bin/env python3
# /// script
# requires-python = ">=3.11,<3.14"
# dependencies = ["tensorflow>=2.20,<3", "keras>=3.15.1,<4", "numpy>=1.26,<3"]
# ///
"""Train the classic Keras convolutional network on the MNIST digits.

    python3 cnn_mnist.py

After 15 epochs the test accuracy is about 0.991. It varies a little with the seed,
usually between 0.989 and 0.993.
"""

import argparse
import contextlib
import faulthandler
import functools
import importlib.util
import math
import os
import shutil
import signal
import sys
import warnings
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

NUM_CLASSES = 10
INPUT_SHAPE = (28, 28, 1)
BATCH_SIZE = 128
EPOCHS = 15
VALIDATION_SPLIT = 0.1
SEED = 1
DATA = Path(__file__).resolve().with_name("mnist.npz")


def load_data(path=DATA):
    """Return `(x_train, y_train), (x_test, y_test)`, ready for the network.

    x: float32, shape (n, 28, 28, 1), values in [0, 1]; y: float32, (n, 10), one-hot.
    path: an .npz file of uint8 arrays: x_train, x_test, shape (n, 28, 28), and y_train,
        y_test, shape (n,), values 0 to 9. Keras downloads MNIST if DATA is missing.

    Raises InputError, a ValueError. Source: the MNIST database of LeCun and Cortes.
    """
    x_train, y_train, x_test, y_test = read_arrays(path)

    # Grey values of 0 to 255 become 0 to 1: the random first weights suit small inputs.
    # Conv2D expects an axis of channels. A grey image has one channel: (n, 28, 28, 1).
    x_train = x_train[..., np.newaxis].astype("float32") / 255
    x_test = x_test[..., np.newaxis].astype("float32") / 255

    # Ten outputs, so the label 3 becomes row 3 of the identity: 0 0 0 1 0 0 0 0 0 0.
    one_hot = np.eye(NUM_CLASSES, dtype="float32")
    return (x_train, one_hot[y_train]), (x_test, one_hot[y_test])


def build_model():
    """Return Keras's `mnist_convnet`, compiled but untrained. README.md explains it.

    Input: float32, shape (batch, 28, 28, 1), values in [0, 1].
    Output: float32, shape (batch, 10), the probability of each digit.
    """
    keras = load_keras()
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input(shape=INPUT_SHAPE),
            layers.Conv2D(32, kernel_size=(3, 3), activation="relu"),  # (26, 26, 32)
            layers.MaxPooling2D(pool_size=(2, 2)),  # (13, 13, 32)
            layers.Conv2D(64, kernel_size=(3, 3), activation="relu"),  # (11, 11, 64)
            layers.MaxPooling2D(pool_size=(2, 2)),  # (5, 5, 64)
            layers.Flatten(),  # (1600,)
            layers.Dropout(0.5),  # against learning the images by heart
            layers.Dense(NUM_CLASSES, activation="softmax"),  # (10,)
        ]
    )
    model.compile(
        loss="categorical_crossentropy", optimizer="adam", metrics=["accuracy"]
    )
    return model


def train(model, x, y, batch_size=BATCH_SIZE, epochs=EPOCHS, callbacks=()):
    """Train the model; return a dict of loss, accuracy, val_loss and val_accuracy.

    x, y: as from `load_data`. The last tenth of the images is kept for validation.
    Each value of the dict is a list with one number for each epoch.
    """
    # A terminal or a notebook gets a progress bar (1), a file one line an epoch (2).
    verbose = 1 if sys.stdout.isatty() or hasattr(sys, "ps1") else 2
    history = model.fit(
        x, y, batch_size, epochs, verbose, callbacks, validation_split=VALIDATION_SPLIT
    )
    return history.history


def main(argv=None):
    """Run with the given options (default: the command line's); return the status."""
    args = parse_args(argv)
    try:
        (x_train, y_train), (x_test, y_test) = load_data(args.data)
        pages = [open_grey(path) for path in args.predict]
        digits = [read_digit(path, page) for path, page in zip(args.predict, pages)]
        keras = load_keras()
        keras.utils.set_random_seed(args.seed)
        model = load_model(args.load_model) if args.load_model else build_model()
    except InputError as error:
        print(f"cnn_mnist.py: error: {error}", file=sys.stderr)
        return 2

    print_versions(keras)
    model.summary()

    def save_model(*_):
        return save(args.save_model, model.save) if args.save_model else True

    batch_size = min(args.batch_size, len(x_train))  # TensorFlow refuses 10**30
    with ctrl_c_stops(keras, model) as ctrl_c:
        callbacks = [keras.callbacks.LambdaCallback(on_epoch_end=save_model), ctrl_c]
        history = train(model, x_train, y_train, batch_size, args.epochs, callbacks)
    written = save_model()  # also with 0 epochs, or after a failed save

    loss, accuracy = model.evaluate(x_test, y_test, batch_size=batch_size, verbose=0)
    print(f"Test loss: {loss:.4f}\nTest accuracy: {accuracy:.4f}")

    answers = model.predict(np.array(digits), verbose=0) if digits else []
    for path, answer in zip(args.predict, answers):
        print(f"{path}: {answer.argmax()} ({100 * answer.max():.1f} %)")

    if args.plot:
        probabilities = model.predict(x_test, batch_size=batch_size, verbose=0)
        readings = list(zip(args.predict, pages, digits, answers))
        figure = draw(history, x_test, y_test, probabilities, readings)
        written &= save(args.plot, figure.savefig)
    return 1 if not written else 130 if ctrl_c.pressed else 0


# --- The plumbing: files, Keras, Ctrl-C, photographs, the figure, options ------------
LEAST_INK = 10  # of 255: fainter marks count as paper


class InputError(ValueError):
    """A file, or the arrays in it, cannot be used."""


@contextlib.contextmanager
def reading(path):
    """Turn whatever goes wrong while a file is read into an InputError of one line."""
    try:
        with warnings.catch_warnings(action="ignore"):  # a warning is no error
            yield
    except Exception as error:  # damaged files raise errors of many kinds
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise InputError(f"cannot read {path}: {reason.splitlines()[0]}") from error


def read_arrays(path=DATA):
    """Return the uint8 arrays x_train, y_train, x_test, y_test, as `load_data` says."""
    names = ("x_train", "y_train", "x_test", "y_test")
    source = path
    if path == DATA and not DATA.exists():
        keras = load_keras()
        source = f"keras.datasets.mnist (there is no {DATA}; --data takes another file)"
        with reading(source), contextlib.redirect_stdout(sys.stderr):  # a progress bar
            train, test = keras.datasets.mnist.load_data()
        arrays = [*train, *test]
    else:
        with reading(path):
            zipfile.ZipFile(path).close()  # NumPy calls any other file a pickle
            with np.load(path) as archive:
                arrays = [np.asarray(archive[name]) for name in names]
    n, m = arrays[1].size, arrays[3].size
    shapes = ((n, 28, 28), (n,), (m, 28, 28), (m,))
    expected = ", ".join(f"{name} uint8 {shape}" for name, shape in zip(names, shapes))
    found = ", ".join(f"{name} {a.dtype} {a.shape}" for name, a in zip(names, arrays))
    if found != expected:
        raise InputError(f"{source}: found {found}; expected {expected}")
    # Keras needs two, to hold one out. With ten, a tenth is a whole image.
    if n < 10 or m < 1 or max(arrays[1].max(), arrays[3].max()) >= NUM_CLASSES:
        raise InputError(f"{source}: needs 10 images to train, 1 to test, labels 0-9")
    return arrays


def load_model(path):
    """Return the compiled model saved at `path`, with its optimizer's state.

    Raises InputError if there is none, if Keras's safe mode rejects it, or if it does
    not map (batch, 28, 28, 1) to (batch, 10) and report loss and accuracy.
    """
    keras = load_keras()
    with reading(path):
        zipfile.ZipFile(path).close()  # Keras calls an invalid file a missing one
        model = keras.saving.load_model(path, safe_mode=True)
        shapes = model.input_shape, model.output_shape
        if shapes != ((None, *INPUT_SHAPE), (None, NUM_CLASSES)):
            raise ValueError("it maps {} to {}, not (28, 28, 1) to 10".format(*shapes))
        compiled = model.get_compile_config()
        metrics = list(compiled.get("metrics") or [])
        metrics += compiled.get("weighted_metrics") or []
        names = [m if isinstance(m, str) else m["config"]["name"] for m in metrics]
        text = str(compiled).lower()
        wrong = "sparse" in text or "'from_logits': true" in text
        if wrong or names != ["accuracy"] or not compiled["loss"]:
            raise ValueError("not compiled for probabilities, one-hot labels, accuracy")
    return model


@functools.cache
def load_keras():
    """Import Keras quietly and return the module.

    Without a GPU, TensorFlow prints alarming lines that no setting turns off (its issue
    100442). So standard error is off meanwhile, unless TF_CPP_MIN_LOG_LEVEL is set.
    """
    show = "TF_CPP_MIN_LOG_LEVEL" in os.environ
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")  # warnings, but no information
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # makes steps faster
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # memory as needed
    with os.fdopen(os.dup(2), "wb") as stderr, open(os.devnull, "wb") as nowhere:
        os.dup2((stderr if show else nowhere).fileno(), 2)
        try:
            import keras

            keras.ops.zeros(())  # looks for a GPU, which prints some of these lines
        except Exception as error:
            error.add_note("TF_CPP_MIN_LOG_LEVEL=0 in the environment may show more.")
            raise
        finally:
            os.dup2(stderr.fileno(), 2)
    return keras


def print_versions(keras):
    """Print what computes and where: "Keras 3.15.1 with tensorflow 2.21.0 on CPU:0"."""
    backend = keras.backend.backend()
    version = sys.modules[backend].__version__
    # TensorFlow's tensors are on /job:localhost/replica:0/task:0/device:GPU:0.
    device = str(keras.ops.zeros(()).device).rpartition("device:")[-1]
    print(f"Keras {keras.__version__} with {backend} {version} on {device}")
    if "cpu" in device.lower() and shutil.which("nvidia-smi"):
        print("NVIDIA GPU unused: TF_CPP_MIN_LOG_LEVEL=0 says why", file=sys.stderr)


@contextlib.contextmanager
def ctrl_c_stops(keras, model):
    """Let Ctrl-C end the training after the current step, and a second one at once.

    Yields the callback for fit; its `pressed` says whether Ctrl-C was pressed. Python
    loses a KeyboardInterrupt raised in a destructor, so we install a signal handler.
    """
    previous = signal.getsignal(signal.SIGINT)

    def stop(signum, frame):
        signal.signal(signal.SIGINT, previous)
        model.stop_training = callback.pressed = True
        with contextlib.suppress(OSError):  # whoever reads it may be gone
            print("\nStopping after this step. Ctrl-C again: at once.", file=sys.stderr)

    def listen(logs):  # not earlier, as fit() first sets stop_training to False
        if previous not in (None, signal.SIG_IGN):
            with contextlib.suppress(ValueError):  # only the main thread can listen
                signal.signal(signal.SIGINT, stop)

    callback = keras.callbacks.LambdaCallback(on_train_begin=listen)
    callback.pressed = False
    try:
        yield callback
    finally:
        if signal.getsignal(signal.SIGINT) is stop:
            signal.signal(signal.SIGINT, previous)


def save(path, write):
    """Let `write` fill a new file, then move it to `path`. Return whether it worked."""
    target = Path(os.path.realpath(path))  # so that a link stays a link
    try:
        with TemporaryDirectory(prefix=".mnist.", dir=target.parent) as folder:
            new = Path(folder, "new" + path.suffix)  # Keras wants a .keras
            write(new)
            new.replace(target)
    except OSError as error:
        print(f"\ncannot write {path}: {error.strerror or error}", file=sys.stderr)
        return False
    return True


def open_grey(path):
    """Return an image upright and in grey (mode L), its longer side 200 pixels."""
    from PIL import Image, ImageChops, ImageOps

    with reading(path), Image.open(path) as image:
        ImageOps.exif_transpose(image, in_place=True)
        mode = "LA" if image.has_transparency_data else "L"
        mode = "F" if image.mode[0] in "IF" else mode
        page = ImageOps.contain(image.convert(mode), (200, 200), Image.BILINEAR)
        page.getpixel((0, 0))  # fails if nothing is left of a very thin one
        if mode == "F":  # as L would cut off at 255
            v = np.nan_to_num(page, nan=np.nanmedian(page))
            page = Image.fromarray(np.uint8(np.interp(v, (v.min(), v.max()), (0, 255))))
        elif mode == "LA":
            light, alpha = page.split()
            dark = ImageChops.multiply(ImageChops.invert(light), alpha)  # on white
            page = ImageChops.invert(dark if np.ptp(dark) > 2 * LEAST_INK else alpha)
        return page


def find_ink(page):
    """Return how much darker each pixel is than its paper: 0 is paper, 255 is black."""
    from PIL import Image, ImageFilter, ImageOps

    page = page.filter(ImageFilter.GaussianBlur(1))  # against noise
    # Ink is dark if darker than its blurred surroundings. The border may show a table.
    middle = ImageOps.crop(page, round(0.15 * min(page.size)))
    darker = np.float32(middle.filter(ImageFilter.GaussianBlur(20))) - middle
    page = page if np.sum(darker * abs(darker)) > 0 else ImageOps.invert(page)
    # A closing fills what is narrower than 56 pixels: strokes, but no shadow or table.
    page = np.pad(page, 28, "edge")  # so that a table is wide enough
    paper = Image.fromarray(page).reduce(2)
    for step in [ImageFilter.MaxFilter(5)] * 7 + [ImageFilter.MinFilter(5)] * 7:
        paper = paper.filter(step)
    paper = np.float32(paper.resize(page.shape[::-1]))
    light = paper.clip(max(0.6 * paper.max(), 1))  # a dark table's grain stays faint
    ink = np.where(paper - page > LEAST_INK, 255 * (paper - page) / light, 0)
    return ink[28:-28, 28:-28]


def read_digit(path, page=None):
    """Return an image's digit as MNIST has it: float32, (28, 28, 1), paper 0 to ink 1.

    path: an image that Pillow reads, of one digit, dark on light or light on dark.
    page: what `open_grey` returns for it. Raises InputError, also if there is no ink.
    Source: the MNIST database's page (20 x 20 pixels, centred by mass in 28 x 28).
    """
    from PIL import Image, ImageFilter, ImageOps

    ink = find_ink(open_grey(path) if page is None else page)
    if not ink.any():
        raise InputError(f"cannot read {path}: there is no ink on it")
    threshold = ink.max() / 2  # then halfway between the means of ink and paper
    threshold = (ink[ink > threshold].mean() + ink[ink <= threshold].mean()) / 2
    box, black = Image.fromarray(ink > threshold).getbbox(), ink[ink > threshold].mean()
    ink[ink < 0.75 * threshold] = 0  # ruled lines; the edges of strokes stay
    digit = Image.fromarray(np.uint8(np.minimum(255 * ink / black, 255))).crop(box)
    digit = ImageOps.expand(ImageOps.contain(digit, (200, 200)), 40)
    # A stroke's width is its area over half the length of its edges: here 25 in MNIST.
    # A bar's variance is width**2 / 12, and a blur adds its own. So thin ones widen.
    ink = np.float32(digit)
    width = 2 * ink.sum() / np.hypot(*np.gradient(ink)).sum()
    radius = float(max(25**2 - width**2, 0) / 12) ** 0.5
    ink = np.float32(digit.filter(ImageFilter.GaussianBlur(radius)))
    ink = np.minimum(ink * (255 * ink.sum() / np.sum(ink**2)), 255)  # black again
    # MNIST's centre of mass is in the middle of pixel 14 of 0 to 27.
    y, x = (round(np.average(i, weights=ink) - 144.5) for i in np.indices(ink.shape))
    digit = Image.fromarray(np.uint8(ink)).crop((x, y, x + 280, y + 280))
    return np.float32(digit.reduce(10))[..., np.newaxis] / 255


def draw(history, x, y, probabilities, readings=()):
    """Return a matplotlib figure of the training, of the mistakes and of the readings.

    history: as from `train`. x, y: as from `load_data`; probabilities: predicted for x.
    readings: of each image the path, the grey page, the digit and the probabilities.
    """
    from matplotlib.figure import Figure

    true, said = y.argmax(axis=1), probabilities.argmax(axis=1)
    sure = probabilities.max(axis=1)
    wrong = sorted(np.flatnonzero(said != true), key=lambda i: -sure[i])
    head = f"{len(wrong):,} of {len(x):,} test images wrong, the most confident first:"
    sheets = {head: []}
    for i in wrong[:32]:
        sheets[head].append((x[i], f"is {true[i]}, said {said[i]}\n{sure[i]:.1%} sure"))
    for path, page, digit, answer in readings[:32]:
        shown = sheets.setdefault("Your images, and what the network was shown:", [])
        name = Path(path).name[-12:].encode(errors="replace").decode()
        shown.append((1 - np.asarray(page) / 255, name))
        shown.append((digit, f"said {answer.argmax()}\n{answer.max():.1%} sure"))

    heights = [3.0] if history else []  # in inches; the tiles stand in rows of 8
    heights += [0.5 + 1.15 * math.ceil(len(tiles) / 8) for tiles in sheets.values()]
    figure = Figure(figsize=(8.5, sum(heights)), dpi=120, layout="constrained")
    parts = figure.subfigures(len(heights), height_ratios=heights, squeeze=False)
    if history:
        epochs = range(1, len(history["loss"]) + 1)
        for axes, name in zip(parts[0, 0].subplots(1, 2), ("loss", "accuracy")):
            axes.plot(epochs, history[name], "o-", label="training")
            axes.plot(epochs, history["val_" + name], "s--", label="validation")
            axes.set(xlabel="epoch", ylabel=name)
            axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
            axes.legend()
    for part, (title, tiles) in zip(parts[-len(sheets) :, 0], sheets.items()):
        part.suptitle(title)
        for position, (image, label) in enumerate(tiles, start=1):
            axes = part.add_subplot(math.ceil(len(tiles) / 8), 8, position)
            axes.imshow(image, cmap="gray_r", vmin=0, vmax=1)
            axes.set_title(label, fontsize=9, pad=2, parse_math=False)  # $ in a name
            axes.axis("off")
    return figure


def parse_args(argv=None):
    """Return the options; a wrong one exits with status 2, as argparse does."""
    parser = argparse.ArgumentParser(
        prog="cnn_mnist.py",
        description="Train a convolutional network on the MNIST digits.",
        epilog="Exit status: 0 done, 1 something could not be written, 2 a wrong "
        "option or file, 130 interrupted by Ctrl-C.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--epochs", type=int, default=EPOCHS, help="passes over the training data")
    add("--batch-size", type=int, default=BATCH_SIZE, help="images in a training step")
    add("--seed", type=int, default=SEED, help="seed of weights, shuffling and dropout")
    add("--data", default=DATA, help="the .npz file to train and test on")
    add("--load-model", type=Path, help="start from this .keras model, not a new one")
    add("--save-model", type=Path, help="save to this .keras file after every epoch")
    add("--plot", type=Path, help="draw the results to this .png, .svg or .pdf file")
    add("--predict", metavar="IMAGE", nargs="+", default=[], help="read these digits")
    args = parser.parse_args(argv)
    if args.epochs < 0 or args.batch_size < 1 or not 0 <= args.seed < 2**32:
        parser.error("needs --epochs >= 0, --batch-size >= 1 and 0 <= --seed < 2**32")
    if args.plot and not importlib.util.find_spec("matplotlib"):
        parser.error("--plot needs matplotlib: pip install matplotlib")
    if args.predict and not importlib.util.find_spec("PIL"):
        parser.error("--predict needs pillow: pip install pillow")
    for path, ends in ((args.save_model, ".keras"), (args.plot, ".png .svg .pdf")):
        if path is None:
            continue
        suffix = path.suffix if ends == ".keras" else path.suffix.lower()  # for Keras
        if suffix not in ends.split():
            parser.error(f"cannot write {path}: its name must end in {ends}")
        try:
            TemporaryDirectory(dir=os.path.dirname(os.path.realpath(path))).cleanup()
            with contextlib.suppress(FileNotFoundError):
                path.open("r+b").close()  # fails on a folder or a read-only file
        except OSError as error:
            parser.error(f"cannot write {path}: {error.strerror or error}")
        for source in filter(os.path.exists, [args.data, *args.predict]):
            if path.exists() and path.samefile(source):
                parser.error(f"cannot write {path}: {source} would be lost")
    return args


if __name__ == "__main__":
    if hasattr(sys, "ps1"):  # %run in a notebook: the process is not ours to change
        sys.exit(main())
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # Outside `model.fit`, Ctrl-C ends the process at once, without a traceback.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    for name in ("stdin", "stdout", "stderr"):  # None if closed from the start
        setattr(sys, name, getattr(sys, name) or open(os.devnull, "r+"))  # noqa: SIM115
    faulthandler.enable(os.dup(2))  # shows where, if a library crashes the process
    with contextlib.suppress(AttributeError, OSError):
        sys.stdout.reconfigure(errors="backslashreplace")  # for what it cannot encode
        # Under Linux's batch scheduling, no epoch starts with a wait of seconds for
        # TensorFlow's input pipeline (tests/benchmarks/README.md says more).
        if os.sched_getscheduler(0) == os.SCHED_OTHER:
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    try:
        status = main()
        sys.stdout.flush()
    except BrokenPipeError:  # nobody reads any more, as after `| head`
        os._exit(1)  # without an attempt to write the rest
    if status == 130 and os.name == "posix":
        signal.raise_signal(signal.SIGINT)  # ends a shell's loop over the script, too
    sys.exit(status)
