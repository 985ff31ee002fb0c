"""The network of `cnn_mnist.py` against fully connected ones, in numbers.

    python tests/benchmarks/cnn_vs_dense.py

"dense 1024" has two hidden layers of 1024 values and the same dropout rate, "dense 40"
one hidden layer of 40, and so fewer parameters than the convolutional network. As so
small a network may do better without dropout, it is trained without and with it.

All are trained by the script's own `train`: same data, epochs, batches and optimizer;
then once more with the pixels of every image permuted. All that for each of three
seeds.

The test images are also moved right, left, down and up. Those that lose ink at the
border are left out, as another digit may be what is left. As these are not the easiest
or the hardest ones by design, the same images are measured where they were, too.
"""

import argparse

import numpy as np
from machine import cell, machine, print_table

import cnn_mnist


def build_dense(sizes, dropout):
    """Return a fully connected network with hidden layers of these sizes, compiled."""
    keras = cnn_mnist.keras
    layers = keras.layers
    model = keras.Sequential(
        [keras.Input(shape=cnn_mnist.INPUT_SHAPE), layers.Flatten()]
    )
    for size in sizes:
        model.add(layers.Dense(size, activation="relu"))
        model.add(layers.Dropout(dropout))
    model.add(layers.Dense(cnn_mnist.NUM_CLASSES, activation="softmax"))
    model.compile_from_config(cnn_mnist.build_model().get_compile_config())
    return model


NETWORKS = {
    "convolutional": cnn_mnist.build_model,
    "dense 1024": lambda: build_dense([1024, 1024], dropout=0.5),
    "dense 40": lambda: build_dense([40], dropout=0.0),
    "dense 40, dropout": lambda: build_dense([40], dropout=0.5),
}


def shifted(x, y, pixels):
    """Return the images moved in four directions, the same unmoved, and their labels.

    Without the images that lose ink by that.
    """
    images, unmoved, labels = [], [], []
    for axis in (1, 2):
        for sign in (1, -1):
            # What is pushed out at one side comes in at the other.
            moved = np.roll(x, sign * pixels, axis)
            edge = range(pixels) if sign == 1 else range(-pixels, 0)
            whole = ~np.take(moved, edge, axis).any(axis=(1, 2, 3))
            images.append(moved[whole])
            unmoved.append(x[whole])
            labels.append(y[whole])
    return [np.concatenate(parts) for parts in (images, unmoved, labels)]


def permuted(x):
    """Return the images with their 784 pixels in another order, the same for all."""
    order = np.random.default_rng(0).permutation(28 * 28)
    return x.reshape(len(x), -1)[:, order].reshape(x.shape)


def multiplications(model):
    """Return how many multiplications by a weight the network does for one image."""
    return sum(
        int(np.prod(layer.output.shape[1:-1]) * np.prod(layer.kernel.shape))
        for layer in model.layers
        if layer.weights
    )


def accuracy(model, x, y):
    return model.evaluate(x, y, batch_size=1000, verbose=0, return_dict=True)[
        "accuracy"
    ]


def trained(name, x, y, seed, epochs):
    """Return the new network of that name, trained from the seed."""
    keras = cnn_mnist.keras
    keras.utils.set_random_seed(seed)
    model = NETWORKS[name]()
    cnn_mnist.train(model, x, y, epochs=epochs)
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--only", nargs="+", choices=NETWORKS, default=list(NETWORKS), metavar="NAME"
    )
    parser.add_argument("--epochs", type=int, default=cnn_mnist.EPOCHS, metavar="N")
    parser.add_argument("--seeds", type=int, default=3, metavar="N")
    args = parser.parse_args()

    (x_train, y_train), (x_test, y_test) = cnn_mnist.load_data()
    tests, lost = {"as they are": (x_test, y_test)}, {}
    for n in range(1, 5):
        images, unmoved, labels = shifted(x_test, y_test, n)
        tests[f"moved by {n}"] = images, labels
        tests[f"moved by {n}: the same images before"] = unmoved, labels
        lost[n] = 1 - len(labels) / (4 * len(x_test))
    x_permuted = permuted(x_train)
    tests_permuted = {"pixels permuted": (permuted(x_test), y_test)}
    rows = {"parameters": [], "multiplications an image": []}
    rows |= {f"test accuracy, {name}": [] for name in [*tests, *tests_permuted]}
    for network in args.only:
        scores = {name: [] for name in [*tests, *tests_permuted]}
        for seed in range(1, args.seeds + 1):
            for x, sets in ((x_train, tests), (x_permuted, tests_permuted)):
                model = trained(network, x, y_train, seed, args.epochs)
                for name, test in sets.items():
                    scores[name].append(accuracy(model, *test))
        rows["parameters"].append(f"{model.count_params():,}")
        rows["multiplications an image"].append(f"{multiplications(model):,}")
        for name, values in scores.items():
            rows[f"test accuracy, {name}"].append(cell(values, 4))

    print_table(["", *args.only], [(name, *cells) for name, cells in rows.items()])
    print(
        f"\nMean, lowest and highest of the seeds 1 to {args.seeds}, {args.epochs} epochs."
    )
    for n, share in lost.items():
        print(f"moved by {n}: {share:.1%} lose ink and are left out")
    model = cnn_mnist.build_model()
    for layer in model.layers:
        if layer.weights:
            one = cnn_mnist.keras.Sequential([layer])
            share = multiplications(one) / multiplications(model)
            print(f"{layer.name}: {share:.1%} of the network's multiplications")
    first = model.layers[0]
    outputs = np.prod(first.output.shape[1:])
    print(
        f"The first convolution has {first.count_params():,} parameters; a Dense layer "
        f"to its {outputs:,} outputs would have {(x_test[0].size + 1) * outputs:,}."
    )
    print(machine())


if __name__ == "__main__":
    main()
