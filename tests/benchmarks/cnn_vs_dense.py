"""The network of `cnn_mnist.py` against a fully connected one, in numbers.

    python tests/benchmarks/cnn_vs_dense.py

Both are trained by the script's own `train`: same data, epochs, batches, optimizer
and dropout rate; then once more with the pixels of every image permuted.
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


def shifted(x, pixels):
    """Yield the images moved right, left, down and up, with zeros moved in."""
    if pixels == 0:
        yield x
        return
    for axis in (2, 1):
        for sign in (1, -1):
            moved = np.roll(x, sign * pixels, axis=axis)
            edge = slice(0, pixels) if sign == 1 else slice(-pixels, None)
            moved[(slice(None),) * axis + (edge,)] = 0
            yield moved


def permuted(x):
    """Return the images with their 784 pixels in another order, the same for all."""
    order = np.random.default_rng(0).permutation(28 * 28)
    return x.reshape(len(x), -1)[:, order].reshape(x.shape)


def accuracy(model, x, y):
    return model.evaluate(x, y, batch_size=1000, verbose=0, return_dict=True)[
        "accuracy"
    ]


def trained(build, x, y, args):
    """Return a new network, trained from the seed."""
    import keras

    keras.utils.set_random_seed(args.seed)
    model = build()
    cnn_mnist.train(model, x, y, epochs=args.epochs)
    if model.stop_training:  # by Ctrl-C
        raise KeyboardInterrupt
    return model


def same_feature_maps(model):
    """Return parameters of dense layers with the convolutions' inputs and outputs."""
    total = 0
    for layer in model.layers:
        if type(layer).__name__ == "Conv2D":
            inputs, outputs = (
                np.prod(layer.input.shape[1:]),
                np.prod(layer.output.shape[1:]),
            )
            total += int(inputs * outputs + outputs)
    return total


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=cnn_mnist.EPOCHS, metavar="N")
    parser.add_argument("--seed", type=int, default=cnn_mnist.SEED, metavar="N")
    args = parser.parse_args()

    (x_train, y_train), (x_test, y_test) = cnn_mnist.load_data()
    builders = (cnn_mnist.build_model, build_dense)
    models = [trained(build, x_train, y_train, args) for build in builders]
    x_permuted = permuted(x_train)
    blind = [trained(build, x_permuted, y_train, args) for build in builders]

    cnn, dense = models
    convolutions = sum(
        l.count_params() for l in cnn.layers if type(l).__name__ == "Conv2D"
    )
    rows = [("parameters", *(f"{model.count_params():,}" for model in models))]
    rows.append(
        (
            "parameters for the feature maps",
            f"{convolutions:,}",
            f"{same_feature_maps(cnn):,}",
        )
    )
    for pixels in range(5):
        scores = [
            np.mean([accuracy(model, x, y_test) for x in shifted(x_test, pixels)])
            for model in models
        ]
        rows.append(
            (
                f"test accuracy, shifted by {pixels}",
                *(f"{score:.4f}" for score in scores),
            )
        )
    scores = [accuracy(model, permuted(x_test), y_test) for model in blind]
    rows.append(
        ("test accuracy, pixels permuted", *(f"{score:.4f}" for score in scores))
    )

    print("\n| | convolutional | fully connected |\n| --- | --- | --- |")
    for row in rows:
        print("| {} | {} | {} |".format(*row))
    fewer = 1 - cnn.count_params() / dense.count_params()
    print(
        f"\n{fewer:.1%} fewer parameters. Seed {args.seed}, {args.epochs} epochs.\n{machine()}"
    )


if __name__ == "__main__":
    main()
