"""How well draw.html reads photographs, given to it as files in Chromium.

    python tests/benchmarks/photographs.py [--images 1000]

The photographs are simulated from MNIST's test digits, in each condition from the same
ones. In the table is the percentage read correctly, without anybody's help. --picture
takes a picture of the page with one of the photographs instead.
"""

import argparse
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from machine import TOP, machine, print_table
from PIL import Image, ImageDraw, ImageFilter
from playwright.sync_api import sync_playwright

sys.path.insert(0, str(TOP / "tests"))
import page as node

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
CLIP = {"x": 0, "y": 0, "width": 332, "height": 569}  # of the picture of the page
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


def answer_to(page, path):
    """Return what the page reads on an image file, or "" if it finds no ink."""
    page.set_input_files("#photo", path)
    while not page.evaluate("Boolean(state.drawing.photo)"):
        page.wait_for_timeout(5)
    return page.inner_text("#answer")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=1000, metavar="N")
    parser.add_argument("--picture", type=Path, metavar="PATH")
    args = parser.parse_args()
    with np.load(TOP / "mnist.npz") as archive:
        digits, labels = archive["x_test"], archive["y_test"]
    chosen = np.random.default_rng(1).permutation(len(digits))[: args.images]

    with TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))
        page = browser.new_page(viewport={"width": 1280, "height": 860})
        page.goto(node.PAGE.as_uri())
        page.wait_for_timeout(500)  # it unpacks its network first
        path = Path(folder, "photograph.png")
        if args.picture:
            picture = photograph(digits[0], "wood", np.random.default_rng(0))
            Image.fromarray(picture).save(path)
            answer_to(page, path)
            page.screenshot(path=args.picture, clip=CLIP)
            return

        rows = []
        for name, extra in CONDITIONS.items():
            right = 0
            for i in chosen:
                rng = np.random.default_rng(i)  # conditions differ in one thing only
                Image.fromarray(photograph(digits[i], extra, rng)).save(path)
                right += answer_to(page, path) == str(labels[i])
                page.click("#clear")
            rows.append([name, f"{100 * right / len(chosen):.1f}"])
    print(machine("pillow", "playwright"))
    print_table(["photographs", "% read"], rows)


if __name__ == "__main__":
    main()
