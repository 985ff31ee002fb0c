"""What draw.html calculates: each layer as Keras does, and a digit of a drawing or a photograph.

Keras sums in 32 bits, the page in 64. Relative to a layer's largest value they differ by
less than 1e-6 in the default network, so 1e-5 leaves room, and no wrong formula passes.
"""

import itertools
import json
import re

import keras
import numpy as np
import page
import pytest
from keras import layers

import cnn_mnist

# --- The layers ----------------------------------------------------------------


def sequential(*stack):
    return keras.Sequential([keras.Input((28, 28, 1)), *stack])


def answer():
    return layers.Dense(10, activation="softmax")


def two_convolutions(**options):
    """The network of `build_model` with other options for its convolutions."""
    options = {"kernel_size": (3, 3), "activation": "relu"} | options
    return sequential(
        layers.Conv2D(6, **options),
        layers.MaxPooling2D((2, 2)),
        layers.Conv2D(8, **options),
        layers.MaxPooling2D((2, 2)),
        layers.Flatten(),
        layers.Dropout(0.5),
        answer(),
    )


def functional():
    image = keras.Input((28, 28, 1))
    values = layers.Conv2D(4, 3, activation="relu")(image)
    return keras.Model(image, answer()(layers.Flatten()(values)))


MODELS = {
    "default": cnn_mnist.build_model,
    "kernel of 2 by 5": lambda: two_convolutions(kernel_size=(2, 5)),
    "padding, even kernel": lambda: two_convolutions(
        padding="same", kernel_size=(4, 2)
    ),
    "padding and strides": lambda: two_convolutions(padding="same", strides=(2, 3)),
    "no bias, softmax": lambda: two_convolutions(use_bias=False, activation="softmax"),
    "activations": lambda: sequential(
        layers.Conv2D(5, 3, activation="tanh"),
        layers.Conv2D(4, 3),
        layers.ReLU(),
        layers.Activation("sigmoid"),
        layers.Flatten(),
        layers.Dense(20, activation="relu"),
        answer(),
    ),
    "poolings": lambda: sequential(
        layers.MaxPooling2D((3, 2), strides=(2, 1)),
        layers.MaxPooling2D(3, padding="same"),
        layers.AveragePooling2D(2, padding="same"),
        layers.Flatten(),
        answer(),
    ),
    "averages": lambda: sequential(
        layers.Conv2D(5, 3, activation="relu"),
        layers.AveragePooling2D((3, 2), strides=(2, 1)),
        layers.GlobalAveragePooling2D(),
        answer(),
    ),
    "batch normalization": lambda: sequential(
        layers.BatchNormalization(),
        layers.Conv2D(5, 3, use_bias=False),
        layers.BatchNormalization(scale=False),
        layers.Flatten(),
        layers.BatchNormalization(center=False, epsilon=0.1),
        answer(),
    ),
    "only in training": lambda: sequential(
        layers.RandomFlip("horizontal"),
        layers.RandomTranslation(0.1, 0.1),
        layers.RandomRotation(0.1),
        layers.RandomZoom(0.1),
        layers.GaussianNoise(0.1),
        layers.Conv2D(3, 3),
        layers.SpatialDropout2D(0.2),
        layers.Flatten(),
        layers.GaussianDropout(0.2),
        answer(),
    ),
    "functional": functional,
    "no input layer": lambda: keras.Sequential([layers.Flatten(), answer()]),
}


def with_random_arrays(model):
    """Return the model with random arrays where Keras starts with equal numbers."""
    rng = np.random.default_rng(1)
    for layer in model.layers:
        for weight in layer.weights:
            if weight.name != "kernel":
                weight.assign(rng.uniform(0.1, 0.9, weight.shape))
    return model


def by_keras(model, images):
    """Return the list of the outputs of each layer."""
    outputs, values = [], np.float32(images).reshape(-1, 28, 28, 1)
    for layer in model.layers:
        if not isinstance(layer, layers.InputLayer):
            values = layer(values, training=False)
            outputs.append(np.asarray(values))
    return outputs


@pytest.fixture(scope="module")
def images(mnist):
    noise = np.random.default_rng(2).random((1, 28, 28))
    return np.concatenate([mnist["x_test"][:2] / 255, noise, np.zeros((1, 28, 28))])


@pytest.mark.parametrize("name", MODELS)
def test_each_layer_calculates_as_keras_does(name, images):
    keras.utils.set_random_seed(3)
    model = with_random_arrays(MODELS[name]())
    expected = by_keras(model, images)
    found = page.run(images, cnn_mnist.page_of(model))
    kept = [layer for layer in model.layers if not isinstance(layer, layers.InputLayer)]
    for i in range(len(images)):
        assert [layer["name"] for layer in found[i]] == [layer.name for layer in kept]
        for layer, values in zip(found[i], expected):
            assert tuple(layer["shape"]) == values[i].shape
            error = np.abs(values[i].ravel() - layer["values"]).max()
            assert error <= 1e-5 * np.abs(values[i]).max(), layer["name"]


def test_large_scores_do_not_overflow():
    (values,) = page.evaluate("(z) => softmax(z)", [[1000, 999, 0]])
    np.testing.assert_allclose(values, [0.731059, 0.268941, 0], atol=1e-6)


# --- The page that is written ----------------------------------------------------


def network_of(path=page.PAGE):
    return json.loads(page.network_of(path.read_text(encoding="utf-8")))


def test_the_committed_page_holds_the_default_run(mnist):
    """Its network, its first weights, its story, and all that in at most 450 kB."""
    found = network_of()
    expected = json.loads(page.network_of(cnn_mnist.page_of(cnn_mnist.build_model())))
    for a, b in zip(found["layers"], expected["layers"], strict=True):
        assert {**a, "name": ""} == {**b, "name": ""}
    story = found["training"]
    assert (story["images"], story["epochs"], story["test_images"]) == (54000, 15, 1e4)
    assert page.PAGE.stat().st_size <= 450_000

    images, labels = mnist["x_test"][:200] / 255, mnist["y_test"][:200]
    share = {}
    for which in ("weights", "first_weights"):
        said = page.answers(images, which=which).argmax(axis=1)
        share[which] = np.mean(said == labels)
    assert share["weights"] == pytest.approx(1 - story["misread"][1] / 1e4, abs=0.02)
    assert share["first_weights"] == pytest.approx(
        1 - story["misread"][0] / 1e4, abs=0.08
    )


def test_a_run_writes_its_network_and_what_it_was_before(
    run, small_file, small, tmp_path, images
):
    path, saved = tmp_path / "mine.html", tmp_path / "m.keras"
    flags = ("--epochs", 1, "--seed", 5, "--page", path, "--save-model", saved)
    assert run("--data", small_file, *flags).status == 0
    keras.utils.set_random_seed(5)
    first = cnn_mnist.build_model()
    last = keras.saving.load_model(saved)
    text = path.read_text(encoding="utf-8")
    for which, model in (("first_weights", first), ("weights", last)):
        found = page.answers(images, text, which)
        expected = model.predict(images.reshape(-1, 28, 28, 1), verbose=0)
        np.testing.assert_allclose(found, expected, atol=1e-5)

    story = network_of(path)["training"]
    assert (story["images"], story["epochs"], story["test_images"]) == (1152, 1, 300)
    x, y = small["x_test"][..., np.newaxis] / 255, np.eye(10)[small["y_test"]]
    for i, model in enumerate((first, last)):
        loss, accuracy = model.evaluate(x, y, verbose=0)
        assert story["loss"][i] == pytest.approx(loss, rel=1e-4)
        assert story["misread"][i] == round(300 * (1 - accuracy))
    # Nothing but the last line is new.
    committed = page.PAGE.read_text(encoding="utf-8")
    blank = [t.replace(page.network_of(t), "") for t in (text, committed)]
    assert blank[0] == blank[1]


def test_a_loaded_or_untrained_network_has_no_first_weights(
    run, small_file, saved, tmp_path
):
    path = tmp_path / "mine.html"
    for flags in (("--epochs", 0), ("--load-model", saved, "--epochs", 1)):
        assert run("--data", small_file, *flags, "--page", path).status == 0
        assert not {"first_weights", "training"} & set(network_of(path))


def test_a_name_cannot_end_the_script(images):
    model = sequential(layers.Flatten(name="<!--<script>"), answer())
    text = cnn_mnist.page_of(model)
    assert "<!--<script>" not in page.network_of(text)
    assert page.run(images[:1], text)[0][0]["name"] == "<!--<script>"


class Unknown(layers.Layer):
    def call(self, values):
        return values


def twice(padding):
    image = keras.Input((28, 28, 1))
    odd = layers.Conv2D(1, 3, padding=padding)
    return keras.Model(image, answer()(layers.Flatten()(odd(odd(image)))))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.flatten = layers.Flatten()
        self.answer = answer()

    def call(self, images):
        return self.answer(self.flatten(images))


def with_odd(*stack):
    return lambda: sequential(*(layer() for layer in stack), answer())


# Each model, and a word of the line that refuses it.
FLAT = layers.Flatten
REFUSED = {
    "unknown layer": (with_odd(FLAT, lambda: Unknown(name="odd")), "odd"),
    "dilation": (
        with_odd(lambda: layers.Conv2D(2, 3, dilation_rate=2, name="odd"), FLAT),
        "odd",
    ),
    "groups": (
        with_odd(
            lambda: layers.Conv2D(4, 3),
            lambda: layers.Conv2D(4, 3, groups=2, name="odd"),
            FLAT,
        ),
        "odd",
    ),
    "activation": (
        with_odd(FLAT, lambda: layers.Dense(5, activation="gelu", name="odd")),
        "odd",
    ),
    "layer as activation": (
        with_odd(
            FLAT, lambda: layers.Dense(5, activation=layers.LeakyReLU(), name="odd")
        ),
        "odd",
    ),
    "slope": (with_odd(lambda: layers.ReLU(negative_slope=1, name="odd"), FLAT), "odd"),
    "max_value": (with_odd(lambda: layers.ReLU(6, name="odd"), FLAT), "odd"),
    "threshold": (with_odd(lambda: layers.ReLU(threshold=1, name="odd"), FLAT), "odd"),
    "keepdims": (
        with_odd(
            lambda: layers.GlobalAveragePooling2D(keepdims=True, name="odd"), FLAT
        ),
        "odd",
    ),
    "another axis": (
        with_odd(lambda: layers.BatchNormalization(axis=1, name="odd"), FLAT),
        "odd",
    ),
    "dense on maps": (with_odd(lambda: layers.Dense(5, name="odd"), FLAT), "odd"),
    "channels first": (
        with_odd(lambda: layers.Flatten("channels_first", name="odd")),
        "odd",
    ),
    "no softmax": (lambda: sequential(FLAT(), layers.Dense(10)), "softmax"),
    "softmax, but not dense": (
        lambda: sequential(FLAT(), layers.Dense(10), layers.Activation("softmax")),
        "softmax",
    ),
    "used twice": (lambda: twice("same"), "chain"),
    "used twice, other shapes": (lambda: twice("valid"), "chain"),
    "a call of its own": (Subclassed, "functional"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_that_the_page_cannot_show_is_refused_in_one_line(name):
    make, word = REFUSED[name]
    with pytest.raises(cnn_mnist.InputError, match=word) as error:
        cnn_mnist.page_of(make())
    assert "\n" not in str(error.value)


def test_it_is_refused_before_the_training(run, small_file, tmp_path, monkeypatch):
    monkeypatch.setattr(cnn_mnist, "build_model", REFUSED["unknown layer"][0])
    done = run("--data", small_file, "--page", tmp_path / "mine.html")
    assert (done.status, done.out) == (2, "")
    assert done.err.count("\n") == 1


def test_a_template_without_a_network_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(cnn_mnist, "PAGE", tmp_path / "other.html")
    for text in (None, "<html></html>"):
        if text:
            cnn_mnist.PAGE.write_text(text)
        with pytest.raises(cnn_mnist.InputError, match="other.html"):
            cnn_mnist.page_of(functional())


# --- Digits drawn by hand ------------------------------------------------------------


def drawn_digits():
    """Return digit, style and strokes of each line of drawn_digits.txt."""
    lines = page.TOP.joinpath("tests", "drawn_digits.txt").read_text().splitlines()
    for line in lines[2:]:
        digit, style, points = re.fullmatch(r"(\d) (\D+) (.+)", line).groups()
        strokes = [stroke.split() for stroke in points.split("/")]
        yield (
            digit,
            style,
            [[[int(n) / 100 for n in p.split(",")] for p in s] for s in strokes],
        )


def test_digits_drawn_by_hand_are_read():
    drawings = list(drawn_digits())
    code = "(strokes) => run(toDigit(strokes)).at(-1).values"
    found = page.evaluate(code, [strokes for _, _, strokes in drawings])
    misread = [
        (digit, style)
        for (digit, style, _), values in zip(drawings, found)
        if np.argmax(values) != int(digit)
    ]
    assert len(drawings) == 50
    assert misread == []


# --- A drawing becomes a digit ------------------------------------------------------

SEVEN = [[[0.3, 0.2], [0.7, 0.2], [0.45, 0.8]]]
UPRIGHT = [[[0.5, 0.1], [0.5, 0.9]]]


def test_nothing_drawn_is_blank():
    assert not page.to_digit([]).any()


def test_a_line_is_20_pixels_long_2_2_wide_and_has_round_ends():
    digit = page.to_digit(UPRIGHT)
    assert (digit.min(), digit.max()) == pytest.approx((0, 1), abs=1e-6)
    assert np.flatnonzero(digit.any(axis=1)).size in (20, 21)
    assert digit.sum(axis=0).max() <= 20
    assert digit[14].sum() == pytest.approx(2.2, abs=0.1)
    assert digit.sum() == pytest.approx(17.8 * 2.2 + np.pi * 1.1**2, rel=0.02)


def test_a_wide_drawing_is_20_pixels_wide():
    digit = page.to_digit([[[0.1, 0.5], [0.9, 0.5]]])
    assert np.flatnonzero(digit.any(axis=0)).size in (20, 21)


def test_a_dot_stays_a_dot():
    """It is a disc, so that its area is pi / 4 of its square's."""
    digit = page.to_digit([[[0.5, 0.5]]])
    assert digit.sum() == pytest.approx(np.pi * 1.1**2, rel=0.05)


def test_the_centre_of_mass_is_on_pixel_14():
    digit = page.to_digit(SEVEN)
    for axis in (0, 1):
        middle = np.average(np.arange(28), weights=digit.sum(axis=1 - axis))
        assert middle == pytest.approx(14, abs=0.06)


def test_size_place_and_number_of_points_do_not_matter():
    expected = page.to_digit(SEVEN)
    for size, x, y in ((0.2, 0.7, 0.1), (0.5, 0, 0.5), (1.2, -0.1, -0.1)):
        moved = [[[x + size * px, y + size * py] for px, py in s] for s in SEVEN]
        assert np.abs(page.to_digit(moved) - expected).max() <= 0.15
    fine = [
        [a + (b - a) * t for a, b in zip(p, q)]
        for p, q in itertools.pairwise(SEVEN[0])
        for t in np.linspace(0, 1, 50)
    ]
    assert np.abs(page.to_digit([fine]) - expected).max() <= 0.15


def test_rows_run_down_and_columns_to_the_right():
    """The bar of the seven is its first row, and its foot is left of its corner."""
    digit = page.to_digit(SEVEN)
    first, last = np.flatnonzero(digit.any(axis=1))[[0, -1]]
    assert digit[first + 1].sum() > 3 * digit[last - 1].sum()
    corner, foot = (np.flatnonzero(digit[row])[-1] for row in (first, last))
    assert foot < corner


def test_strokes_are_not_joined():
    digit = page.to_digit([[[0.2, 0.1], [0.2, 0.9]], [[0.8, 0.1], [0.8, 0.9]]])
    assert not digit[:, 12:16].any()


def test_moving_loses_what_leaves_and_brings_paper():
    pixels = np.arange(784)
    (moved,) = page.evaluate("(p) => moved(p, [2, -3])", [pixels.tolist()])
    expected = np.zeros((28, 28))
    expected[2:, :-3] = pixels.reshape(28, 28)[:-2, 3:]
    np.testing.assert_array_equal(np.reshape(moved, (28, 28)), expected)


# --- A photograph becomes a digit ---------------------------------------------------


def colours(grey):
    """Return a grey picture as red, green, blue and alpha, nothing transparent."""
    return np.dstack(
        [np.uint8(np.clip(grey, 0, 255))] * 3
        + [np.full_like(grey, 255, dtype=np.uint8)]
    )


def sheet(digit, side=120, top=90, left=60, paper=220.0, ink=40.0, size=(300, 240)):
    """Return a page of grey values with one of MNIST's digits, and a little noise."""
    grey = np.full(size, float(paper))
    rows = np.arange(side) * 28 // side
    strength = digit[rows][:, rows] / 255
    grey[top : top + side, left : left + side] += (ink - paper) * strength
    return grey + np.random.default_rng(0).normal(0, 3, size)


def share_read(photographs, labels, **options):
    found = page.read_photographs(photographs, **options)
    return np.mean([f["answer"] for f in found] == labels)


@pytest.fixture(scope="module")
def forty(mnist):
    return mnist["x_test"][:40], mnist["y_test"][:40]


def test_photographs_are_read_in_any_place_size_and_light(forty):
    digits, labels = forty
    light = np.linspace(1, 0.5, 240)
    tables = [np.pad(sheet(d), 30, constant_values=70) for d in digits]
    for photographs in (
        [sheet(d) for d in digits],
        [sheet(d, side=28, top=200, left=20) for d in digits],
        [sheet(d, paper=50, ink=210) for d in digits],
        [sheet(d) * light for d in digits],
        tables,
        [255.0 - d for d in digits],
        [1.0 * d for d in digits],
    ):
        assert share_read([colours(p) for p in photographs], labels) >= 0.95


def test_what_is_found_is_the_image_that_the_network_learned_from(forty):
    """Of MNIST's own digits, whose centre and size are right already."""
    digits, _ = forty
    found = page.read_photographs([colours(255.0 - d) for d in digits])
    errors = [np.abs(np.ravel(d) / 255 - f["digit"]) for d, f in zip(digits, found)]
    assert np.mean(errors) < 0.04


def test_thin_strokes_become_as_wide_as_mnists_and_wide_ones_stay():
    """Each stands upright, 120 pixels long: 6 of them are one pixel of the digit."""
    for width, expected in ((3, 2.5), (24, 4)):
        grey = np.full((300, 240), 220.0)
        grey[90:210, 100 : 100 + width] = 40
        (found,) = page.read_photographs([colours(grey)])
        rows = np.reshape(found["digit"], (28, 28)).sum(axis=1)
        assert rows[14] == pytest.approx(expected, abs=0.4)
        assert np.count_nonzero(rows) in (20, 21)


def test_ink_may_show_in_one_channel_only(forty):
    digits, labels = forty
    yellow = [colours(sheet(d, paper=240, ink=230)) for d in digits]
    hidden = [np.zeros((28, 28, 4), np.uint8) for _ in digits]
    for digit, photograph, clear in zip(digits, yellow, hidden):
        photograph[..., 2] = colours(sheet(digit, ink=90))[..., 2]
        clear[..., 3] = digit  # black on nothing
    assert share_read(yellow, labels) >= 0.95
    assert share_read(hidden, labels) >= 0.95


def test_a_rectangle_and_a_polarity_are_taken_as_they_are_said(forty):
    digits, labels = forty
    two = [
        np.hstack([sheet(d), sheet(other, side=200, top=20, left=20)])
        for d, other in zip(digits, np.roll(digits, 1, axis=0))
    ]
    photographs = [colours(p) for p in two]
    box = [50, 80, 190, 220]
    assert share_read(photographs, labels, box=box) >= 0.95
    (found,) = page.read_photographs(photographs[:1], box=box, light=False)
    assert (found["box"], found["light"]) == (box, False)
    (found,) = page.read_photographs(photographs[:1], light=True)
    assert found["light"] is True


def test_where_there_is_no_ink_none_is_found():
    noise = np.random.default_rng(1).normal(200, 4, (400, 500))
    photographs = [noise, np.zeros((1, 1)), np.full((50, 60), 255.0), np.zeros((9, 90))]
    found = page.read_photographs([colours(p) for p in photographs])
    assert [f["strokes"] for f in found] == [0, 0, 0, 0]
