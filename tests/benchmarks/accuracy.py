"""The accuracy of `cnn_mnist.py` as a distribution: one default run for each seed.

    python tests/benchmarks/accuracy.py --seeds 10

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


def run(seed):
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
    parser.add_argument("--seeds", type=int, default=10, metavar="N")
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
            results[seed] = {"seed": seed, **run(seed), **made_by}
            with open(args.results, "a") as file:
                file.write(json.dumps(results[seed]) + "\n")
        print(
            "seed {seed}: accuracy {accuracy:.4f}, loss {loss:.4f}".format(
                **results[seed]
            ),
            flush=True,
        )

    print(f"\n{args.seeds} seeds | mean | standard deviation | lowest | highest")
    print("--- | --- | --- | --- | ---")
    for name in ("accuracy", "loss"):
        values = [results[seed][name] for seed in range(1, args.seeds + 1)]
        spread = statistics.stdev(values) if len(values) > 1 else float("nan")
        print(
            f"test {name} | {statistics.mean(values):.4f} | {spread:.4f} | {min(values):.4f} | {max(values):.4f}"
        )
    print(f"\n{machine()}")


if __name__ == "__main__":
    main()
