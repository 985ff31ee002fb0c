"""The speed of `cnn_mnist.py` beside other ways to train the same network.

    python tests/benchmarks/speed.py

Each way trains the same network on MNIST with the same batches, in a process of its
own; rounds of all ways, so that a busy machine slows all alike, and each round starts
with another way, as the first pays for what no other has loaded yet. A way that is
not installed is named and left out.
"""

import argparse
import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import time

import numpy as np
from machine import TOP, machine, on_step

DATA = TOP / "mnist.npz"
BATCH_SIZE = 128
SEED = 1
MODULES = {"keras-jax": "jax"} | dict.fromkeys(
    ("keras-torch", "torch", "torch-channels-last", "torch-compile"), "torch"
)
# TensorFlow, when left alone, chooses for itself whether to use oneDNN.
WAYS = {
    "script": ("cnn_mnist.py", {}),
    "plain": ("plain Keras on TensorFlow", {}),
    "plain-off": (
        "plain Keras on TensorFlow, without oneDNN",
        {"TF_ENABLE_ONEDNN_OPTS": "0"},
    ),
    "keras-jax": ("plain Keras on JAX", {"KERAS_BACKEND": "jax"}),
    "keras-torch": ("plain Keras on PyTorch", {"KERAS_BACKEND": "torch"}),
    "torch": ("PyTorch", {}),
    "torch-channels-last": ("PyTorch, channels last", {}),
    "torch-compile": ("PyTorch, channels last, torch.compile", {}),
}
# Makes a processor with AVX-512 work like one that has only AVX2.
AVX2 = {
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "XLA_FLAGS": "--xla_cpu_max_isa=AVX2",
    # What torch.compile keeps from a run without the limit would crash.
    "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1",
}


# --- In the process of one way ------------------------------------------------


def script(epochs, tick):
    """Train with the script's own functions; return the test accuracy."""
    # As the program does before it imports Keras.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    if hasattr(os, "SCHED_BATCH"):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    import cnn_mnist

    keras = cnn_mnist.keras
    (x_train, y_train), (x_test, y_test) = cnn_mnist.load_data()
    keras.utils.set_random_seed(cnn_mnist.SEED)
    model = cnn_mnist.build_model()
    cnn_mnist.train(model, x_train, y_train, epochs=epochs, callbacks=[on_step(tick)])
    return model.evaluate(
        x_test, y_test, batch_size=cnn_mnist.BATCH_SIZE, verbose=0, return_dict=True
    )["accuracy"]


def plain_keras(epochs, tick):
    """Train as the example of Keras does; return the test accuracy."""
    import keras
    from keras import layers

    with np.load(DATA) as data:
        x_train, y_train = data["x_train"], data["y_train"]
        x_test, y_test = data["x_test"], data["y_test"]
    x_train = np.expand_dims(x_train.astype("float32") / 255, -1)
    x_test = np.expand_dims(x_test.astype("float32") / 255, -1)
    y_train = keras.utils.to_categorical(y_train, 10)
    y_test = keras.utils.to_categorical(y_test, 10)

    keras.utils.set_random_seed(SEED)
    model = keras.Sequential(
        [
            keras.Input(shape=(28, 28, 1)),
            layers.Conv2D(32, kernel_size=(3, 3), activation="relu"),
            layers.MaxPooling2D(pool_size=(2, 2)),
            layers.Conv2D(64, kernel_size=(3, 3), activation="relu"),
            layers.MaxPooling2D(pool_size=(2, 2)),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(
        loss="categorical_crossentropy", optimizer="adam", metrics=["accuracy"]
    )
    model.fit(
        x_train,
        y_train,
        batch_size=BATCH_SIZE,
        epochs=epochs,
        validation_split=0.1,
        verbose=2,
        callbacks=[on_step(tick)],
    )
    return model.evaluate(x_test, y_test, verbose=0)[1]


def pytorch(epochs, tick, channels_last=False, compiled=False):
    """Train with PyTorch, initialised as Keras does; return the test accuracy."""
    import torch
    from torch import nn

    torch.manual_seed(SEED)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    with np.load(DATA) as data:
        x_train, x_test = (
            (torch.from_numpy(data[name]).float() / 255)[:, None].contiguous(
                memory_format=layout
            )
            for name in ("x_train", "x_test")
        )
        y_train, y_test = (
            torch.from_numpy(data[name]).long() for name in ("y_train", "y_test")
        )
    x_train, x_validation = x_train[:54000], x_train[54000:]
    y_train, y_validation = y_train[:54000], y_train[54000:]

    model = nn.Sequential(
        nn.Conv2d(1, 32, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(1600, 10),
    )
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.xavier_uniform_(parameter)
        else:
            nn.init.zeros_(parameter)
    model = model.to(memory_format=layout)
    optimizer = torch.optim.Adam(model.parameters(), eps=1e-7)
    loss_function = nn.CrossEntropyLoss()
    forward = torch.compile(model) if compiled else model

    def evaluate(x, y):
        model.eval()
        with torch.no_grad():
            batches = zip(x.split(BATCH_SIZE), y.split(BATCH_SIZE))
            right = sum((forward(a).argmax(1) == b).sum().item() for a, b in batches)
        return right / len(x)

    for epoch in range(1, epochs + 1):
        model.train()
        for batch in torch.randperm(len(x_train)).split(BATCH_SIZE):
            optimizer.zero_grad()
            loss_function(forward(x_train[batch]), y_train[batch]).backward()
            optimizer.step()
            tick()
        print(f"Epoch {epoch}: val_accuracy {evaluate(x_validation, y_validation):.4f}")
    return evaluate(x_test, y_test)


def matrix_product(size=4096, times=8):
    """Return how many FLOP a second a large float32 matrix product does."""
    import keras

    a, b = (keras.random.normal((size, size)) for _ in range(2))
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        np.asarray(keras.ops.matmul(a, b)[0, 0])
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / statistics.median(seconds[1:])


def work(way, epochs):
    """Train in this process and print what was measured as one line of JSON."""
    steps = []

    def tick():
        steps.append(time.time())

    if way == "limit":
        print(json.dumps({"flop_per_second": matrix_product()}))
        return
    train = {
        "script": script,
        "torch": pytorch,
        "torch-channels-last": lambda *args: pytorch(*args, channels_last=True),
        "torch-compile": lambda *args: pytorch(
            *args, channels_last=True, compiled=True
        ),
    }.get(way, plain_keras)
    accuracy = train(epochs, tick)
    per_epoch = len(steps) // epochs
    times = np.diff(steps)
    # Between two epochs lies the validation.
    warm = [t for i, t in enumerate(times, 1) if i >= per_epoch and i % per_epoch]
    unit = 1024 if sys.platform == "darwin" else 1
    print(
        json.dumps(
            {
                "steps": warm,
                "epoch": (steps[-1] - steps[per_epoch - 1]) / (epochs - 1),
                "first": steps[0] - float(os.environ["STARTED"]),
                "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
                / unit
                / 1024,
                "accuracy": accuracy,
            }
        )
    )


# --- In the process that compares ---------------------------------------------


def flop_per_sample(model):
    """Return multiplications and additions of one image's part of a training step.

    Forward, gradient of the weights, and, below the first layer, of the inputs: each
    is one multiplication and one addition for every weight at every place.
    """
    total = 0
    for layer in model.layers:
        if layer.weights:
            places = int(np.prod(layer.output.shape[1:-1]))
            passes = 2 if total == 0 else 3
            total += passes * 2 * places * int(np.prod(layer.kernel.shape))
    return total


def measure(way, epochs, env):
    """Return what `work` prints in a process of its own, or None if it failed."""
    done = subprocess.run(
        [sys.executable, __file__, "--epochs", str(epochs), "--way", way],
        env=env | {"STARTED": str(time.time())},
        check=False,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    if done.returncode:
        print(f"{way} failed: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return None
    return json.loads(done.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--epochs",
        type=int,
        default=4,
        metavar="N",
        help="2 or more; the first warms up (default: %(default)s)",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=3,
        metavar="N",
        help="of all ways, one after the other (default: %(default)s)",
    )
    parser.add_argument(
        "--ways", nargs="+", choices=WAYS, default=list(WAYS), help="default: all"
    )
    parser.add_argument(
        "--avx2", action="store_true", help="use no instructions newer than AVX2"
    )
    parser.add_argument("--way", choices=[*WAYS, "limit"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way:
        work(args.way, args.epochs)
        return

    env = {k: v for k, v in os.environ.items() if k != "TF_ENABLE_ONEDNN_OPTS"}
    if args.avx2:
        env |= AVX2
    ways = []
    for way in args.ways:
        if way in MODULES and importlib.util.find_spec(MODULES[way]) is None:
            print(f"{WAYS[way][0]}: left out, {MODULES[way]} is not installed")
        else:
            ways.append(way)

    runs = {way: [] for way in ways}
    speeds = []
    for i in range(args.rounds):
        for way in ways[i % len(ways) :] + ways[: i % len(ways)]:
            runs[way].append(measure(way, args.epochs, env | WAYS[way][1]))
            if runs[way][-1]:
                step = statistics.median(runs[way][-1]["steps"]) * 1000
                print(
                    f"round {i + 1}: {WAYS[way][0]}: {step:.1f} ms a step", flush=True
                )
        speeds.append(
            measure("limit", args.epochs, env | {"TF_ENABLE_ONEDNN_OPTS": "1"})[
                "flop_per_second"
            ]
        )

    import cnn_mnist

    flop = flop_per_sample(cnn_mnist.build_model()) * BATCH_SIZE
    speed = statistics.median(speeds)
    limit = flop / speed * 1000

    columns = (
        "way",
        "ratio",
        "ms a step (5 % to 95 %)",
        "s an epoch",
        "peak memory, MB",
        "s to the first step",
        f"test accuracy after {args.epochs} epochs",
    )
    print(f"\n| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")
    baseline = None
    for way in ways:
        good = [run for run in runs[way] if run]
        if not good:
            continue
        steps = np.concatenate([run["steps"] for run in good]) * 1000
        low, step, high = np.percentile(steps, [5, 50, 95])
        baseline = baseline or step
        memory, first, accuracy = (
            statistics.median(run[name] for run in good)
            for name in ("memory", "first", "accuracy")
        )
        # The mean, as a pause comes in some epochs and not in others.
        epoch = statistics.mean(run["epoch"] for run in good)
        print(
            f"| {WAYS[way][0]} | {step / baseline:.2f} "
            f"| {step:.1f} ({low:.1f} to {high:.1f}) | {epoch:.1f} "
            f"| {memory:.0f} | {first:.1f} | {accuracy:.4f} |"
        )
    print(f"| the arithmetic alone | {limit / baseline:.2f} | {limit:.1f} | | | | |")
    print(
        f"\nThe arithmetic of a step is {flop / 1e9:.3f} GFLOP; "
        f"a matrix product does {speed / 1e9:.0f} GFLOP a second."
    )
    print(machine("jax", "torch") + (", limited to AVX2" if args.avx2 else ""))


if __name__ == "__main__":
    main()
