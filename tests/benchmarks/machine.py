"""What the benchmarks share: where the script is, what they ran on, their tables."""

import importlib.metadata
import os
import platform
import sys
from pathlib import Path

import numpy as np

TOP = Path(__file__).resolve().parents[2]
SCRIPT = TOP / "cnn_mnist.py"
sys.path.insert(0, str(TOP))


def processor():
    """Return the processor's name and its vector instructions, where Linux tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    fields = dict(line.replace("\t", "").split(":", 1) for line in lines if ":" in line)
    flags = fields.get("flags", "").split()
    known = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16")
    vectors = [name for name in known if name in flags]
    return " ".join([fields.get("model name", platform.machine()).strip(), *vectors])


def versions(*packages):
    """Return name and version of each package that is installed."""
    found = []
    for package in packages:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            pass
    return ", ".join(found)


def machine(*more_packages):
    """Return versions and processor in one line."""
    packages = versions("keras", "tensorflow", "numpy", *more_packages)
    cores = (
        len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count()
    )
    return (
        f"Python {platform.python_version()}, {packages}; {cores} cores, {processor()}"
    )


def on_step(call):
    """Return the Keras callback that calls `call` after every training step."""
    import keras

    return keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: call())


def cell(values, places=2):
    """Return the mean and, of several values, the lowest and the highest."""
    mean, low, high = (f"{f(values):.{places}f}" for f in (np.mean, np.min, np.max))
    return mean if len(values) == 1 else f"{mean} ({low} to {high})"


def print_table(head, rows):
    print(f"\n| {' | '.join(head)} |\n|{' --- |' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    sys.stdout.flush()
