#!/usr/bin/env python3
# /// script
# requires-python = ">=3.11,<3.14"
# dependencies = ["tensorflow>=2.20,<3", "keras>=3.15.1,<4", "numpy>=1.26,<3"]
# ///
"""Train the classic Keras convolutional network on the MNIST digits.

    python3 cnn_mnist.py

README.md says how to install what it needs, and explains every step.
After 15 epochs the test accuracy is about 0.991, with other seeds mostly 0.989 to 0.993.
Part 1 is the program. Read parts 2 to 8 when you want to change what they do.
"""

import argparse
import base64
import contextlib
import faulthandler
import functools
import glob
import importlib
import json
import math
import os
import shutil
import signal
import sys
import threading
import warnings
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

# === 1. The program: data, network, training, main. Read this, and change it. =========
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
        y_test, shape (n,), values 0 to 9. If DATA is the path, but missing, Keras
        downloads MNIST.
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
    layers = keras.layers  # define layers of your own at the end of part 7
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
        loss="categorical_crossentropy",
        optimizer="adam",  # keras.optimizers.Adam(learning_rate=0.001) is the same
        metrics=["accuracy"],
    )
    return model


def train(model, x, y, batch_size=BATCH_SIZE, epochs=EPOCHS, callbacks=()):
    """Train the model; return a dict of loss, accuracy, val_loss and val_accuracy.

    x, y: as from `load_data`. The last VALIDATION_SPLIT of them is for validation.
    Each value of the dict is a list with one number for each epoch. With 0 epochs the dict
    is empty.
    """
    history = model.fit(
        x=x,
        y=y,
        batch_size=batch_size,
        epochs=epochs,
        validation_split=VALIDATION_SPLIT,
        callbacks=callbacks,
        verbose=verbosity(),
    )
    return history.history


def main(argv=None):
    """Run with the options `argv`, or those of the command line; return the status."""
    args = parse_args(argv)
    try:
        (x_train, y_train), (x_test, y_test) = load_data(args.data)
        photographs = [Photograph(path) for path in args.predict]
        if args.load_model:
            check_zip(args.load_model)  # before Keras loads, which takes seconds
        keras.utils.set_random_seed(args.seed)
        model = load_model(args.load_model) if args.load_model else build_model()
        if args.page:
            page_of(model)  # before the training, as it may raise InputError
    except InputError as error:
        print(f"cnn_mnist.py: error: {error}", file=sys.stderr)
        return 2

    print_versions()
    model.summary()

    batch_size = min(args.batch_size, len(x_train))  # TensorFlow fails on huge ones
    with ctrl_c_stops_training() as ctrl_c:
        callbacks = [model_saver(args.save_model), ctrl_c]
        history = train(model, x_train, y_train, batch_size, args.epochs, callbacks)

    results = model.evaluate(
        x_test, y_test, batch_size=batch_size, verbose=0, return_dict=True
    )
    print_results(results)
    predict_photographs(model, photographs)
    all_written = write_files(args, model, history, x_test, y_test, photographs)

    if not all_written:
        return 1
    if ctrl_c.pressed:
        return 130
    return 0


# === 2. Data and model files: reading, checking, saving ===============================
# Read this to change what is read or saved, or what is refused.
ARRAY_NAMES = ("x_train", "y_train", "x_test", "y_test")


class InputError(ValueError):
    """A file cannot be used, or a package that it needs is missing."""


@contextlib.contextmanager
def reading(path):
    """Raise InputError, in one line, for any error while a file is read.

    Wrap only the call that reads the file. Then our own mistakes keep their traceback.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # odd, but readable
            yield
    except Exception as error:  # damaged files raise errors of many kinds
        raise InputError(f"cannot read {path}: {reason_of(error)}") from error


def reason_of(error):
    """Return what an error says, in one line."""
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return reason.splitlines()[0]


def check_zip(path):
    """Raise InputError unless the file is a zip archive, as .npz and .keras files are.

    NumPy calls most other files a pickle. Keras says that there is no such file.
    """
    with reading(path):
        zipfile.ZipFile(path).close()


def read_arrays(path=DATA):
    """Return the uint8 arrays x_train, y_train, x_test, y_test, as `load_data` says."""
    if Path(path) == DATA and not DATA.exists():
        source = f"keras.datasets.mnist (there is no {DATA}; --data takes another file)"
        # Outside `reading`: if Keras cannot be imported, the file is not to blame.
        download = keras.datasets.mnist.load_data
        # The progress bar is not a result, so it goes to standard error.
        with reading(source), contextlib.redirect_stdout(sys.stderr):
            (x_train, y_train), (x_test, y_test) = download()
        arrays = [x_train, y_train, x_test, y_test]
    else:
        source = path
        check_zip(path)
        with reading(path), np.load(path) as archive:
            # A file in the archive that is not an array comes as bytes.
            arrays = [np.asarray(archive[name]) for name in ARRAY_NAMES]
    check_arrays(source, *arrays)
    return arrays


def check_arrays(source, x_train, y_train, x_test, y_test):
    """Raise InputError unless the arrays are images and labels for the network."""
    rows, columns, _ = INPUT_SHAPE
    for name, array, shape in (
        # The labels first: their number says how many images there must be.
        ("y_train", y_train, (y_train.size,)),
        ("y_test", y_test, (y_test.size,)),
        ("x_train", x_train, (y_train.size, rows, columns)),
        ("x_test", x_test, (y_test.size, rows, columns)),
    ):
        if array.dtype != np.uint8 or array.shape != shape:
            found = f"{array.dtype} {array.shape}"
            raise InputError(f"{source}: {name} is {found}, not uint8 {shape}")

    if len(x_train) < 10:  # a tenth of them is held out
        raise InputError(f"{source}: needs at least 10 images to train")
    if len(x_test) < 1:
        raise InputError(f"{source}: needs at least 1 image to test")
    largest = max(y_train.max(), y_test.max())
    if largest >= NUM_CLASSES:
        labels = f"0 to {NUM_CLASSES - 1}"
        raise InputError(f"{source}: has a label {largest}, needs labels {labels}")


def load_model(path):
    """Return the compiled model saved at `path`, with its optimizer's state.

    Raises InputError if there is none, if Keras's safe mode rejects it, or if the model
    does not do what `check_model` asks.
    """
    load = keras.saving.load_model  # outside `reading`, as in read_arrays
    check_zip(path)
    with reading(path):
        model = load(path, safe_mode=True)
    check_model(path, model)
    return model


def check_model(path, model):
    """Raise InputError unless shapes fit, outputs add up to 1, and there is a loss.

    We try the model on noise. That is surer than to search its configuration.
    """
    found = (getattr(model, "input_shape", None), getattr(model, "output_shape", None))
    expected = ((None, *INPUT_SHAPE), (None, NUM_CLASSES))
    if found != expected:
        maps = f"it maps {found[0]} to {found[1]}, not {expected[0]} to {expected[1]}"
        raise InputError(f"cannot read {path}: {maps}")

    noise = np.random.default_rng(seed=0)
    images = noise.random(size=(NUM_CLASSES, *INPUT_SHAPE), dtype="float32")
    labels = np.eye(NUM_CLASSES, dtype="float32")
    probabilities = np.asarray(model.predict(images, verbose=0), dtype="float32")
    sums = probabilities.sum(axis=1)
    if not np.allclose(sums, 1, atol=0.01):  # numbers of 16 bits are not exact
        raise InputError(f"cannot read {path}: its outputs are not probabilities")

    try:
        model.evaluate(images, labels, verbose=0)
    except Exception as error:  # it is not compiled, has no loss, or wants integers
        reason = f"it cannot be evaluated with one-hot labels: {reason_of(error)}"
        raise InputError(f"cannot read {path}: {reason}") from error


def model_saver(path):
    """Return the Keras callback that saves the model to `path` after every epoch."""

    class ModelSaver(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if path:
                save(path, self.model.save)

    return ModelSaver()


def write_files(args, model, history, x, y, photographs):
    """Write the files that the options ask for; return whether all could be written."""
    outcomes = []
    if args.save_model:
        # Once more: with 0 epochs nothing is saved yet, and EarlyStopping may have
        # restored the best weights after the last epoch.
        outcomes.append(save(args.save_model, model.save))
    if args.plot:
        outcomes.append(save_figure(args.plot, model, history, x, y, photographs))
    if args.page:
        page = page_of(model)
        outcomes.append(save(args.page, lambda file: file.write_text(page, "utf-8")))
    return all(outcomes)


def save(path, write):
    """Let `write` fill a new file, then move it to `path`. Return whether it worked.

    So a crash leaves no half-written file, unless `put_in_place` can only copy. Ctrl-C
    waits until the file is whole.
    """
    target = Path(os.path.realpath(path))  # a link stays a link
    try:
        with (
            ctrl_c_waits(),
            TemporaryDirectory(prefix=".mnist.", dir=target.parent) as folder,
        ):
            # The suffix decides the format.
            new_file = Path(folder, "new" + path.suffix)
            write(new_file)
            put_in_place(new_file, target)
    except OSError as error:
        print(f"\ncannot write {path}: {reason_of(error)}", file=sys.stderr)
        return False
    return True


def put_in_place(new_file, target):
    """Move `new_file` to `target`, and keep the permissions of the file that was there."""
    with contextlib.suppress(FileNotFoundError):
        shutil.copymode(target, new_file)
    try:
        new_file.replace(target)
    except OSError:
        # Docker can mount a file so that it is writable, but cannot be replaced.
        shutil.copyfile(new_file, target)


# === 3. Your own photographs: from an image file to a digit as MNIST has it ===========
# Read this if your handwriting is misread. `choose_channel` decides about colours,
# `find_ink` what is darker than the paper, `choose_parts` what belongs to the digit, and
# `crop_digit` how dark ink has to be. `form_digit` gives the digit MNIST's form.
with contextlib.suppress(Exception):  # check_package says so, if Pillow is needed
    from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageOps, ImageStat

PAGE_SIDE = 200  # pixels: the longer side of the page on which ink is measured
CELL = 4  # pixels of the page: parts of the ink are told apart on a map of such cells
LEAST_INK = 10  # of 255: fainter marks count as paper
LEAST_MARK = 8  # of 255, on a page of 50 pixels: there, thin strokes are fainter
LEAST_PIXELS = 100  # fewer pixels of ink are noise: on the page, the digit is large
WIDEST_STROKE = 0.28  # of the longer side: what is wider is a shadow or a table
STROKE_WIDTH = 25  # of 280 pixels: the usual width of a stroke in MNIST


class Photograph:
    """An image of a digit: its file, what was made of it, and what the network says.

    Raises InputError if Pillow cannot read the file, or if there is no ink on it.
    """

    def __init__(self, path):
        grey = open_grey(path)
        ink = find_digit(grey)
        if np.count_nonzero(ink) < LEAST_PIXELS:
            raise InputError(f"cannot read {path}: there is no ink on it")
        self.path = path
        self.page = fit(grey, PAGE_SIDE)  # as large as the figure shows it
        self.digit = form_digit(ink)
        self.number_of_digits = count_digits(ink)
        self.probabilities = None  # until predict_photographs: float32, shape (10,)


def read_digit(path):
    """Return an image's digit as MNIST has it: float32, (28, 28, 1), paper 0 to ink 1.

    path: an image that Pillow reads, of one digit, dark on light or light on dark.
    Raises InputError, also if there is no ink.
    """
    return Photograph(path).digit


def predict_photographs(model, photographs):
    """Let the model read the photographs, and print a line for each."""
    if not photographs:
        return
    digits = np.array([photograph.digit for photograph in photographs])
    predictions = model.predict(digits, verbose=0)
    for photograph, probabilities in zip(photographs, predictions):
        photograph.probabilities = probabilities
        percent = f"{100 * probabilities.max():.1f} %"
        print(printable(f"{photograph.path}: {probabilities.argmax()} ({percent})"))
        if photograph.number_of_digits > 1:
            seen = f"{photograph.number_of_digits} digits side by side"
            print(f"{photograph.path}: has {seen}, read as one", file=sys.stderr)


def open_grey(path):
    """Return an image upright, in its full size, in shades of grey (a Pillow image, L).

    Raises InputError if Pillow cannot read it.
    """
    check_package("--predict", "pillow", module="PIL.Image")
    add_heic_to_pillow()
    try:
        with reading(path), Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
    except InputError as error:
        is_heic = Path(path).suffix.lower() in (".heic", ".heif")
        if not is_heic or not Path(path).is_file():
            raise
        advice = "pip install pillow-heif, or save it as JPEG"
        raise InputError(f"{error}; {advice}") from error

    if image.mode.startswith(("I", "F")):  # integers of 16 or 32 bits, or floats
        return stretch_to_8_bits(np.asarray(image, "float64"))
    if image.has_transparency_data:
        return lay_on_white(image.convert("RGBA"))
    return choose_channel(image.convert("RGB"))


def add_heic_to_pillow():
    """Let Pillow read HEIC, the format of iPhones, where pillow-heif is installed."""
    with contextlib.suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()


def stretch_to_8_bits(values):
    """Return numbers of any range as a grey image, the lowest black, the highest white.

    What is no number, or infinite, gets the median of the others.
    """
    is_known = np.isfinite(values)
    known = values[is_known] if is_known.any() else np.zeros(1)
    values = np.where(is_known, values, np.median(known))
    values = np.interp(values, (known.min(), known.max()), (0, 255))
    return Image.fromarray(np.uint8(values))


def lay_on_white(image):
    """Return an RGBA image in grey on white paper, or its alpha if the paper hides it."""
    paper = Image.new("RGBA", image.size, "white")
    page = choose_channel(Image.alpha_composite(paper, image).convert("RGB"))
    darkest, lightest = page.getextrema()
    return page if lightest - darkest > 2 * LEAST_INK else image.getchannel("A")


def choose_channel(image):
    """Return an RGB image in grey, or the channel that shows more than twice as much.

    Red ink and green paper can have the same grey. Yellow ink on white paper shows only
    in the blue channel.
    """
    page = fit(image, PAGE_SIDE)
    colours = detail(page)
    [grey] = detail(page.convert("L"))
    if max(colours) > 2 * grey:
        return image.getchannel(colours.index(max(colours)))
    return image.convert("L")


def detail(page):
    """Return how much each channel differs from its surroundings, as a list."""
    surroundings = page.filter(ImageFilter.GaussianBlur(20))
    return ImageStat.Stat(ImageChops.difference(page, surroundings)).rms


def fit(image, side, box=None):
    """Return an image, or the box of it, with a longer side of `side` pixels."""
    box = box or (0, 0, *image.size)
    width, height = box[2] - box[0], box[3] - box[1]
    scale = side / max(width, height)
    size = [max(1, round(scale * length)) for length in (width, height)]
    return image.resize(size, Image.Resampling.BILINEAR, box, reducing_gap=3)


def find_digit(grey):
    """Return the digit's ink: float32, shape (height, width), 0 for paper, 255 for black.

    All other ink, such as a frame or a speck, is 0, too.
    """
    ink = find_ink(zoom_in(grey))
    cells = choose_parts(mean_of_cells(ink))
    mask = cells.repeat(CELL, axis=0).repeat(CELL, axis=1)
    height, width = ink.shape
    return np.where(mask[:height, :width], ink, 0)


def zoom_in(grey):
    """Return the page around the digit, with half of the digit's size on each side.

    If the image ends before that, so does the page. Only a picture that ends at the edges
    of its digit gets paper around it.
    """
    page = fit(grey, PAGE_SIDE // CELL)
    digit = choose_parts(find_marks(page))
    if not digit.any():
        return fit(grey, PAGE_SIDE)
    if is_cut_out(page, digit):
        return add_paper(fit(grey, PAGE_SIDE // 2))
    box = box_of(digit)
    margin = size_of(box) / 2
    box_on_page = box + (-margin, -margin, margin, margin)
    scale = max(grey.size) / max(page.size)
    box_on_image = scale * box_on_page
    width, height = grey.size
    box_on_image = np.clip(box_on_image, 0, (width, height, width, height))
    return fit(grey, PAGE_SIDE, box=tuple(box_on_image))


def is_cut_out(page, digit):
    """Return whether a picture ends at the edges of its digit.

    Then the largest part of the digit reaches all four sides, and both ink and paper are
    at the border. Around a page on a table there is only the table.
    """
    left, top, right, bottom = box_of(max(find_parts(digit), key=np.sum))
    reaches_all_sides = max(left, top, page.width - right, page.height - bottom) <= 1
    values = np.asarray(page, "float32")
    return reaches_all_sides and np.ptp(border_of(values)) > 0.85 * np.ptp(values)


def add_paper(page):
    """Return a page with a margin that is as light as most of its border.

    page: PAGE_SIDE / 2 pixels long. The result is PAGE_SIDE pixels long.
    """
    paper = np.median(border_of(np.asarray(page)))
    return ImageOps.expand(page, border=PAGE_SIDE // 4, fill=int(paper))


def border_of(values):
    """Return the outermost values of an array of two dimensions."""
    return np.concatenate([values[0], values[-1], values[:, 0], values[:, -1]])


def find_ink(page):
    """Return how much darker than its paper each pixel is: 0 is paper, 255 is black.

    page: a grey image. If its ink is lighter than its paper, return how much lighter.
    """
    page = page.filter(ImageFilter.GaussianBlur(1))  # against noise
    if is_light_on_dark(page):
        page = ImageOps.invert(page)
    paper = fill_dark_strokes(np.asarray(page.reduce(2), "float32"))
    paper = np.asarray(Image.fromarray(paper).resize(page.size))
    darkness = paper - np.asarray(page, "float32")
    return 255 * share_of_light(darkness, paper, faintest=LEAST_INK)


def share_of_light(darkness, paper, faintest):
    """Return how dark each pixel is, as a share of its paper, and 0 where it is faint.

    As a share, ink counts as much in a shadow as elsewhere. But then the grain of a dark
    table would count as ink. So no paper counts as darker than 60 % of the brightest.
    """
    light = np.maximum(paper, max(0.6 * paper.max(), 1))
    return np.where(darkness > faintest, darkness / light, 0)


def is_light_on_dark(page):
    """Return whether a page's ink is lighter than its paper.

    There are two signs of dark ink, each from -1 (no) to 1 (yes). Ink is in the minority:
    where it is dark, dark pixels differ more from the mean around them than light ones do.
    And the page without its dark strokes varies less than without its light ones. This is
    less sure, but helps where the strokes fill the picture.
    """
    page = page.reduce(CELL)
    middle = ImageOps.crop(page, int(0.15 * min(page.size)))  # beyond may be a table
    around = np.asarray(middle.filter(ImageFilter.GaussianBlur(5)), "float32")
    darker = around - np.asarray(middle, "float32")
    signed_squares = darker * np.abs(darker)
    minority = np.sum(signed_squares) / max(np.sum(darker**2), 1)

    page = np.asarray(page, "float32")
    without_dark = variation(fill_dark_strokes(page))
    without_light = variation(fill_dark_strokes(255 - page))
    both = max(without_dark + without_light, 1)
    smoothness = (without_light - without_dark) / both
    return minority + smoothness / 4 < 0


def find_marks(page):
    """Return how much each pixel differs from the paper around it, darker or lighter.

    It is a share of the paper's light, and 0 where it is faint.
    """
    page = np.asarray(page, "float32")
    light_paper = fill_dark_strokes(page)
    dark_paper = 255 - fill_dark_strokes(255 - page)
    marks = np.maximum(light_paper - page, page - dark_paper)
    return share_of_light(marks, light_paper, faintest=LEAST_MARK)


def fill_dark_strokes(page):
    """Return a page (an array) whose dark strokes are filled with paper.

    What is wider than WIDEST_STROKE stays.
    """
    reach = round(WIDEST_STROKE * max(page.shape) / 2)
    # This also widens what is at the border, so a table there stays.
    page = np.pad(page, 2 * reach, "edge")
    return slide(slide(page, reach, np.max), reach, np.min)  # a morphological closing


def slide(values, reach, choose):
    """Return the largest (np.max) or smallest (np.min) value up to `reach` pixels away.

    The result is smaller by `reach` at each side.
    """
    for axis in (0, 1):
        windows = np.lib.stride_tricks.sliding_window_view(values, 2 * reach + 1, axis)
        values = choose(windows, axis=-1)
    return values


def variation(page):
    """Return the sum of the absolute differences between neighbouring pixels."""
    return sum(np.abs(np.diff(page, axis=axis)).sum() for axis in (0, 1))


def mean_of_cells(ink):
    """Return the mean ink of each cell of CELL by CELL pixels: a map of the page."""
    return np.asarray(Image.fromarray(ink).reduce(CELL))


def find_parts(strength):
    """Return a mask for each connected part of the ink on a map, a cell larger all round."""
    is_ink = Image.fromarray(np.uint8(strength > strength.max() / 3))
    # Each part grows by a cell, so parts with a gap of two cells become one.
    rest = is_ink.filter(ImageFilter.MaxFilter(3))
    parts = []
    while rest.getbbox():
        before = np.asarray(rest)
        row, column = np.argwhere(before)[0].tolist()
        ImageDraw.floodfill(rest, (column, row), value=0)
        erased = before != np.asarray(rest)
        parts.append(erased)
    return parts


def choose_parts(strength):
    """Return the mask of the digit on a map: its largest part, and what belongs to it.

    That is a part near it, such as the flag of a 5, or more than half as tall, such as
    another digit. A part that surrounds another one is a frame or a table. It is left out.
    """
    digit = np.zeros(strength.shape, bool)
    parts = find_parts(strength)
    if not parts:
        return digit
    boxes = [box_of(part) for part in parts]
    not_frames = []
    for part in parts:
        if not any(surrounds(part, box) for box in boxes):
            not_frames.append(part)
    largest = max(not_frames, key=lambda part: strength[part].sum())
    for part in not_frames:
        is_tall = height_of(part) > height_of(largest) / 2
        if is_tall or are_near(box_of(part), box_of(largest)):
            digit |= part
    return digit


def surrounds(frame, box):
    """Return whether the mask `frame` is a frame around the box of another part.

    There are three conditions. The box is inside the frame's box. It has at least a quarter
    of its size: a dot in a zero has less. And the frame is on all four sides of the box, or
    nowhere near it: the rest of a 3 is near its loose stroke, but not on all sides.
    """
    frame_box = box_of(frame)
    is_inside = (box[:2] > frame_box[:2]).all() and (box[2:] < frame_box[2:]).all()
    if not is_inside or size_of(box) < size_of(frame_box) / 4:
        return False
    left, top, right, bottom = box.astype(int)
    is_on_all_sides = (
        frame[top:bottom, :left].any()
        and frame[top:bottom, right:].any()
        and frame[:top, left:right].any()
        and frame[bottom:, left:right].any()
    )
    gap = int(size_of(box) / 4)
    near = frame[max(top - gap, 0) : bottom + gap, max(left - gap, 0) : right + gap]
    return is_on_all_sides or not near.any()


def are_near(box, digit_box):
    """Return whether the gap between two boxes is below a quarter of the digit's size."""
    # Of the distances to the left, above, right and below, the largest is the gap.
    gap = np.max([box[:2] - digit_box[2:], digit_box[:2] - box[2:]])
    return gap < size_of(digit_box) / 4


def box_of(mask):
    """Return the box around a mask: an array of left, top, right and bottom."""
    return np.array(Image.fromarray(mask).getbbox(), "float32")


def size_of(box):
    """Return the longer side of a box."""
    return max(box[2:] - box[:2])


def height_of(part):
    """Return how many rows of the map a part takes."""
    return part.any(axis=1).sum()


def count_digits(ink):
    """Return how many parts of the ink stand side by side, if they are tall enough.

    Each has to be more than half as tall as the tallest.
    """
    parts = find_parts(mean_of_cells(ink))
    tallest = max(map(height_of, parts))
    tall = [part for part in parts if height_of(part) > tallest / 2]
    column_has_ink = np.any(tall, axis=(0, 1))
    column_before_has_ink = np.append(False, column_has_ink[:-1])
    return int(np.sum(column_has_ink & ~column_before_has_ink))


def form_digit(ink):
    """Return a digit's ink in MNIST's form: float32, shape (28, 28, 1), values in [0, 1].

    Source: the MNIST database's page (20 x 20 pixels, centred by mass in 28 x 28).
    """
    return centre_by_mass(widen_thin_strokes(crop_digit(ink)))


def crop_digit(ink):
    """Return the digit as an image: its longer side is 200 pixels, its margin 40."""
    is_ink = ink > ink.max() / 2  # a first guess
    # Better: halfway between the mean of the ink and that of the paper.
    threshold = (ink[is_ink].mean() + ink[~is_ink].mean()) / 2
    is_ink = ink > threshold
    mean_ink = ink[is_ink].mean()
    box = Image.fromarray(is_ink).getbbox()
    # Ruled lines are fainter and go. The soft edges of strokes stay.
    ink = np.where(ink < 0.75 * threshold, 0, ink)
    digit = Image.fromarray(np.uint8(np.minimum(255 * ink / mean_ink, 255)))
    return ImageOps.expand(ImageOps.contain(digit.crop(box), (200, 200)), 40)


def widen_thin_strokes(digit):
    """Return the image with strokes at least as wide as MNIST's.

    A stroke's width is its area over half the length of its edges. Across the stroke, the
    ink's variance is width**2 / 12. A blur adds its own variance, so we choose the blur
    that leads to STROKE_WIDTH.
    """
    ink = np.asarray(digit, "float32")
    edges = np.hypot(*np.gradient(ink)).sum()
    width = 2 * ink.sum() / edges
    variance = max(STROKE_WIDTH**2 - width**2, 0) / 12
    digit = digit.filter(ImageFilter.GaussianBlur(math.sqrt(variance)))
    ink = np.asarray(digit, "float32")
    mean_ink = np.sum(ink**2) / ink.sum()
    black_again = np.minimum(255 * ink / mean_ink, 255)
    return Image.fromarray(np.uint8(black_again))


def centre_by_mass(digit):
    """Return float32, shape (28, 28, 1), the centre of mass in the middle of pixel 14."""
    ink = np.asarray(digit, "float32")
    rows, columns = np.indices(ink.shape)
    top = round(np.average(rows, weights=ink) - 144.5)  # pixel 14 is 140 to 149 here
    left = round(np.average(columns, weights=ink) - 144.5)
    digit = digit.crop((left, top, left + 280, top + 280)).reduce(10)
    return np.asarray(digit, "float32")[..., np.newaxis] / 255


# === 4. The figure of --plot: curves, mistakes, photographs ===========================
# Read this to draw something else, or in another format.
TILES_IN_A_ROW = 8
MOST_IMAGES = 32  # of the mistakes, and of the photographs: more make it too long
FIGURE_SUFFIXES = (".png", ".svg", ".pdf", ".PNG", ".SVG", ".PDF")


def save_figure(path, model, history, x_test, y_test, photographs):
    """Draw the results to a file; return whether that worked."""
    probabilities = model.predict(x_test, verbose=0)
    figure = draw(history, x_test, y_test, probabilities, photographs)
    with warnings.catch_warnings():
        # If the font lacks the letters of a file's name, boxes stand for them.
        warnings.filterwarnings("ignore", message="Glyph")
        return save(path, figure.savefig)


def draw(history, x, y, probabilities, photographs=()):
    """Return a matplotlib figure of the training, the mistakes and the photographs.

    history: as from `train`. x, y: as from `load_data`; probabilities: predicted for x.
    photographs: of the class Photograph, after `predict_photographs`.
    """
    from matplotlib.figure import Figure

    groups = [mistakes(x, y, probabilities)]
    if photographs:
        groups.append(pages_and_digits(photographs))
    metrics = [name for name in history if not name.startswith("val_")]

    heights = [3.0 * math.ceil(len(metrics) / 2)] if metrics else []  # in inches
    for _, tiles in groups:
        heights.append(0.5 + 1.15 * math.ceil(len(tiles) / TILES_IN_A_ROW))
    figure = Figure(figsize=(8.5, sum(heights)), dpi=120, layout="constrained")
    subfigures = figure.subfigures(len(heights), height_ratios=heights, squeeze=False)
    subfigures = iter(subfigures.flat)
    if metrics:
        draw_curves(next(subfigures), metrics, history)
    for title, tiles in groups:
        draw_tiles(next(subfigures), title, tiles)
    return figure


def mistakes(x, y, probabilities):
    """Return a title, and a tile (image, caption) for each digit that is misread."""
    true_digits = y.argmax(axis=1)
    predicted = probabilities.argmax(axis=1)
    confidence = probabilities.max(axis=1)
    wrong = np.flatnonzero(predicted != true_digits)
    wrong = wrong[np.argsort(-confidence[wrong], kind="stable")]

    tiles = []
    for i in wrong[:MOST_IMAGES]:
        caption = f"is {true_digits[i]}, said {predicted[i]}\n{confidence[i]:.1%} sure"
        tiles.append((x[i], caption))
    title = f"{len(wrong):,} of {len(x):,} test images wrong"
    if len(wrong) > len(tiles):
        title += f"; the {len(tiles)} most confident answers:"
    return title, tiles


def pages_and_digits(photographs):
    """Return a title, and two tiles for each photograph: the page, and its digit."""
    shown = photographs[:MOST_IMAGES]
    tiles = []
    for photograph in shown:
        name = Path(photograph.path).name[-12:]  # as long as a tile is wide
        name = name.encode(errors="replace").decode()  # it may not be UTF-8
        tiles.append((1 - np.asarray(photograph.page) / 255, name))
        answer = photograph.probabilities
        caption = f"said {answer.argmax()}\n{answer.max():.1%} sure"
        tiles.append((photograph.digit, caption))
    title = f"{len(shown)} of your {len(photographs)} images"
    return f"{title}, each beside what the network was shown:", tiles


def draw_curves(subfigure, metrics, history):
    """Draw the numbers of each epoch, two diagrams in a row."""
    for position, name in enumerate(metrics, start=1):
        axes = subfigure.add_subplot(math.ceil(len(metrics) / 2), 2, position)
        epochs = range(1, len(history[name]) + 1)
        axes.plot(epochs, history[name], "o-", label="training")
        validation = history.get("val_" + name, [])
        if len(validation) == len(epochs):  # there may be none, or not in each epoch
            axes.plot(epochs, validation, "s--", label="validation")
        axes.set(xlabel="epoch", ylabel=name)
        axes.locator_params(axis="x", integer=True, min_n_ticks=1)
        axes.legend()


def draw_tiles(subfigure, title, tiles):
    """Draw images in rows, paper white and ink black, with their captions."""
    subfigure.suptitle(title)
    rows = math.ceil(len(tiles) / TILES_IN_A_ROW)
    for position, (image, caption) in enumerate(tiles, start=1):
        axes = subfigure.add_subplot(rows, TILES_IN_A_ROW, position)
        axes.imshow(image, cmap="gray_r", vmin=0, vmax=1)
        axes.set_title(caption, fontsize=9, pad=2, parse_math=False)  # a name with $
        axes.axis("off")


# === 5. The page of --page: draw.html with this network in it =========================
# Read this if you use a layer that draw.html does not know. Add its class to HTML_LAYERS,
# and a function that calculates it to LAYERS in draw.html.
HTML_PAGE = Path(__file__).resolve().with_name("draw.html")
HTML_LAYERS = ("Conv2D", "MaxPooling2D", "Flatten", "Dropout", "Dense")
HTML_OPTIONS = {"data_format": "channels_last", "dilation_rate": (1, 1), "groups": 1}
HTML_ACTIVATIONS = ("linear", "relu", "softmax", "gelu", "tanh", "sigmoid")


def page_of(model):
    """Return the text of draw.html with the network of this model in it.

    Raises InputError if draw.html cannot be read, or cannot do what the model does.
    """
    with reading(HTML_PAGE):
        page = HTML_PAGE.read_text(encoding="utf-8")
    start_of_page, network_starts, old_network = page.partition('id="network">')
    _, network_ends, end_of_page = old_network.partition("</script>")
    if not network_ends:
        raise InputError(f"cannot read {HTML_PAGE}: there is no network to replace")

    if isinstance(model, keras.Sequential) and not model.built:  # without an Input
        model.build((None, *INPUT_SHAPE))
    if not hasattr(model, "input_shape"):  # a class with a `call` of its own
        raise InputError("draw.html needs a Sequential or a functional model")
    InputLayer = keras.layers.InputLayer
    layers = [layer for layer in model.layers if not isinstance(layer, InputLayer)]
    if getattr(layers[-1], "activation", None) is not keras.activations.softmax:
        raise InputError("draw.html needs a last layer with softmax")
    descriptions = [layer_description(layer) for layer in layers]
    # draw.html runs the layers one after another. Is this what the model does?
    image = np.ones((1, *INPUT_SHAPE), dtype="float32")
    values = image
    for layer in layers:
        values = layer(values)
    if not np.allclose(values, model(image), atol=0.01):  # 16 bits are not exact
        raise InputError("draw.html needs layers that are one chain")

    arrays = [array for layer in layers for array in layer.get_weights()]
    weights = b"".join(array.astype("<f4").tobytes() for array in arrays)
    network = {
        "layers": descriptions,
        "weights": base64.b64encode(weights).decode(),
    }
    text = json.dumps(network).replace("<", r"\u003c")  # a "</script>" would end it
    return start_of_page + network_starts + text + network_ends + end_of_page


def layer_description(layer):
    """Return what draw.html needs to know of a layer, as a dict without its weights.

    Raises InputError if draw.html does not know the layer.
    """
    kind = type(layer).__name__
    config = layer.get_config()
    is_known = kind in HTML_LAYERS
    for option, only_known_value in HTML_OPTIONS.items():
        if option in config and config[option] != only_known_value:
            is_known = False
    if kind == "Dense" and len(layer.input.shape) > 2:
        is_known = False
    if not is_known:
        raise InputError(f"draw.html does not know the layer {layer.name} ({kind})")
    if config.get("activation", "linear") not in HTML_ACTIVATIONS:
        raise InputError(f"draw.html does not know the activation of {layer.name}")
    config["class"] = kind
    config["input_shape"] = layer.input.shape[1:]
    config["output_shape"] = layer.output.shape[1:]
    config["weights"] = [array.shape for array in layer.get_weights()]
    return config


# === 6. The command line: options, and what is printed ================================
# Read this to add an option, or to print something else.
def parse_args(argv=None):
    """Return the options; a wrong one exits with status 2, as argparse does."""
    parser = option_parser()
    args = parser.parse_args(argv)
    if args.epochs < 0 or args.batch_size < 1 or not 0 <= args.seed < 2**32:
        parser.error("needs --epochs >= 0, --batch-size >= 1 and 0 <= --seed < 2**32")
    args.predict = expand_patterns(args.predict)
    try:
        if args.plot:
            check_package("--plot", "matplotlib", module="matplotlib.figure")
        if args.predict:
            check_package("--predict", "pillow", module="PIL.Image")
        check_output(args.save_model, [".keras"], args)
        check_output(args.plot, FIGURE_SUFFIXES, args)
        check_output(args.page, [".html"], args)
    except InputError as error:
        parser.error(error)
    return args


def option_parser():
    """Return the parser that knows the options and their defaults."""
    parser = argparse.ArgumentParser(
        prog="cnn_mnist.py",
        description="Train a convolutional network on the MNIST digits.",
        epilog="Exit status: 0 done, 1 something could not be written, 2 a wrong "
        "option or file, 130 interrupted by Ctrl-C.",
    )
    for option, default, text in (
        ("--epochs", EPOCHS, "passes over the training data"),
        ("--batch-size", BATCH_SIZE, "images in a training step"),
        ("--seed", SEED, "seed of weights, shuffling and dropout"),
    ):
        help_text = f"{text} (default: {default})"
        parser.add_argument(option, type=int, default=default, help=help_text)
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FILE",
        default=DATA,
        help="the .npz file to train and test on (default: mnist.npz beside the script)",
    )
    for option, text in (
        ("--load-model", "go on with this .keras model; --epochs counts from it"),
        ("--save-model", "save to this .keras file after every epoch"),
        ("--plot", "draw the results to this .png, .svg or .pdf file"),
        ("--page", "write draw.html with the trained network to this .html file"),
    ):
        parser.add_argument(option, type=Path, metavar="FILE", help=text)
    parser.add_argument(
        "--predict",
        metavar="IMAGE",
        nargs="+",
        action="extend",
        default=[],
        help="read the digits on these images",
    )
    return parser


def expand_patterns(names):
    """Return the names, with the files that match in place of a pattern such as *.png.

    Windows leaves that to the program.
    """
    paths = []
    for name in names:
        matches = [] if os.path.exists(name) else sorted(glob.glob(name))
        paths.extend(matches or [name])
    return paths


def check_package(option, package, module):
    """Raise InputError unless the package can be imported."""
    try:
        importlib.import_module(module)
    except Exception as error:  # not installed, or installed and broken
        advice = f"{option} needs {package}: pip install {package}"
        raise InputError(f"{advice} ({reason_of(error)})") from error


def check_output(path, suffixes, args):
    """Raise InputError if there is a path, and writing to it would fail or do harm."""
    if path is None:
        return
    if path.suffix not in suffixes:
        endings = " ".join(suffixes)
        raise InputError(f"cannot write {path}: its name must end in {endings}")
    folder = os.path.dirname(os.path.realpath(path))
    try:
        TemporaryDirectory(dir=folder).cleanup()  # fails if no file can be made there
        with contextlib.suppress(FileNotFoundError):
            path.open("r+b").close()  # fails on a folder or a read-only file
    except OSError as error:
        raise InputError(f"cannot write {path}: {reason_of(error)}") from error
    for source in [args.data, *args.predict]:
        if path.exists() and os.path.exists(source) and path.samefile(source):
            raise InputError(f"cannot write {path}: {source} would be lost")


def verbosity():
    """Return how `fit` shows its progress: 1 a bar, 2 a line an epoch, 0 nothing."""
    if sys.stdout is None or sys.stdout.closed:  # no output at all
        return 0
    is_interactive = hasattr(sys, "ps1")  # a notebook, or Python's prompt
    if sys.stdout.isatty() or is_interactive:
        return 1
    return 2


def print_versions():
    """Print a line such as "Keras 3.15.1 with tensorflow 2.21.0 on CPU:0"."""
    backend = keras.backend.backend()
    version = sys.modules[backend].__version__
    # TensorFlow's tensors are on /job:localhost/replica:0/task:0/device:GPU:0.
    device = str(keras.ops.zeros(()).device).rpartition("device:")[-1]
    print(f"Keras {keras.__version__} with {backend} {version} on {device}")
    if "cpu" in device.lower() and shutil.which("nvidia-smi"):
        print("NVIDIA GPU unused: TF_CPP_MIN_LOG_LEVEL=0 says why", file=sys.stderr)


def print_results(results):
    """Print the loss, then each metric. Of a value for each class, print the mean."""
    for name in ["loss", *sorted(results.keys() - {"loss"})]:
        print(f"Test {name}: {np.mean(results[name]):.4f}")


def printable(text):
    """Return the text with escapes for what standard output cannot encode."""
    # sys.stdout.reconfigure would avoid the error after which Keras uses plain signs.
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, errors="backslashreplace").decode(encoding)


# === 7. What TensorFlow, Keras and Linux need =========================================
# Rarely worth changing. It keeps the screen quiet, Ctrl-C safe and the training fast.
class LateKeras:
    """Stands for the module keras, and imports it when something of it is first used.

    The import takes seconds. A wrong option is answered before it.
    """

    def __getattr__(self, name):
        return getattr(load_keras(), name)


@functools.cache
def load_keras():
    """Import Keras quietly and return the module, set to what `build_model` assumes.

    Without a GPU, TensorFlow prints alarming lines, and no setting turns them off
    (TensorFlow's issue 100442). So we silence standard error during the import, unless
    the user has set TF_CPP_MIN_LOG_LEVEL.
    """
    user_wants_messages = "TF_CPP_MIN_LOG_LEVEL" in os.environ
    silence = contextlib.nullcontext() if user_wants_messages else stderr_silenced()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")  # warnings, but no information
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # makes steps faster
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # memory as needed
    try:
        with silence:
            import keras

            keras.ops.zeros(())  # looks for a GPU, which prints some of these lines
    except Exception as error:
        error.add_note("TF_CPP_MIN_LOG_LEVEL=0 in the environment may show more.")
        raise
    # An old keras.json in the user's folder may say otherwise.
    keras.config.set_image_data_format("channels_last")
    keras.config.set_floatx("float32")
    return keras


@contextlib.contextmanager
def stderr_silenced():
    """Discard what is written to standard error, by C++ code too."""
    try:
        stderr = os.dup(2)
    except OSError:  # it is closed already
        yield
        return
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


@contextlib.contextmanager
def ctrl_c_stops_training():
    """Let Ctrl-C end the training after the current step. A second Ctrl-C ends it at once.

    Yields the callback for fit. Its `pressed` says whether Ctrl-C was pressed. We use a
    signal handler, as Python sometimes loses a KeyboardInterrupt.
    """
    previous = signal.getsignal(signal.SIGINT)

    class CtrlC(keras.callbacks.Callback):
        pressed = False

        def on_train_begin(self, logs=None):
            # Not earlier: fit() begins by setting stop_training to False.
            if may_handle_ctrl_c():
                signal.signal(signal.SIGINT, self.stop)

        def stop(self, signum, frame):
            signal.signal(signal.SIGINT, previous)
            self.pressed = True
            self.model.stop_training = True
            message = "\nStopping after this step. Ctrl-C again: at once."
            # Standard error may be closed, or busy with a message just now.
            with contextlib.suppress(OSError, ValueError, RuntimeError):
                print(message, file=sys.stderr)

    ctrl_c = CtrlC()
    try:
        yield ctrl_c
    finally:
        if signal.getsignal(signal.SIGINT) == ctrl_c.stop:
            signal.signal(signal.SIGINT, previous)


@contextlib.contextmanager
def ctrl_c_waits():
    """Hold Ctrl-C back until the end of the block."""
    if not may_handle_ctrl_c():
        yield
        return
    presses = []
    previous = signal.signal(
        signal.SIGINT, lambda signum, frame: presses.append(signum)
    )
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
        for _ in presses:
            signal.raise_signal(signal.SIGINT)


def may_handle_ctrl_c():
    """Return whether this thread can handle Ctrl-C, and nobody wants it to be ignored."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT)  # None: not set by Python
    return in_main_thread and handler not in (None, signal.SIG_IGN)


def become_batch_work():
    """Tell Linux that this is batch work, unless the user has chosen otherwise.

    Then no epoch starts with a wait of seconds for TensorFlow's input pipeline
    (tests/benchmarks/README.md says more).
    """
    with contextlib.suppress(AttributeError, OSError):  # not Linux, or not permitted
        if os.sched_getscheduler(0) == os.SCHED_OTHER:
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


keras = LateKeras()
# Here is the place for layers of your own, such as `class Noise(keras.layers.Layer)`.


# === 8. The start =====================================================================
# What the process needs before `main` and after it. It is rarely worth changing.
def run_as_program():
    """Prepare the process, call `main`, and end with its status."""
    if hasattr(sys, "ps1"):  # %run in a notebook: the process is not ours to change
        sys.exit(main())
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # Outside `model.fit`, Ctrl-C ends the process at once, without a traceback.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    open_closed_streams()
    # It shows where a library crashes. It gets a copy of standard error (2), which
    # load_keras silences.
    faulthandler.enable(os.dup(2))
    become_batch_work()
    try:
        status = main()
        sys.stdout.flush()
    except BrokenPipeError:  # nobody reads any more, as after `| head`
        os._exit(1)  # without an attempt to write the rest
    if status == 130 and os.name == "posix":
        signal.raise_signal(signal.SIGINT)  # ends a shell's loop over the script, too
    sys.exit(status)


def open_closed_streams():
    """Open the null device for each standard stream that was closed from the start.

    The order matters: each takes the lowest number that is free, 0, 1 or 2.
    """
    nowhere = Path(os.devnull)
    if sys.stdin is None:
        sys.stdin = nowhere.open()
    if sys.stdout is None:
        sys.stdout = nowhere.open("w")
    if sys.stderr is None:
        sys.stderr = nowhere.open("w")


if __name__ == "__main__":
    run_as_program()
