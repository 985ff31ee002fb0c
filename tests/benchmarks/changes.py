"""What each number of `cnn_mnist.py` does: the network with one thing changed.

    pip install scipy
    python tests/benchmarks/changes.py         # trains, then prints the table
    python tests/benchmarks/changes.py --time  # measures the seconds, then the same

The last column of the table is the difference of the mean test accuracy from that of
the first row, with its 95 % interval. It takes the spread between seeds as measured in
these two rows alone (Welch's t): with three seeds that is wide. It says what other
seeds may give on the same test images, not what other images may give.

Each training runs in a process of its own; first all changes with seed 1, then with
seed 2 and so on. The time of a step is not taken from these runs but measured by
--time, which wants an otherwise idle machine.

Each result is appended to --results at once; what is there already, from the same
network, settings, versions, processor and number of cores, is not done again. So an
interrupted call is simply repeated, and calls with different --only can fill one file
at the same time, on Linux under `taskset -c 0` and `taskset -c 1` with a core for each.
--table, called with as many cores, prints what is there.
"""

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from machine import cell, machine, on_step, print_table
from scipy.stats import t

import cnn_mnist

# The places of the layers in the network of `cnn_mnist.build_model`.
CONV_1, POOL_1, CONV_2, POOL_2, FLATTEN, DROPOUT, DENSE = range(7)
# Under "layers": what is replaced in a layer's configuration, None to leave it out.
# Under "images": how many training images there are, the last tenth for validation.
CHANGES = {
    "none": {},
    "dropout 0": {"layers": {DROPOUT: {"rate": 0.0}}},
    "half the filters (16, 32)": {
        "layers": {CONV_1: {"filters": 16}, CONV_2: {"filters": 32}}
    },
    "5x5 kernels": {
        "layers": {CONV_1: {"kernel_size": (5, 5)}, CONV_2: {"kernel_size": (5, 5)}}
    },
    "one convolution only": {"layers": {CONV_2: None, POOL_2: None}},
    "no ReLU": {
        "layers": {CONV_1: {"activation": "linear"}, CONV_2: {"activation": "linear"}}
    },
    "1,000 images": {"images": 1000},
    "1,000 images, 125 epochs": {"images": 1000, "epochs": 125},
    "5 epochs": {"epochs": 5},
    "batches of 1,024": {"batch_size": 1024},
    "learning rate 0.01": {"learning_rate": 0.01},
    "learning rate 0.0001": {"learning_rate": 0.0001},
    "SGD in place of Adam": {"optimizer": "sgd"},
    "mixed_bfloat16": {"policy": "mixed_bfloat16"},
}
DEFAULTS = {
    "layers": {},
    "images": None,
    "epochs": cnn_mnist.EPOCHS,
    "batch_size": cnn_mnist.BATCH_SIZE,
    "learning_rate": None,
    "optimizer": None,
    "policy": "float32",
}


def settings(change):
    """Return everything that the change leaves as it is, and what it replaces."""
    return DEFAULTS | CHANGES[change]


def build(change, seed):
    """Return the network of `cnn_mnist.build_model` with the change, compiled.

    Without a change it starts from the same weights as the script with that seed.
    """
    keras = cnn_mnist.keras
    new = settings(change)
    keras.mixed_precision.set_global_policy(new["policy"])
    model = cnn_mnist.build_model()
    keras.utils.set_random_seed(seed)
    changed = keras.Sequential([keras.Input(shape=cnn_mnist.INPUT_SHAPE)])
    for place, layer in enumerate(model.layers):
        values = new["layers"].get(place, {})
        if values is not None:
            changed.add(type(layer).from_config(layer.get_config() | values))
    compiled = model.get_compile_config()
    if new["optimizer"]:
        compiled["optimizer"] = new["optimizer"]
    changed.compile_from_config(compiled)
    if new["learning_rate"]:
        changed.optimizer.learning_rate = new["learning_rate"]
    return changed


def work(change, seed, images):
    """Train in this process; print the final accuracies as one line of JSON."""
    (x, y), test = cnn_mnist.load_data()
    new = settings(change)
    images = new["images"] or images
    x, y = x[:images], y[:images]
    model = build(change, seed)
    history = cnn_mnist.train(model, x, y, new["batch_size"], new["epochs"])
    learned = int(len(x) * (1 - cnn_mnist.VALIDATION_SPLIT))
    result = {
        "parameters": model.count_params(),
        "training": accuracy(model, x[:learned], y[:learned]),
        "validation": history["val_accuracy"][-1],
        "test": accuracy(model, *test),
    }
    print(json.dumps(result))


def accuracy(model, x, y):
    """Return the accuracy of the network as it is used: without dropout."""
    result = model.evaluate(
        x, y, batch_size=cnn_mnist.BATCH_SIZE, verbose=0, return_dict=True
    )
    return result["accuracy"]


def run(change, seed, images):
    """Return what `work` prints in a process of its own."""
    command = [sys.executable, __file__, "--work", change, str(seed)]
    if images:
        command += ["--images", str(images)]
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, encoding="utf-8"
    )
    return json.loads(done.stdout.splitlines()[-1])


def step_times(model, x, y):
    """Return the seconds of each step of an epoch but the first."""
    ticks = []
    timer = on_step(lambda: ticks.append(time.perf_counter()))
    cnn_mnist.train(model, x, y, epochs=1, callbacks=[timer])
    return np.diff(ticks).tolist()


def relative_time(change, rounds=4, steps=80):
    """Return the time of a training step, relative to that without a change.

    The ratio of the median steps, where rounds of both take turns.
    """
    images = round(steps * cnn_mnist.BATCH_SIZE / (1 - cnn_mnist.VALIDATION_SPLIT))
    (x, y), _ = cnn_mnist.load_data()
    models = {name: build(name, cnn_mnist.SEED) for name in ("none", change)}
    times = {name: [] for name in models}
    for i in range(rounds + 1):
        for name, model in models.items():
            seconds = step_times(model, x[:images], y[:images])
            if i:  # the first round warms up
                times[name] += seconds
    return statistics.median(times[change]) / statistics.median(times["none"])


def difference(values, others):
    """Return the difference of the means, with its 95 % interval by Welch's t."""
    mean = np.mean(values) - np.mean(others)
    if min(len(values), len(others)) < 2:
        return f"{mean:+.4f}"
    errors = [np.var(v, ddof=1) / len(v) for v in (values, others)]
    # Welch and Satterthwaite's degrees of freedom, from 1 to 4 with three seeds each.
    freedom = sum(errors) ** 2 / sum(
        error**2 / (len(v) - 1) for error, v in zip(errors, (values, others))
    )
    return f"{mean:+.4f} ± {t.ppf(0.975, freedom) * sum(errors) ** 0.5:.4f}"


def print_results(changes, seeds, found):
    """Print a line for each change, as far as there are results, and their machines."""
    accuracies = ("training", "validation", "test")
    heads = ["change", "parameters", *(f"{a} accuracy" for a in accuracies)]
    heads += ["test, difference", "time"]
    unchanged = [found["none", s]["test"] for s in seeds if ("none", s) in found]
    rows = []
    for change in changes:
        runs = [found[change, seed] for seed in seeds if (change, seed) in found]
        cells = [change, *[""] * 6]
        if runs:
            cells[1] = f"{runs[0]['parameters']:,}"
            cells[2:5] = [cell([run[name] for run in runs], 4) for name in accuracies]
        if runs and unchanged and change != "none":
            cells[5] = difference([run["test"] for run in runs], unchanged)
        if len(runs) < len(seeds):
            cells[0] += f" ({len(runs)} of {len(seeds)} runs)"
        if (change, "time") in found:
            cells[6] = f"{found[change, 'time']['ratio']:.2f}"
        rows.append(cells)
    print_table(heads, rows)
    print(
        "\nAccuracies: mean, lowest and highest of the seeds, after the last epoch and "
        "without dropout.\nDifference: from the first row, with its 95 % interval. "
        "The time is that of a step, relative to the default."
    )
    for made_on in sorted({line["machine"] for line in found.values()}):
        print(made_on)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--only", nargs="+", choices=CHANGES, default=list(CHANGES), metavar="NAME"
    )
    parser.add_argument("--seeds", type=int, default=3, metavar="N")
    parser.add_argument("--time", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument(
        "--images", type=int, metavar="N", help="train on the first N, for a quick try"
    )
    parser.add_argument(
        "--results", type=Path, default=Path("changes.jsonl"), metavar="PATH"
    )
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work(args.work[0], int(args.work[1]), args.images)
        return

    # The network, its settings and the machine, but no word of the source, as a changed
    # comment should not throw hours of training away.
    made_by = [cnn_mnist.build_model().to_json(), cnn_mnist.VALIDATION_SPLIT]
    made_by += [machine(), args.images]
    hashes = {
        change: hashlib.sha256(
            json.dumps([*made_by, settings(change)]).encode()
        ).hexdigest()[:12]
        for change in CHANGES
    }
    lines = args.results.read_text().splitlines() if args.results.exists() else []
    found = {
        (line["change"], line["seed"]): line
        for line in map(json.loads, lines)
        if line["made_by"] == hashes.get(line["change"])
    }
    seeds = range(1, args.seeds + 1)
    for seed in [] if args.table else ["time"] if args.time else seeds:
        for change in args.only:
            if (change, seed) in found:
                continue
            if args.time:
                result = {"ratio": relative_time(change)}
            else:
                result = run(change, seed, args.images)
            line = {"change": change, "seed": seed, **result, "machine": machine()}
            found[change, seed] = line | {"made_by": hashes[change]}
            with open(args.results, "a", encoding="utf-8") as file:
                file.write(json.dumps(found[change, seed]) + "\n")
            print(f"{change}, {seed}: {result}", flush=True)
    print_results(args.only, seeds, found)


if __name__ == "__main__":
    main()
