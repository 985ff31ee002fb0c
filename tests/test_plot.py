"""The figure of --plot: what is on it, and that it is written as asked."""

import sys

import numpy as np
import pytest
from conftest import RESULT

import cnn_mnist

HISTORY = {
    "loss": [0.4, 0.1, 0.05],
    "accuracy": [0.9, 0.96, 0.98],
    "val_loss": [0.2, 0.08, 0.07],
    "val_accuracy": [0.95, 0.97, 0.975],
}


@pytest.fixture(scope="module")
def digits(small_file):
    """The 300 test digits of the small file."""
    _, (x, y) = cnn_mnist.load_data(small_file)
    return x, y


def answers(y, wrong):
    """Probabilities with the digits of `wrong` (index: confidence) given as 1 more."""
    probabilities = np.where(y == 1, 0.91, 0.01)
    for i, confidence in wrong.items():
        said = (y[i].argmax() + 1) % 10
        probabilities[i] = (1 - confidence) / 9
        probabilities[i, said] = confidence
    return probabilities


def tiles(figure):
    return [axes for axes in figure.axes if axes.images]


def title(figure):
    return figure.subfigs[1].texts[0].get_text()


def test_the_curves(digits):
    figure = cnn_mnist.draw(HISTORY, *digits, answers(digits[1], {}))
    for axes, name in zip(figure.axes, ("loss", "accuracy"), strict=False):
        assert axes.get_xlabel() == "epoch"
        training, validation = axes.lines
        for line, metric in ((training, name), (validation, f"val_{name}")):
            assert list(line.get_xdata()) == [1, 2, 3]
            assert list(line.get_ydata()) == HISTORY[metric]
        labels = [text.get_text() for text in axes.get_legend().texts]
        assert labels == [name, f"val_{name}"]


def test_curves_of_other_metrics_and_without_a_validation(digits):
    history = {"mse": [3, 2], "loss": [2, 1], "val_loss": [9], "auc": [0, 1]}
    history["val_auc"] = [1, 0]
    history["f1_score"] = [np.array([0.0, 1.0]), np.array([1.0, 1.0])]
    figure = cnn_mnist.draw(history, *digits, answers(digits[1], {}))
    curves = [axes for axes in figure.axes if axes.lines]
    assert [len(axes.lines) for axes in curves] == [1, 1, 2, 1]
    assert list(curves[3].lines[0].get_ydata()) == [0.5, 1]  # the mean of the classes
    assert list(curves[2].lines[1].get_ydata()) == [1, 0]


def test_the_mistakes_most_confident_first(digits):
    x, y = digits
    wrong = {5: 0.6, 17: 0.998, 100: 0.75}
    figure = cnn_mnist.draw({}, x, y, answers(y, wrong))
    assert title(figure).startswith("3 of 300 test images misread")
    shown = zip(tiles(figure), (17, 100, 5), ("99.8%", "75.0%", "60.0%"), strict=True)
    for axes, i, sure in shown:
        true = y[i].argmax()
        assert axes.get_title() == f"is {true}, read {(true + 1) % 10}\n{sure} sure"
        assert np.array_equal(axes.images[0].get_array(), x[i, :, :, 0])
        assert axes.images[0].get_clim() == (0, 1)
        assert axes.images[0].get_cmap().name == "gray_r"
    assert not any(axes.axison for axes in figure.axes)


def test_a_run_draws_its_own_results(run, small_file, tmp_path, monkeypatch):
    """In the format that is asked for, with the one epoch as a tick of the axis."""
    figures, draw = [], cnn_mnist.draw
    monkeypatch.setattr(
        cnn_mnist, "draw", lambda *args: figures.append(draw(*args)) or figures[-1]
    )
    path = tmp_path / "plot.svg"
    done = run("--data", small_file, "--epochs", 1, "--plot", path)
    assert done.status == 0
    assert path.read_bytes().startswith(b"<?xml")
    wrong = round((1 - float(RESULT.search(done.out).group(2))) * 300)
    assert title(figures[0]).startswith(f"{wrong} of 300 test images misread")
    charts = figures[0].subfigs[0].axes
    assert len(charts) == 2
    assert all(tick == int(tick) for axes in charts for tick in axes.get_xticks())


def test_without_matplotlib(run, small_file, tmp_path, monkeypatch):
    for name in [*sys.modules, "matplotlib"]:
        if name.split(".")[0] == "matplotlib":
            monkeypatch.setitem(sys.modules, name, None)
    done = run("--data", small_file, "--epochs", 0, "--plot", tmp_path / "plot.png")
    assert (done.status, done.out, done.err.count("\n")) == (2, "", 1)
    assert "pip install matplotlib" in done.err
    assert run("--data", small_file, "--epochs", 0).status == 0
