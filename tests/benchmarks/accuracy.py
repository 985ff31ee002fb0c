"""The accuracy of `cnn_mnist.py` as a distribution: one default run for each seed.

    pip install scipy
    python tests/benchmarks/accuracy.py --seeds 10

The last column predicts one more run with another seed: by Student's t its result lies
in that range with a probability of 95 %. Below the table is how much an accuracy may
differ from that on other digits of the same kind, as there are only 10,000 test images.
That takes the digits as independent of each other, although many are by one hand.

Each run's result is appended to --results at once; a seed that is there already, from
the same script, versions and processor, is not run again. So an interrupted call is
simply repeated.
"""

import argparse
import hashlib
import json
import re
import statistics
import subprocess
import sys
from pathlib import Path

from machine import SCRIPT, machine
from scipy.stats import t

import cnn_mnist


def run_script(seed):
    """Return the test loss and test accuracy that the script prints."""
    done = subprocess.run(
        [sys.executable, SCRIPT, "--seed", str(seed)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    found = re.search(r"Test loss: (.*)\nTest accuracy: (.*)\n", done.stdout)
    return {"loss": float(found[1]), "accuracy": float(found[2])}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=10, metavar="N", help="2 or more")
    parser.add_argument(
        "--results", type=Path, default=Path("accuracy.jsonl"), metavar="PATH"
    )
    args = parser.parse_args()

    script = hashlib.sha256(SCRIPT.read_bytes()).hexdigest()[:12]
    made_by = {"script": script, "machine": machine()}
    lines = args.results.read_text().splitlines() if args.results.exists() else []
    results = {
        line["seed"]: line
        for line in map(json.loads, lines)
        if line.items() >= made_by.items()
    }
    for seed in range(1, args.seeds + 1):
        if seed not in results:
            results[seed] = {"seed": seed, **run_script(seed), **made_by}
            with open(args.results, "a") as file:
                file.write(json.dumps(results[seed]) + "\n")
        print(
            "seed {seed}: accuracy {accuracy:.4f}, loss {loss:.4f}".format(
                **results[seed]
            ),
            flush=True,
        )

    runs = [results[seed] for seed in range(1, args.seeds + 1)]
    print(
        f"\n| {args.seeds} seeds | mean | standard deviation | lowest to highest "
        "| one more run, 95 % |\n| --- | --- | --- | --- | --- |"
    )
    for name in ("accuracy", "loss"):
        values = [run[name] for run in runs]
        mean, spread = statistics.mean(values), statistics.stdev(values)
        low, high = t.interval(
            0.95, args.seeds - 1, mean, spread * (1 + 1 / args.seeds) ** 0.5
        )
        print(
            f"| test {name} | {mean:.4f} | {spread:.4f} "
            f"| {min(values):.4f} to {max(values):.4f} | {low:.4f} to {high:.4f} |"
        )
    accuracies = [run["accuracy"] for run in runs]
    mean, spread = statistics.mean(accuracies), statistics.stdev(accuracies)
    images = len(cnn_mnist.load_data()[1][0])
    error = (mean * (1 - mean) / images) ** 0.5
    print(
        f"\nFrom the number of test images, {images:,}: a standard error of {error:.4f}, "
        f"so ±{1.96 * error:.4f} with a probability of 95 %."
    )
    print(machine())


if __name__ == "__main__":
    main()
