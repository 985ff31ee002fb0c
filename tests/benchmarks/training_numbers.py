"""Why the validation numbers of `cnn_mnist.py` look better than the training numbers.

    python tests/benchmarks/training_numbers.py

The accuracy and loss that Keras prints for the training images are a mean over the
epoch: each step's, with dropout, before its weights are updated. For the validation
images there is no dropout, and the weights are those of the epoch's end. So two more
numbers are measured here, both on the training images with the weights of the epoch's
end: with dropout, which shows what the weaker start of the epoch does, and without,
which shows what dropout does. The training itself is the default run.
"""

import argparse

import numpy as np
from machine import machine

import cnn_mnist


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=cnn_mnist.EPOCHS, metavar="N")
    parser.add_argument("--seed", type=int, default=cnn_mnist.SEED, metavar="N")
    args = parser.parse_args()

    keras = cnn_mnist.keras
    (x, y), _ = cnn_mnist.load_data()
    learned = int(len(x) * (1 - cnn_mnist.VALIDATION_SPLIT))
    keras.utils.set_random_seed(args.seed)
    twin = cnn_mnist.build_model()  # as dropout in `model` would change its training
    keras.utils.set_random_seed(args.seed)
    model = cnn_mnist.build_model()
    found = []

    def measure(epoch, logs):
        twin.set_weights(model.get_weights())
        for dropout in (True, False):
            output = [
                twin(x[start : start + 1000], training=dropout)
                for start in range(0, learned, 1000)
            ]
            loss, right = (
                np.mean(metric(y[:learned], np.concatenate(output)))
                for metric in (
                    keras.metrics.categorical_crossentropy,
                    keras.metrics.categorical_accuracy,
                )
            )
            found.append((float(right), float(loss)))

    callback = keras.callbacks.LambdaCallback(on_epoch_end=measure)
    history = cnn_mnist.train(model, x, y, epochs=args.epochs, callbacks=[callback])
    columns = [
        zip(history["accuracy"], history["loss"]),
        found[::2],
        found[1::2],
        zip(history["val_accuracy"], history["val_loss"]),
    ]
    print("\n| epoch | printed | with dropout | without dropout | validation |")
    print("| --- | --- | --- | --- | --- |")
    for epoch, row in enumerate(zip(*columns), start=1):
        cells = [f"{right:.4f}, {loss:.4f}" for right, loss in row]
        print(f"| {epoch} | {' | '.join(cells)} |")
    print(f"\nAccuracy, loss; seed {args.seed}.\n{machine()}")


if __name__ == "__main__":
    main()
