"""How well draw.html reads drawings, whether it answers as Keras does, and how fast.

    python tests/benchmarks/draw.py [--picture tests/benchmarks/draw.png]

The drawings are the centre lines of MNIST's test digits, at random sizes and places on the
pad. The answers are those for all of MNIST's 10,000 test digits, by the network that is in
the page. The times are of Chromium. --picture takes a picture of the page instead, with a
digit drawn by the mouse.
"""

import argparse
import shutil
import sys
from pathlib import Path

import numpy as np
from machine import TOP, machine, print_table
from photographs import SCALE, skeleton
from PIL import Image, ImageFilter
from playwright.sync_api import sync_playwright

sys.path.insert(0, str(TOP / "tests"))
import page as node

import cnn_mnist

DRAWINGS = 1000
# A three of two arcs, in fractions of the pad.
THREE = [
    (0.45 + width * np.cos(angle), y + height * np.sin(angle))
    for y, width, height, angles in (
        (0.30, 0.17, 0.17, np.radians(np.arange(-150, 81, 15))),
        (0.66, 0.21, 0.20, np.radians(np.arange(-80, 151, 15))),
    )
    for angle in angles
]


def strokes_of(digit):
    """Return the centre lines of one of MNIST's digits as strokes, in its pixels."""
    size = (28 * SCALE, 28 * SCALE)
    image = Image.fromarray(digit).resize(size, Image.Resampling.BICUBIC)
    image = image.filter(ImageFilter.GaussianBlur(SCALE / 4))
    left = {(int(x), int(y)) for y, x in np.argwhere(skeleton(np.asarray(image) > 100))}
    every = set(left)

    def beside(point, points):
        steps = [(0, 1), (1, 0), (0, -1), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1)]
        near = [(point[0] + dx, point[1] + dy) for dx, dy in steps]
        return [place for place in near if place in points]

    strokes = []
    while left:  # each stroke goes on from an end, or else from anywhere in a ring
        stroke = [min(left, key=lambda point: (len(beside(point, every)), point))]
        left.remove(stroke[0])
        while ahead := beside(stroke[-1], left):
            stroke.append(ahead[0])
            left.remove(ahead[0])
        # Its ends touch the strokes before, where lines meet.
        first, last = beside(stroke[0], every), beside(stroke[-1], every)
        whole = [p for p in first if p not in stroke][:1] + stroke
        strokes.append(
            whole + [p for p in last if p not in stroke or p == stroke[0]][:1]
        )
    return [np.array(stroke) / SCALE for stroke in strokes]


def on_pad(strokes, rng):
    """Return the strokes at a random size and place, in fractions of the pad."""
    points = np.concatenate(strokes)
    low, side = points.min(axis=0), max(np.ptp(points, axis=0).max(), 1)
    size = rng.uniform(0.2, 0.95)
    place = rng.uniform(0, 1 - size * np.ptp(points, axis=0) / side)
    return [((stroke - low) / side * size + place).tolist() for stroke in strokes]


def model_of_the_page():
    """Return the Keras model whose weights are in the page."""
    model = cnn_mnist.build_model()
    model.set_weights(node.arrays())
    return model


def answers(pixels, arguments):
    """Return the page's answers; pixels: how an argument becomes the pixels."""
    code = f"""(pixels) => {{
      const {{ values }} = run({pixels}).at(-1);
      return values.indexOf(Math.max(...values));
    }}"""
    return np.array(node.evaluate(code, arguments))


def median_time(page, call):
    """Return the median time of a call in the browser, in milliseconds."""
    times = page.evaluate(
        f"""() => Array.from({{ length: 200 }}, () => {{
          const before = performance.now();
          {call};
          return performance.now() - before;
        }})"""
    )
    return np.median(times)


def picture(page, path):
    box = page.locator("#pad").bounding_box()
    places = [
        (box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in THREE
    ]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=4)
    page.mouse.up()
    page.click("#why")
    page.mouse.move(0, 0)
    page.screenshot(path=path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--picture", type=Path, help="take a picture of the page instead"
    )
    args = parser.parse_args()
    with sync_playwright() as playwright:
        chromium = shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=chromium)
        page = browser.new_page(viewport={"width": 1280, "height": 860})
        page.goto(node.PAGE.as_uri())
        page.wait_for_timeout(500)  # it unpacks its network first
        if args.picture:
            picture(page, args.picture)
            return
        run, frame = median_time(page, "run(seen())"), median_time(page, "update()")

    _, (x, y) = cnn_mnist.load_data()
    true = y.argmax(axis=1)
    said = answers("pixels", x.reshape(len(x), -1).tolist())
    expected = model_of_the_page().predict(x, verbose=0)
    same = np.sum(expected.argmax(axis=1) == said)

    rng = np.random.default_rng(1)
    chosen = rng.choice(len(x), DRAWINGS, replace=False)
    drawings = [on_pad(strokes_of(np.uint8(x[i, ..., 0] * 255)), rng) for i in chosen]
    read = np.mean(true[chosen] == answers("toDigit(pixels)", drawings))
    print(machine("playwright"))
    print_table(
        ["measured", "result"],
        [
            [f"{DRAWINGS:,} centre lines read", f"{100 * read:.1f} %"],
            ["same answer as Keras", f"{same:,} of {len(x):,}"],
            ["median time of a run", f"{run:.1f} ms"],
            [
                "median time of a frame, with all pictures",
                f"{frame:.1f} ms",
            ],
        ],
    )


if __name__ == "__main__":
    main()
