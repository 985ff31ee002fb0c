"""The headline: the default run, as people start it, learns to read the digits."""

import re
import shutil
import subprocess
import sys

import pytest
from conftest import ENVIRONMENT, RESULT, SCRIPT, TOP


@pytest.mark.slow
def test_the_default_run_reads_989_of_1000_digits(tmp_path):
    for path in (SCRIPT, TOP / "mnist.npz"):
        shutil.copy(path, tmp_path)
    done = subprocess.run(
        [sys.executable, "cnn_mnist.py"],
        cwd=tmp_path,
        env=ENVIRONMENT,
        check=False,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    epochs = re.findall(
        r"^422/422 - .* - val_loss: \d\.\d{4}$", done.stdout, re.MULTILINE
    )
    assert len(epochs) == 15
    loss, accuracy = map(float, RESULT.search(done.stdout).groups())
    assert 0.989 <= accuracy <= 0.9999
    assert loss < 0.05
