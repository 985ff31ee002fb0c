"""The mistakes of a trained network: which digits it takes for which, and how surely.

    python cnn_mnist.py --seed 1 --save-model s1.keras
    python tests/benchmarks/mistakes.py s1.keras

The first table is the confusion matrix of the test images, the second compares the
largest probability with how often the answer was wrong.
"""

import argparse
from itertools import pairwise

import numpy as np
from machine import machine, print_table

import cnn_mnist


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", metavar="MODEL")
    args = parser.parse_args()

    _, (x, y) = cnn_mnist.load_data()
    model = cnn_mnist.load_model(args.model)
    probabilities = model.predict(x, batch_size=1000, verbose=0)
    true, answer = y.argmax(axis=1), probabilities.argmax(axis=1)
    sure = probabilities.max(axis=1)

    digits = range(cnn_mnist.NUM_CLASSES)
    counts = np.zeros((len(digits), len(digits)), int)
    np.add.at(counts, (true, answer), 1)
    rows = [
        (f"**{i}**", *(str(n or "") for n in row), str(row.sum() - row[i]))
        for i, row in enumerate(counts)
    ]
    print_table(("true digit", *map(str, digits), "wrong"), rows)

    edges = (0, 0.5, 0.9, 0.99, 0.999, np.nextafter(1, 2))
    rows = []
    for low, high in pairwise(edges):
        chosen = (low <= sure) & (sure < high)
        wrong = np.sum(answer[chosen] != true[chosen])
        mean = f"{sure[chosen].mean():.2%}" if chosen.any() else ""
        rows.append((f"{low:.1%} to {min(high, 1):.1%}", f"{chosen.sum():,}", mean))
        rows[-1] += (f"{wrong}", f"{wrong / max(chosen.sum(), 1):.2%}")
    head = "largest probability", "images", "its mean", "wrong", "share wrong"
    print_table(head, rows)
    print(f"\n{np.sum(answer != true)} of {len(true):,} images wrong. {machine()}")


if __name__ == "__main__":
    main()
