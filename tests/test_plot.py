"""The figure of --plot: what is on it, and that it is written as asked."""

import copy
import io
import re
import subprocess
import sys

import matplotlib.image
import numpy as np
import pytest
from conftest import ENVIRONMENT, RESULT, SCRIPT
from PIL import Image, ImageOps

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


def titles(figure):
    return [text.get_text() for part in figure.subfigs for text in part.texts]


def test_the_curves(digits):
    figure = cnn_mnist.draw(HISTORY, *digits, answers(digits[1], {}))
    for axes, name in zip(figure.axes, ("loss", "accuracy"), strict=True):
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", name)
        training, validation = axes.lines
        assert list(training.get_xdata()) == [1, 2, 3]
        assert list(training.get_ydata()) == HISTORY[name]
        assert list(validation.get_xdata()) == [1, 2, 3]
        assert list(validation.get_ydata()) == HISTORY[f"val_{name}"]
        labels = [text.get_text() for text in axes.get_legend().texts]
        assert labels == ["training", "validation"]


def test_curves_of_other_metrics_and_without_a_validation(digits):
    history = {"mse": [3, 2], "loss": [2, 1], "auc": [0, 1], "val_auc": [1, 0]}
    figure = cnn_mnist.draw(history, *digits, answers(digits[1], {}))
    curves = [axes for axes in figure.axes if axes.lines]
    assert [axes.get_ylabel() for axes in curves] == ["mse", "loss", "auc"]
    assert [len(axes.lines) for axes in curves] == [1, 1, 2]
    assert list(curves[2].lines[1].get_ydata()) == [1, 0]
    assert len(figure.axes) == 3


def test_an_epoch_is_a_whole_number(digits):
    for epochs in (1, 2, 15):
        history = {name: [0.5] * epochs for name in HISTORY}
        figure = cnn_mnist.draw(history, *digits, answers(digits[1], {}))
        for axes in figure.axes:
            assert all(tick == int(tick) for tick in axes.get_xticks())


def test_the_mistakes_most_confident_first(digits):
    x, y = digits
    wrong = {5: 0.6, 17: 0.998, 100: 0.75}
    figure = cnn_mnist.draw({}, x, y, answers(y, wrong))
    assert titles(figure)[0].startswith("3 of 300 test images wrong")
    assert len(figure.axes) == 3
    for axes, i, sure in zip(tiles(figure), (17, 100, 5), ("99.8%", "75.0%", "60.0%")):
        true = y[i].argmax()
        said = (true + 1) % 10
        assert axes.get_title() == f"is {true}, said {said}\n{sure} sure"
        assert np.array_equal(axes.images[0].get_array(), x[i, :, :, 0])
        assert axes.images[0].get_clim() == (
            0,
            1,
        )  # not from its own darkest to lightest
        assert not axes.axison


@pytest.mark.parametrize("wrong", [0, 8, 9, 33])
def test_at_most_32_mistakes_in_rows_of_8(digits, wrong):
    x, y = digits
    some = {i: 0.5 + 0.01 * i for i in range(wrong)}
    figure = cnn_mnist.draw({}, x, y, answers(y, some))
    assert titles(figure)[0].startswith(f"{wrong} of 300 ")
    assert ("most confident" in titles(figure)[0]) == (wrong > 32)
    shown = tiles(figure)
    assert len(shown) == min(wrong, 32)
    for axes in shown[:1]:
        rows, columns, *_ = axes.get_subplotspec().get_geometry()
        assert (rows, columns) == (-(-len(shown) // 8), 8)
        assert axes.get_title().endswith(f"{0.5 + 0.01 * (wrong - 1):.1%} sure")


@pytest.mark.parametrize("history", [HISTORY, {}], ids=["curves", "no curves"])
@pytest.mark.parametrize("wrong", [0, 5, 60])
def test_no_text_overlaps(digits, history, wrong):
    x, y = digits
    wrong = answers(y, {i: 0.999 for i in range(wrong)})
    assert_nothing_overlaps(cnn_mnist.draw(history, x, y, wrong))


def assert_nothing_overlaps(figure):
    figure.savefig(io.BytesIO())  # lays the figure out
    boxes = [text.get_window_extent() for part in figure.subfigs for text in part.texts]
    for axes in figure.axes:
        if axes.images:
            boxes += [
                axes.title.get_window_extent(),
                axes.images[0].get_window_extent(),
            ]
        else:
            boxes.append(axes.get_tightbbox())  # with its labels
    boxes = [box.padded(-0.5) for box in boxes]  # a caption may touch its digit
    for i, box in enumerate(boxes):
        assert box.x0 >= 0 and box.x1 <= figure.bbox.x1
        assert box.y0 >= 0 and box.y1 <= figure.bbox.y1
        assert box.count_overlaps(boxes[i + 1 :]) == 0


@pytest.fixture(scope="module")
def photographs(tmp_path_factory, digits):
    """40 images of digits, some of them wide, with what was made of each."""
    folder = tmp_path_factory.mktemp("images")
    photographs = []
    for i, digit in enumerate(digits[0][:40]):
        path = folder / f"{i} with a very long name.png"
        page = Image.fromarray(np.uint8(255 - 255 * digit[..., 0]))
        ImageOps.pad(page, (28, 28 + i), color="white").save(path)
        photograph = cnn_mnist.Photograph(path)
        photograph.probabilities = np.eye(10)[i % 10] * 0.875
        photographs.append(photograph)
    return photographs


@pytest.mark.parametrize("history", [HISTORY, {}], ids=["curves", "no curves"])
def test_each_image_beside_what_the_network_was_shown(digits, photographs, history):
    x, y = digits
    figure = cnn_mnist.draw(history, x, y, answers(y, {5: 0.6}), photographs[:3])
    assert len(titles(figure)) == 2
    assert len(figure.axes) - len(tiles(figure)) == (2 if history else 0)
    first, *pairs = tiles(figure)
    assert first.get_title().startswith("is ")
    assert len(pairs) == 6
    for i, photograph in enumerate(photographs[:3]):
        page, shown = pairs[2 * i : 2 * i + 2]
        assert page.get_title() == photograph.path.name[-12:]
        assert shown.get_title() == f"said {i}\n87.5% sure"
        assert np.array_equal(shown.images[0].get_array(), photograph.digit[..., 0])
        # Dark ink is drawn dark, as in the tiles of MNIST.
        image = page.images[0].get_array()
        np.testing.assert_allclose(image, 1 - np.asarray(photograph.page) / 255)
        for axes in (page, shown):
            assert axes.images[0].get_clim() == (0, 1)
            assert axes.get_subplotspec().get_geometry()[:2] == (1, 8)


def test_at_most_32_images_and_how_many_there_are(digits, photographs):
    x, y = digits
    figure = cnn_mnist.draw({}, x, y, answers(y, {}), photographs)
    assert len(tiles(figure)) == 64
    assert tiles(figure)[-2].get_title() == photographs[31].path.name[-12:]
    assert {"32", "40"} <= {*titles(figure)[1].split()}


@pytest.mark.parametrize("images", [1, 5, 40])
def test_no_text_overlaps_with_images(digits, photographs, images):
    x, y = digits
    wrong = answers(y, {i: 0.999 for i in range(9)})
    assert_nothing_overlaps(cnn_mnist.draw(HISTORY, x, y, wrong, photographs[:images]))


def test_letters_that_the_font_lacks_cause_no_warning(
    run, small_file, photographs, tmp_path, recwarn
):
    path, plot = tmp_path / "七.png", tmp_path / "plot.png"
    path.write_bytes(photographs[7].path.read_bytes())
    flags = ("--epochs", 0, "--predict", path, "--plot", plot)
    assert run("--data", small_file, *flags).status == 0
    assert [str(w.message) for w in recwarn if "Glyph" in str(w.message)] == []


def test_a_dollar_in_a_name_is_no_formula(digits, photographs):
    x, y = digits
    photograph = copy.copy(photographs[0])
    photograph.path = "a$^$.png"
    figure = cnn_mnist.draw({}, x, y, answers(y, {}), [photograph])
    figure.savefig(io.BytesIO())
    assert tiles(figure)[0].get_title() == "a$^$.png"


def test_an_image_that_is_gone_when_the_figure_is_drawn(
    run, small_file, photographs, tmp_path, monkeypatch
):
    image, plot, train = tmp_path / "7.png", tmp_path / "plot.png", cnn_mnist.train
    image.write_bytes(photographs[7].path.read_bytes())

    def train_and_lose_it(*args):
        image.unlink()
        return train(*args)

    monkeypatch.setattr(cnn_mnist, "train", train_and_lose_it)
    flags = ("--epochs", 0, "--plot", plot, "--predict", image)
    done = run("--data", small_file, *flags)
    assert done.status == 0
    assert plot.exists()


def test_a_run_with_plot_and_predict(run, small_file, saved, photographs, tmp_path):
    plot, path = tmp_path / "plot.svg", photographs[7].path
    flags = ("--load-model", saved, "--epochs", 0, "--plot", plot, "--predict", path)
    done = run("--data", small_file, *flags)
    assert done.status == 0
    digit, sure = re.search(r": (\d) \((\d+\.\d) %\)\n\Z", done.out).groups()
    assert path.name[-12:] in plot.read_text()
    assert f"<!-- said {digit} -->" in plot.read_text()
    assert f"<!-- {sure}% sure -->" in plot.read_text()


def test_a_run_with_plot_shows_what_its_evaluation_counts(
    run, small_file, tmp_path, monkeypatch
):
    figures, draw = [], cnn_mnist.draw

    def recorded(*args):
        figures.append(draw(*args))
        return figures[-1]

    monkeypatch.setattr(cnn_mnist, "draw", recorded)
    path = tmp_path / "plot.png"
    for epochs in (6, 0):
        done = run("--data", small_file, "--epochs", epochs, "--plot", path)
        assert done.status == 0
        accuracy = float(RESULT.search(done.out).group(2))
        wrong = round((1 - accuracy) * 300)
        figure = figures[-1]
        assert titles(figure)[0].startswith(f"{wrong} of 300 test images wrong")
        assert len(tiles(figure)) == min(wrong, 32)
        assert len(figure.axes) - len(tiles(figure)) == (2 if epochs else 0)
        assert matplotlib.image.imread(path).std() > 0.1
        if epochs:
            (curves,) = [a for a in figure.axes if a.get_ylabel() == "loss"]
            printed = [
                float(line.split(" - loss: ")[1][:6])
                for line in done.out.splitlines()
                if " - loss: " in line
            ]
            assert list(curves.lines[0].get_ydata()) == pytest.approx(printed, abs=6e-5)


@pytest.mark.parametrize("name", ["plot.PNG", "plot.svg", "plot.pdf"])
def test_the_name_decides_the_format(run, small_file, tmp_path, name):
    path = tmp_path / name
    assert run("--data", small_file, "--epochs", 0, "--plot", path).status == 0
    start = {"plot.PNG": b"\x89PNG", "plot.svg": b"<?xml", "plot.pdf": b"%PDF"}[name]
    assert path.read_bytes().startswith(start)


@pytest.fixture
def without(monkeypatch):
    """A function after which a package cannot be imported."""

    def without(package):
        for name in [*sys.modules, package]:
            if name.split(".")[0] == package:
                monkeypatch.setitem(sys.modules, name, None)

    return without


@pytest.mark.parametrize(
    ("flag", "module", "package"),
    [("--plot", "matplotlib", "matplotlib"), ("--predict", "PIL", "pillow")],
)
def test_a_flag_says_which_package_it_needs(
    run, small_file, tmp_path, without, flag, module, package
):
    without(module)
    done = run("--data", small_file, "--epochs", 0, flag, tmp_path / "plot.png")
    assert (done.status, done.out) == (2, "")
    assert f"{flag} needs {package}: pip install {package}" in done.err


@pytest.mark.parametrize(
    ("flag", "module", "package"),
    [("--plot", "matplotlib", "matplotlib"), ("--predict", "PIL", "pillow")],
)
def test_a_package_that_does_not_load_is_named_before_the_training(
    tmp_path, small_file, flag, module, package
):
    (tmp_path / f"{module}.py").write_text("raise AttributeError('it is broken')")
    done = subprocess.run(
        [sys.executable, SCRIPT, "--data", small_file, flag, tmp_path / "p.png"],
        env=ENVIRONMENT | {"PYTHONPATH": str(tmp_path)},
        check=False,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{flag} needs {package}" in done.stderr.splitlines()[-1]
    assert "it is broken" in done.stderr.splitlines()[-1]


def test_without_the_flags_neither_is_needed(run, small_file, without):
    without("matplotlib")
    without("PIL")
    assert run("--data", small_file, "--epochs", 0).status == 0
