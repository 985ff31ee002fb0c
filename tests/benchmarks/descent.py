"""Gradient descent on one weight of the trained network: the picture descent.png.

    python cnn_mnist.py --seed 1 --save-model s1.keras
    python tests/benchmarks/descent.py s1.keras

Of the first convolution it takes the filter that is most of all a vertical edge, dark
on the right. In its kernel it moves one weight, in the middle of the right column, and
leaves all others as training left them. It measures the loss for many values of that
weight, puts the weight far off, and takes three steps down the slope. Nothing is
sketched: each point of the curve is the loss of the whole network, without dropout.
"""

import argparse
from itertools import pairwise
from pathlib import Path

import numpy as np
from features import kernels_of
from machine import machine, print_table

import cnn_mnist

PLACE = 1, 2  # the weight to move: its row and column in the kernel
START, RATE, STEPS = 1.5, 10, 3
CURVE = np.linspace(-0.4, 1.8, 45)
H = 0.01  # a slope is measured between the weight less H and the weight plus H


def vertical_edge(kernels):
    """Return which of the kernels, shape (3, 3, n), is most like -1 0 1 in each row."""
    edge = np.array([-1, 0, 1])[np.newaxis, :, np.newaxis]
    deviations = kernels - kernels.mean(axis=(0, 1))
    likeness = np.sum(deviations * edge, axis=(0, 1))
    return np.argmax(likeness / np.linalg.norm(deviations, axis=(0, 1)))


def loss_of(model, images):
    """Return a function of a weight that gives the network's loss on these images."""
    (x, y), _ = cnn_mnist.load_data()
    kernel = model.layers[0].kernel
    trained = kernel.numpy()
    filter_ = vertical_edge(kernels_of(model))

    def loss(weight):
        changed = trained.copy()
        changed[*PLACE, 0, filter_] = weight
        kernel.assign(changed)
        result = model.evaluate(
            x[:images], y[:images], batch_size=1000, verbose=0, return_dict=True
        )
        kernel.assign(trained)
        return result["loss"]

    return loss


def descend(loss):
    """Return for the start and each step the weight, its loss and the slope there."""
    way, weight = [], START
    for _ in range(STEPS + 1):
        slope = (loss(weight + H) - loss(weight - H)) / (2 * H)
        way.append((weight, loss(weight), slope))
        weight -= RATE * slope
    return way


def draw(loss, way, trained):
    """Return a figure of the loss against the weight, with the way down."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.3), dpi=150, layout="constrained")
    axes = figure.subplots()
    axes.plot(CURVE, [loss(weight) for weight in CURVE], "#1f77b4", linewidth=2.5)
    axes.plot([], [], "#d95f02", label="slope at the point")
    axes.plot([], [], "#888888", label=f"step: {RATE} times the slope")
    axes.legend(loc="upper left", fontsize=11, frameon=False)
    for (weight, height, _), (after, lower, _) in pairwise(way):
        axes.plot([weight, after, after], [height, height, lower], "#888888")
    for step, (weight, height, slope) in enumerate(way):
        ends = np.array([weight - 0.13, weight + 0.13])
        axes.plot(ends, height + slope * (ends - weight), "#d95f02", linewidth=2)
        axes.plot(weight, height, "o", color="black", markersize=6)
        axes.annotate(
            f"{step}" if step else "start",
            (weight, height),
            (7, -14),
            textcoords="offset points",
            fontsize=11,
        )
    axes.annotate(
        f"where training\nleft it: {trained:.2f}",
        (trained, loss(trained)),
        (0, 40),
        textcoords="offset points",
        fontsize=11,
        ha="center",
        arrowprops={"arrowstyle": "->"},
    )
    axes.set_xlabel("one weight of the first convolution", fontsize=12)
    axes.set_ylabel("loss", fontsize=12)
    axes.tick_params(labelsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--images", type=int, default=6000, metavar="N")
    parser.add_argument(
        "--folder", type=Path, default=Path(__file__).parent, metavar="PATH"
    )
    args = parser.parse_args()

    model = cnn_mnist.load_model(args.model)
    kernels = kernels_of(model)
    filter_ = vertical_edge(kernels)
    bias = model.layers[0].bias.numpy()[filter_]
    print(f"Filter {filter_} of 0 to {kernels.shape[-1] - 1}, bias {bias:.2f}, kernel:")
    for row in kernels[..., filter_]:
        print(" ".join(f"{weight:5.2f}" for weight in row))

    loss = loss_of(model, args.images)
    way = descend(loss)
    rows = [
        (f"{number}", f"{weight:.4f}", f"{height:.5f}", f"{slope:.5f}")
        for number, (weight, height, slope) in enumerate(way)
    ]
    print_table(("step", "weight", "loss", "slope"), rows)
    trained = kernels[*PLACE, filter_]
    print(f"\nTrained: {trained:.4f}, with a loss of {loss(trained):.5f}.")
    print(f"Learning rate {RATE}; the first {args.images:,} training images.")
    print(machine())
    draw(loss, way, trained).savefig(args.folder / "descent.png")


if __name__ == "__main__":
    main()
