"""How well `cnn_mnist.read_digit` reads photographs, beside images merely shrunk.

    python tests/benchmarks/handwriting.py MODEL.keras [MODEL.keras ...]

The photographs are simulated from MNIST's test digits, in each condition from the same
ones. With --folder they are instead all images below it whose names begin with their
digit. In the table: the percentage read correctly, the mean over the models. An image
that `read_digit` refuses is named, and counts as misread. --plot draws some of the
simulated ones, each beside what `read_digit` makes of it.
"""

import argparse
import sys
import textwrap
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from machine import machine
from PIL import Image, ImageDraw, ImageFilter

import cnn_mnist

CONDITIONS = {
    "MNIST's own images": "as it is",
    "the same, dark on light": "inverted",
    "dark ink on a page": "",
    "page in light that fades to 40 %": "gradient",
    "page half in a soft shadow": "soft shadow",
    "page half in a hard shadow": "hard shadow",
    "squared paper": "squares",
    "page on a table": "table",
    "page on a wooden table": "wood",
    "page, ballpoint pen": "thin",
    "page, felt pen": "thick",
    "chalk on a board": "chalk",
    "page of 18 to 40 pixels": "tiny",
    "digit of 8 % of the page's width": "small",
    "digit cut out to its edges": "cut out",
}
PENS = {"thin": (0.8, 1.4), "thick": (3.5, 4.5)}  # in MNIST's pixels
SCALE = 8  # by which a digit is enlarged as it is drawn


# --- The photographs ----------------------------------------------------------


def skeleton(ink):
    """Return the middle lines, one pixel wide, of what is True (Zhang and Suen)."""
    before = None
    while not np.array_equal(ink, before):
        before = ink
        for first in (True, False):
            # The eight neighbours, clockwise from the one above.
            steps = [(1, 0), (1, -1), (0, -1), (-1, -1)]
            steps += [(-y, -x) for y, x in steps]
            ring = np.array([np.roll(ink, step, (0, 1)) for step in steps])
            count, starts = ring.sum(0), (~ring & np.roll(ring, -1, 0)).sum(0)
            n, e, s, w = ring[::2]
            inside = (e & s & (n | w)) if first else (n & w & (e | s))
            gone = (count >= 2) & (count <= 6) & (starts == 1) & ~inside
            ink = ink & ~gone
    return ink


def drawn(digit, pen):
    """Return one of MNIST's digits, enlarged, as a Pillow image, ink 255, else 0.

    pen: the width of the strokes in MNIST's pixels; 0 keeps its own, of about 2.5.
    """
    size = (28 * SCALE, 28 * SCALE)
    strokes = Image.fromarray(digit).resize(size, Image.Resampling.BICUBIC)
    strokes = strokes.filter(ImageFilter.GaussianBlur(SCALE / 4))
    if pen:
        lines = Image.new("L", size)
        for y, x in np.argwhere(skeleton(np.asarray(strokes) > 100)):
            ImageDraw.Draw(lines).circle((x, y), pen * SCALE / 2, 255)
        strokes = lines.filter(ImageFilter.GaussianBlur(1))
    return strokes.point(lambda value: (value - 100) * 5 + 128)  # sharp edges


def photograph(digit, extra, rng):
    """Return a page with one of MNIST's digits on it, as uint8."""
    if extra in ("as it is", "inverted"):
        return digit if extra == "as it is" else 255 - digit

    side = rng.integers(80, 201)
    size = np.int64(side * rng.uniform(1, 2, 2))
    if extra == "small":
        side //= 2
        size = np.int64(side / 0.08 * np.array([1.3, 1]))
    top, left = rng.integers(0, size - side + 1)
    paper, contrast = rng.uniform(150, 250), rng.uniform(0.4, 0.9)
    blur, noise, tiny = rng.uniform(0.3, 1.2), rng.uniform(1, 5), rng.integers(18, 41)
    pen = rng.uniform(*PENS.get(extra, (0, 0)))
    angle, middle, edge = rng.uniform([0, -0.1, 0.05], [2 * np.pi, 0.1, 0.3])

    strokes = drawn(digit, pen).resize((side, side))
    ink = np.zeros(size)
    ink[top : top + side, left : left + side] = np.asarray(strokes) / 255
    page = paper * (1 - contrast * ink)
    if extra == "chalk":
        page = 255 - paper + (paper - 40) * contrast * ink

    # From 0 at one side of the page, or corner, to 1 at the opposite one.
    y, x = np.indices(page.shape)
    way = y / size[0] * np.sin(angle) + x / size[1] * np.cos(angle)
    way = (way - way.min()) / np.ptp(way)
    if extra == "gradient":
        page *= 1 - 0.6 * way
    elif extra.endswith("shadow"):
        edge = 0.001 if extra == "hard shadow" else edge
        page *= 1 - 0.45 * np.clip((way - 0.5 - middle) / edge + 0.5, 0, 1)
    elif extra == "squares":  # their lines are 25 % darker, under the ink
        step = side / rng.uniform(3, 6)
        lines = (y % step < side / 80) | (x % step < side / 80)
        page = np.minimum(page, np.where(lines, 0.75 * paper, 255))
    elif extra in ("table", "wood"):  # darker or lighter than the paper, and rough
        top, left = (np.array(page.shape) * rng.uniform(0.05, 0.15)).astype(int)
        grey = rng.choice([rng.uniform(60, 110), 250])
        table = rng.normal(grey, 6, (size[0] + 2 * top, size[1] + 2 * left))
        if extra == "wood":  # the grain runs along the rows
            grain = rng.normal(0, 15, (len(table), table.shape[1] // 20 + 1))
            table += np.repeat(grain, 20, axis=1)[:, : table.shape[1]]
        table[top : top + size[0], left : left + size[1]] = page
        page = table.clip(0, 255)
    elif extra == "cut out":
        left, top, right, bottom = Image.fromarray(ink > 0.5).getbbox()
        page = page[top:bottom, left:right]

    page = Image.fromarray(np.uint8(page)).filter(ImageFilter.GaussianBlur(blur))
    if extra == "tiny":
        factor = tiny / max(page.size)
        page = page.resize([max(1, round(factor * length)) for length in page.size])
    page = np.asarray(page)
    return np.uint8(np.clip(page + rng.normal(0, noise, page.shape), 0, 255))


def simulated(extra, digits, folder):
    """Write the digits' photographs to the folder; return their paths."""
    paths = [Path(folder, f"{i}.bmp") for i in range(len(digits))]
    for i, (path, digit) in enumerate(zip(paths, digits)):
        rng = np.random.default_rng(i)  # so that conditions differ in one thing only
        page = photograph(digit, extra, rng)
        Image.fromarray(page).save(path)
    return paths


# --- Reading them -------------------------------------------------------------


def ways(path):
    """Return what the network is shown of an image: an array for each column."""
    shrunk = np.asarray(cnn_mnist.open_grey(path).resize((28, 28)), "float32") / 255
    border = np.concatenate([shrunk[0], shrunk[-1], shrunk[:, 0], shrunk[:, -1]])
    light = border.mean() > shrunk.mean()
    try:
        digit = cnn_mnist.read_digit(path)[..., 0]
    except ValueError as error:
        print(error, file=sys.stderr)
        digit = np.zeros((28, 28), "float32")
    return shrunk, 1 - shrunk if light else shrunk, digit


def is_image(path):
    """Return whether it is one; name a file that is none."""
    try:
        return path.is_file() and bool(cnn_mnist.open_grey(path))
    except ValueError as error:
        print(f"skipped: {error}", file=sys.stderr)
        return False


def measured(models, paths, labels):
    """Return a table's cells, and which images read_digit and the first model misread.

    In each cell is the percentage that is read correctly in one way, the models' mean.
    """
    cells = []
    for x in np.array([ways(path) for path in paths]).swapaxes(0, 1)[..., np.newaxis]:
        readable = x.any(axis=(1, 2, 3))
        said = [model.predict(x, 1000, verbose=0).argmax(axis=1) for model in models]
        right = (said == labels) & readable
        cells.append(f"{100 * np.mean(right):.1f}")
    return cells, np.flatnonzero(~right[0] & readable)


def draw(rows):
    """Return a figure with a row for each condition.

    rows: for each its name and the paths of four images.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.5, 0.85 * len(rows)), dpi=100, layout="constrained")
    grid = figure.subplots(len(rows), 8)
    for axes, title in zip(grid[0], ("image", "shown as") * 4):
        axes.set_title(title, fontsize=9)
    for axes, (name, paths) in zip(grid, rows):
        for left, right, path in zip(axes[::2], axes[1::2], paths):
            left.imshow(cnn_mnist.open_grey(path), cmap="gray", vmin=0, vmax=255)
            right.imshow(cnn_mnist.read_digit(path), cmap="gray_r", vmin=0, vmax=1)
        for each in axes:
            each.set(xticks=[], yticks=[])
        label = textwrap.fill(name, 16)
        axes[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9)
    return figure


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="+", metavar="MODEL.keras")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--images", type=int, default=1000, metavar="N")
    parser.add_argument("--plot", type=Path, metavar="PATH")
    args = parser.parse_args()
    models = [cnn_mnist.load_model(path) for path in args.models]

    heading = "| | shrunk | shrunk, light on dark | read_digit |"
    heading += "\n| --- | --- | --- | --- |"
    if args.folder:
        paths = [path for path in args.folder.rglob("[0-9]*") if is_image(path)]
        if not paths:
            parser.error(
                f"no image below {args.folder} has a name that begins with 0-9"
            )
        labels = np.array([int(path.name[0]) for path in paths])
        cells, _ = measured(models, paths, labels)
        print(heading)
        print("|", " | ".join([f"{len(paths)} images", *cells]), "|")
    else:
        _, _, x_test, y_test = cnn_mnist.read_arrays()
        chosen = np.random.default_rng(1).permutation(len(x_test))[: args.images]
        print(heading)
        with TemporaryDirectory() as folder:
            rows, misread = [], {}
            for i, (name, extra) in enumerate(CONDITIONS.items()):
                Path(folder, str(i)).mkdir()
                paths = simulated(extra, x_test[chosen], Path(folder, str(i)))
                cells, wrong = measured(models, paths, y_test[chosen])
                print("|", " | ".join([name, *cells]), "|", flush=True)
                rows.append((name, paths[4 * i : 4 * i + 4]))  # other digits in each
                for place in wrong:
                    if (
                        place not in misread
                    ):  # one of each condition, each another digit
                        misread[place] = paths[place]
                        break
            if args.plot:
                paths = list(misread.values())
                rows += [("misread", paths[-8:-4]), ("misread", paths[-4:])]
                draw(rows).savefig(args.plot)
    print(f"\n{machine('pillow')}")


if __name__ == "__main__":
    main()
