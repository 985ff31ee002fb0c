"""What the network of `cnn_mnist.py` has learned: edges first, then patterns?

    python cnn_mnist.py --seed 1 --save-model s1.keras  # and with seeds 2 and 3
    python tests/benchmarks/features.py --draw s1.keras    # only the pictures
    python tests/benchmarks/features.py s1.keras s2.keras s3.keras

Draws two images of each digit (digits.png), and of the first MODEL one digit's way
through it (way.png) and its filters (features.png). Then it prints numbers of all
models, the mean and, of several, the lowest and the highest. Each is compared with the
network before its training: the nth MODEL with that of seed n.
"""

import argparse
from pathlib import Path

import numpy as np
from machine import cell, machine, print_table

import cnn_mnist

CONV_1, POOL_1, CONV_2, POOL_2 = range(4)  # the layers of `cnn_mnist.build_model`
WAY = 18  # the test digit to follow: a 3 of which the network is not quite sure
MAPS = 6  # of each layer on that way
SHOWN = 3  # the first 0 of the test digits: its stroke runs in all directions
PATCHES = 6  # of each filter of the second convolution


def kernels_of(model):
    """Return the weights of the first convolution, shape (3, 3, 32)."""
    return model.layers[CONV_1].kernel.numpy()[:, :, 0]


def shares(kernels):
    """Return which shares of the kernels are edges, lines and finer patterns.

    kernels: shape (3, 3, n). Result: shape (3, n), each column with the sum 1.

    With x and y from -1 to 1, the nine products of 1, x and x² - 2/3 with 1, y and
    y² - 2/3 are an orthogonal basis of all kernels. Of a kernel's squared deviations
    from its mean the first share is that of x and y: an edge, bright on one side, in
    any direction. The second is that of x², xy and y²: a line, though of a diagonal
    one or a spot only half counts. The third is the rest. On average, kernels drawn
    at random have 2/8, 3/8 and 3/8.
    """
    basis = np.array([[1, 1, 1], [-1, 0, 1], [1, -2, 1]])
    basis = basis / np.linalg.norm(basis, axis=1, keepdims=True)
    parts = np.einsum("ai,bj,ijn->abn", basis, basis, kernels) ** 2
    degree = np.minimum(np.add.outer(range(3), range(3)), 3)
    found = np.array([parts[degree == i].sum(axis=0) for i in (1, 2, 3)])
    return found / found.sum(axis=0)


def answers(model, place, x):
    """Yield what the layer at that place makes of x, 1000 images at a time."""
    keras = cnn_mnist.keras
    layer = keras.Model(model.inputs[0], model.layers[place].output)
    for start in range(0, len(x), 1000):
        yield layer(x[start : start + 1000]).numpy()


def best_patches(model, x):
    """Return the patches that each filter of the second convolution answers to most.

    Shape (64, PATCHES, 8, 8); all of a filter are from different images. The value at
    (r, s) depends on 3 by 3 pooled values, those on 6 by 6 values of the first
    convolution and those on the 8 by 8 pixels from (2r, 2s) on.
    """
    values = np.concatenate(list(answers(model, CONV_2, x)))
    side, filters = values.shape[2:]
    values = values.reshape(len(x), -1, filters)
    best = np.argsort(-values.max(axis=1), axis=0, kind="stable")[:PATCHES]
    patches = np.zeros((filters, PATCHES, 8, 8))
    for (i, f), image in np.ndenumerate(best):
        r, s = divmod(values[image, :, f].argmax(), side)
        patches[f, i] = x[image, 2 * r : 2 * r + 8, 2 * s : 2 * s + 8, 0]
    return patches


def likeness(patches):
    """Return the correlation of two patches of a filter, the mean of all pairs."""
    pairs = np.triu_indices(PATCHES, 1)
    with np.errstate(invalid="ignore"):  # a patch without ink has none
        return np.nanmean([np.corrcoef(p.reshape(PATCHES, 64))[pairs] for p in patches])


def told_about_digit(values, digits):
    """Return eta², the share of the variance of a value that lies between digits.

    values: shape (n, filters); the result is the mean over the filters that vary.
    """
    total = values.var(axis=0)
    parts = [values[digits == digit] for digit in range(cnn_mnist.NUM_CLASSES)]
    within = sum(len(part) * part.var(axis=0) for part in parts) / len(values)
    varies = total > 1e-12
    return np.mean(1 - within[varies] / total[varies])


def linear_accuracy(layers, train, test, epochs):
    """Return the test accuracy of a softmax classifier on what the layers put out.

    The layers stay as they are. What they put out is divided by its root mean square,
    as Adam would need longer for smaller values.
    """
    keras = cnn_mnist.keras
    body = keras.Sequential(
        [keras.Input(shape=cnn_mnist.INPUT_SHAPE), *layers, keras.layers.Flatten()]
    )
    body.trainable = False
    square = np.mean(body.predict(train[0][:1000], verbose=0) ** 2)
    keras.utils.set_random_seed(cnn_mnist.SEED)
    dense = keras.layers.Dense(cnn_mnist.NUM_CLASSES, activation="softmax")
    scaled = keras.layers.Rescaling(1 / np.sqrt(square))
    model = keras.Sequential([body, scaled, dense])
    model.compile_from_config(cnn_mnist.build_model().get_compile_config())
    cnn_mnist.train(model, *train, epochs=epochs)
    return model.evaluate(*test, verbose=0, return_dict=True)["accuracy"]


def draw_way(model, digit):
    """Return a figure of what each layer makes of the digit, shape (28, 28, 1).

    Of the maps of a convolution it shows those that vary most over this digit, the
    first the most; the next pooling's are the same ones.
    """
    from matplotlib.figure import Figure

    # One system of coordinates for all, in pixels from the upper left corner.
    figure = Figure(figsize=(8, 10.9), dpi=100)
    axes = figure.add_axes((0, 0, 1, 1))
    side, lefts, row = 82, np.arange(268, 268 + MAPS * 88, 88), 136
    centres = lefts + side / 2
    middle = centres.mean()

    def write(x, y, text, size, **more):
        axes.text(x, y, text, fontsize=size, va="center", **more)

    def describe(top, name, shape, note=""):
        write(16, top + 10, name, 18, weight="bold")
        write(16, top + 42, str(shape), 17)
        write(16, top + 73, note, 15)

    def show(image, x, top, most):
        extent = x - side / 2, x + side / 2, top + side, top
        axes.imshow(image, cmap="gray_r", vmin=0, vmax=most, extent=extent)
        frame = np.array(extent)[[0, 1, 1, 0, 0]], np.array(extent)[[3, 3, 2, 2, 3]]
        axes.plot(*frame, color="#9ecae1", linewidth=2)

    def arrow(start, end, bottom, height=row - side - 6, **more):
        style = {"arrowstyle": "->", "shrinkA": 0, "shrinkB": 0, **more}
        axes.annotate("", (end, bottom), (start, bottom - height), arrowprops=style)

    write(400, 30, "One digit's way through the network", 22, ha="center")
    write(400, 64, "the darker, the larger the value", 15, ha="center")
    top = 90
    describe(top, "Input", digit.shape, "the image")
    show(digit, middle, top, 1)
    for place in (CONV_1, POOL_1, CONV_2, POOL_2):
        top += row
        maps = next(answers(model, place, digit[np.newaxis]))[0]
        if place in (CONV_1, CONV_2):
            chosen, most = np.argsort(-maps.var(axis=(0, 1)))[:MAPS], maps.max()
            note = f"{MAPS} of the {maps.shape[-1]} maps"
        else:
            note = "the same, smaller"
        describe(top, type(model.layers[place]).__name__, maps.shape, note)
        for x, f in zip(centres, chosen):
            show(maps[..., f], x, top, most)
            starts = {CONV_1: [middle], CONV_2: centres}.get(place, [x])
            for start in starts:
                arrow(start, x, top - 3, color="black" if len(starts) == 1 else "0.6")

    top += side
    for layer, text in (
        (
            model.layers[POOL_2 + 1],
            f"all {' · '.join(map(str, maps.shape))} values in a row",
        ),
        (model.layers[POOL_2 + 2], "does something only in training"),
    ):
        arrow(middle, middle, top + 36, 33)
        describe(top + 36, type(layer).__name__, layer.output.shape[1:])
        write(middle, top + 60, text, 17, ha="center")
        top += 82
    arrow(middle, middle, top + 36, 33)
    describe(top + 78, "Dense", model.output_shape[1:], "probabilities")
    floor = top + 152
    bars = np.linspace(centres[0] - 16, centres[-1] + 16, cnn_mnist.NUM_CLASSES)
    probabilities = model(digit[np.newaxis]).numpy()[0]
    axes.bar(bars, -85 * probabilities, 36, bottom=floor)
    axes.plot([bars[0] - 25, bars[-1] + 25], [floor, floor], "black", linewidth=1)
    for j, (x, probability) in enumerate(zip(bars, probabilities)):
        write(x, floor + 20, f"{j}", 17, ha="center")
        if probability > 0.005:
            label = f"{probability:.0%}"
            write(x, floor - 85 * probability - 14, label, 15, ha="center")
    axes.set(xlim=(0, 800), ylim=(1090, 0), aspect="auto")
    axes.axis("off")
    return figure


def draw_digits(x, digits):
    """Return a figure of the first two test images of each digit."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.6), dpi=100)
    figure.subplots_adjust(0, 0, 1, 1, wspace=0, hspace=0)
    for digit, column in enumerate(figure.subplots(2, 10).T):
        for axes, i in zip(column, np.flatnonzero(digits == digit)):
            axes.imshow(x[i], cmap="gray_r", vmin=0, vmax=1)
            axes.axis("off")
    return figure


def draw(model, x):
    """Return a figure of what both convolutions answer to; x: the test images."""
    import matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.1, 10.8), dpi=120, layout="constrained")
    first, second = figure.subfigures(2, height_ratios=(3.9, 6.9), hspace=0.03)

    kernels, (maps,) = kernels_of(model), answers(model, CONV_1, x[SHOWN : SHOWN + 1])
    limit, edges = np.abs(kernels).max(), shares(kernels)[0]
    first.suptitle(
        f"First convolution: its {len(edges)} kernels of 3 by 3 weights, each beside "
        "the map that it makes of the digit on the left.\nAbove each kernel: its share "
        "of an edge, of weights that rise from one side to the other.\nWith more than "
        f"50 % it is mostly an edge: {np.sum(edges > 0.5)} of them are.",
        fontsize=11,
    )
    digit, tiles = first.subfigures(1, 2, width_ratios=(1, 8))
    axes = digit.subplots()
    axes.imshow(x[SHOWN], cmap="gray_r", vmin=0, vmax=1)
    axes.axis("off")
    grid = tiles.subplots(4, 16)
    for left, right, f in zip(
        grid[:, ::2].flat, grid[:, 1::2].flat, np.argsort(-edges)
    ):
        weights = left.imshow(kernels[..., f], cmap="RdBu_r", vmin=-limit, vmax=limit)
        left.set_title(f"{edges[f]:.0%}", fontsize=8, pad=2)
        right.imshow(maps[0, ..., f], cmap="gray_r", vmin=0)
        left.axis("off")
        right.axis("off")
    bar = digit.colorbar(weights, ax=axes, location="bottom", label="weight")
    bar.set_ticks([-limit, 0, limit], labels=["−", "0", "+"])

    second.suptitle(
        f"Second convolution: for each of its 64 filters, the {PATCHES} pieces of test "
        "digits, of 8 by 8 pixels\nand from different images, that it answers to most.",
        fontsize=11,
    )
    greys = matplotlib.colormaps["gray_r"].with_extremes(bad="#9ecae1")
    for axes, patches in zip(second.subplots(16, 4).flat, best_patches(model, x)):
        framed = np.pad(patches, ((0, 0), (1, 1), (1, 0)), constant_values=np.nan)
        strip = np.pad(np.hstack(framed), ((0, 0), (0, 1)), constant_values=np.nan)
        axes.imshow(strip, cmap=greys, vmin=0, vmax=1)
        axes.axis("off")
    return figure


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path(__file__).parent,
        metavar="PATH",
        help="where to draw",
    )
    parser.add_argument("--draw", action="store_true", help="draw, but do not measure")
    parser.add_argument("--epochs", type=int, default=cnn_mnist.EPOCHS, metavar="N")
    args = parser.parse_args()

    train, (x, y) = cnn_mnist.load_data()
    digits = y.argmax(axis=1)
    trained = [cnn_mnist.load_model(path) for path in args.models]
    draw_digits(x, digits).savefig(args.folder / "digits.png")
    draw_way(trained[0], x[WAY]).savefig(args.folder / "way.png")
    draw(trained[0], x).savefig(args.folder / "features.png")
    if args.draw:
        return

    keras = cnn_mnist.keras
    untrained = []
    for seed in range(1, len(trained) + 1):
        keras.utils.set_random_seed(seed)
        untrained.append(cnn_mnist.build_model())
    groups = {"trained": trained, "before training": untrained}

    rows = []
    kernels = {name: list(map(kernels_of, models)) for name, models in groups.items()}
    kernels["drawn at random"] = [
        np.random.default_rng(0).uniform(-1, 1, (3, 3, 10**5))
    ]
    for name, several in kernels.items():
        found = np.array([shares(one) for one in several])
        columns = [*found.mean(axis=2).T, np.mean(found[:, 0] > 0.5, axis=1)]
        rows.append((f"first kernels, {name}", *map(cell, columns)))
    print_table(("share of", "edge", "line", "finer", "mostly edge"), rows)

    rows = [
        ("grey value", cell([told_about_digit(x.mean(axis=(1, 2)), digits)]), "", "")
    ]
    for name, models in groups.items():
        for layer, place in (("first", CONV_1), ("second", CONV_2)):
            told = []
            for model in models:
                values = [
                    (part.mean(axis=(1, 2)), part.max(axis=(1, 2)))
                    for part in answers(model, place, x)
                ]
                means, maxima = map(np.concatenate, zip(*values))
                told.append(
                    [
                        told_about_digit(means, digits),
                        told_about_digit(maxima, digits),
                        np.sum(maxima.max(axis=0) == 0),
                    ]
                )
            rows.append((f"a {layer} filter, {name}", *map(cell, zip(*told))))
    heads = "told about the digit by", "mean answer", "largest answer", "always 0"
    print_table(heads, rows)

    rows = [
        (name, cell([likeness(best_patches(model, x)) for model in models]))
        for name, models in groups.items()
    ]
    print_table(("second filters", "likeness of the best patches"), rows)

    scores = [linear_accuracy([], train, (x, y), args.epochs)]
    rows = [("pixels", f"{x[0].size}", cell(scores, 4))]
    for name, models in groups.items():
        for layer, place in (("first", POOL_1), ("second", POOL_2)):
            scores = [
                linear_accuracy(m.layers[: place + 1], train, (x, y), args.epochs)
                for m in models
            ]
            size = np.prod(models[0].layers[place].output.shape[1:])
            rows.append((f"{layer} pooling, {name}", f"{size}", cell(scores, 4)))
    print_table(("linear classifier on", "values", "test accuracy"), rows)
    print(f"\n{machine()}")


if __name__ == "__main__":
    main()
