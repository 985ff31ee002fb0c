"""The network of `cnn_mnist.py` against a fully connected one, in numbers.

    python tests/benchmarks/cnn_vs_dense.py

Both are trained by the script's own `train`: same data, epochs, batches, optimizer
and dropout rate; then once more with the pixels of every image permuted. All that
for each of three seeds.

The test images are also moved right, left, down and up. Those that lose ink at the
border are left out, as another digit may be what is left.
"""

import argparse

import numpy as np
from machine import machine

import cnn_mnist


def build_dense():
    """Return the fully connected network 784-1024-1024-10, compiled as the other."""
    import keras
    from keras import layers

    model = keras.Sequential(
        [
            keras.Input(shape=cnn_mnist.INPUT_SHAPE),
            layers.Flatten(),
            layers.Dense(1024, activation="relu"),
            layers.Dropout(0.5),
            layers.Dense(1024, activation="relu"),
            layers.Dropout(0.5),
            layers.Dense(cnn_mnist.NUM_CLASSES, activation="softmax"),
        ]
    )
    model.compile(
        loss="categorical_crossentropy", optimizer="adam", metrics=["accuracy"]
    )
    return model


def shifted(x, y, pixels):
    """Return the images moved in four directions, zeros moved in, and their labels.

    Without the images that lose ink by that.
    """
    images, labels = [], []
    for axis in (1, 2):
        for sign in (1, -1):
            # What is pushed out at one side comes in at the other.
            moved = np.roll(x, sign * pixels, axis)
            edge = range(pixels) if sign == 1 else range(-pixels, 0)
            whole = ~np.take(moved, edge, axis).any(axis=(1, 2, 3))
            images.append(moved[whole])
            labels.append(y[whole])
    return np.concatenate(images), np.concatenate(labels)


def permuted(x):
    """Return the images with their 784 pixels in another order, the same for all."""
    order = np.random.default_rng(0).permutation(28 * 28)
    return x.reshape(len(x), -1)[:, order].reshape(x.shape)


def accuracy(model, x, y):
    return model.evaluate(x, y, batch_size=1000, verbose=0, return_dict=True)[
        "accuracy"
    ]


def trained(build, x, y, seed, epochs):
    """Return a new network, trained from the seed."""
    import keras

    keras.utils.set_random_seed(seed)
    model = build()
    cnn_mnist.train(model, x, y, epochs=epochs)
    if model.stop_training:  # by Ctrl-C
        raise KeyboardInterrupt
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=cnn_mnist.EPOCHS, metavar="N")
    parser.add_argument("--seeds", type=int, default=3, metavar="N")
    args = parser.parse_args()

    (x_train, y_train), (x_test, y_test) = cnn_mnist.load_data()
    tests = {f"shifted by {n}": shifted(x_test, y_test, n) for n in range(5)}
    x_permuted = permuted(x_train)
    tests_permuted = {"pixels permuted": (permuted(x_test), y_test)}
    columns = []
    for build in (cnn_mnist.build_model, build_dense):
        scores = {name: [] for name in [*tests, *tests_permuted]}
        for seed in range(1, args.seeds + 1):
            for x, sets in ((x_train, tests), (x_permuted, tests_permuted)):
                model = trained(build, x, y_train, seed, args.epochs)
                for name, test in sets.items():
                    scores[name].append(accuracy(model, *test))
        columns.append((model.count_params(), scores))

    (parameters, _), (parameters_dense, _) = columns
    print("\n| | convolutional | fully connected |\n| --- | --- | --- |")
    print(f"| parameters | {parameters:,} | {parameters_dense:,} |")
    for name in columns[0][1]:
        cells = [
            f"{np.mean(values):.4f} ({min(values):.4f} to {max(values):.4f})"
            for values in (scores[name] for _, scores in columns)
        ]
        print(f"| test accuracy, {name} | {' | '.join(cells)} |")
    print(f"\n{1 - parameters / parameters_dense:.1%} fewer parameters.")
    print(
        f"Mean, lowest and highest of the seeds 1 to {args.seeds}, {args.epochs} epochs."
    )
    for name, (_, labels) in list(tests.items())[1:]:
        print(f"{name}: {1 - len(labels) / (4 * len(x_test)):.1%} lose ink, left out")
    print(machine())


if __name__ == "__main__":
    main()
