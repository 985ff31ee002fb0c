"""What several test files share: the script, small data files, one run of `main`."""

import os
import re
import signal
import sys
import types
from pathlib import Path

import numpy as np
import pytest

TOP = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TOP))
import cnn_mnist

SCRIPT = TOP / "cnn_mnist.py"
# As in a terminal, also where these tests run in the background with Ctrl-C ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
posix = pytest.mark.skipif(os.name != "posix", reason="needs signals as on POSIX")
# The environment of a user, who has not set what importing the script sets.
ENVIRONMENT = {
    k: v for k, v in os.environ.items() if not k.startswith(("TF_", "PYTHON"))
}
# The last two lines of every run.
RESULT = re.compile(r"Test loss: (\d+\.\d{4})\nTest accuracy: ([01]\.\d{4})\n\Z")


@pytest.fixture(scope="session")
def mnist():
    """The four uint8 arrays of mnist.npz by name."""
    with np.load(TOP / "mnist.npz", allow_pickle=False) as archive:
        return dict(archive)


@pytest.fixture(scope="session")
def small(mnist):
    """The first 1,280 training and 300 test digits of MNIST, as in an .npz file.

    Nine tenths of 1,280 are exactly 9 batches of 128, so that every split and batch
    size other than the default ones shows in the number of steps.
    """
    sizes = {"x_train": 1280, "y_train": 1280, "x_test": 300, "y_test": 300}
    return {name: mnist[name][:size] for name, size in sizes.items()}


@pytest.fixture(scope="session")
def small_file(small, tmp_path_factory):
    """The path of an .npz file with the arrays of `small`."""
    path = tmp_path_factory.mktemp("data") / "small.npz"
    np.savez_compressed(path, **small)
    return str(path)


@pytest.fixture(scope="session")
def saved(small_file, tmp_path_factory):
    """The path of a model trained for two epochs of 9 steps."""
    path = tmp_path_factory.mktemp("saved") / "model.keras"
    flags = ["--data", small_file, "--epochs", "2", "--save-model", str(path)]
    assert cnn_mnist.main(flags) == 0
    return path


@pytest.fixture
def run(capsys):
    """A function that calls `main` with a command line; see its `status`, `out`, `err`."""

    def run(*argv):
        capsys.readouterr()
        try:
            status = cnn_mnist.main([str(arg) for arg in argv])
        except SystemExit as stop:
            status = stop.code
        out, err = capsys.readouterr()
        return types.SimpleNamespace(status=status, out=out, err=err)

    return run
