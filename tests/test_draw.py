"""What draw.html calculates: each layer as Keras does, and a digit of a drawing.

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
    "kernel of 5 by 5": lambda: two_convolutions(kernel_size=(5, 5)),
    "kernel of 2 by 5": lambda: two_convolutions(kernel_size=(2, 5)),
    "padding": lambda: two_convolutions(padding="same"),
    "padding, even kernel": lambda: two_convolutions(
        padding="same", kernel_size=(4, 2)
    ),
    "padding and strides": lambda: two_convolutions(padding="same", strides=(2, 3)),
    "strides": lambda: two_convolutions(strides=(2, 1)),
    "no bias": lambda: two_convolutions(use_bias=False),
    **{
        name: lambda name=name: two_convolutions(activation=name)
        for name in ("linear", "gelu", "tanh", "sigmoid", "softmax")
    },
    "one convolution": lambda: sequential(
        layers.Conv2D(5, 3, activation="relu"),
        layers.MaxPooling2D(),
        layers.Flatten(),
        answer(),
    ),
    "overlapping regions": lambda: sequential(
        layers.MaxPooling2D((3, 2), strides=(2, 1)), layers.Flatten(), answer()
    ),
    "padded regions": lambda: sequential(
        layers.Conv2D(3, 3),
        layers.MaxPooling2D(3, padding="same"),
        layers.Flatten(),
        answer(),
    ),
    "dense layers": lambda: sequential(
        layers.Flatten(),
        layers.Dense(20, activation="relu"),
        layers.Dense(15, activation="gelu", use_bias=False),
        answer(),
    ),
    "functional": functional,
}


def with_biases(model):
    """Return the model with random biases, as they start at zero."""
    rng = np.random.default_rng(1)
    for layer in model.layers:
        if getattr(layer, "bias", None) is not None:
            layer.bias.assign(rng.normal(0, 0.1, layer.bias.shape))
    return model


def by_keras(model, images):
    """Return the list of the outputs of each layer."""
    outputs, values = [], np.float32(images).reshape(-1, 28, 28, 1)
    for layer in model.layers:
        if not isinstance(layer, layers.InputLayer):
            values = layer(values)
            outputs.append(np.asarray(values))
    return outputs


@pytest.fixture(scope="module")
def images(mnist):
    noise = np.random.default_rng(2).random((1, 28, 28))
    return np.concatenate([mnist["x_test"][:2] / 255, noise, np.zeros((1, 28, 28))])


@pytest.mark.parametrize("name", MODELS)
def test_each_layer_calculates_as_keras_does(name, images):
    keras.utils.set_random_seed(3)
    model = with_biases(MODELS[name]())
    expected = by_keras(model, images)
    found = page.run(images, cnn_mnist.page_of(model))
    for i in range(len(images)):
        assert len(found[i]) == len(expected)
        for layer, values in zip(found[i], expected):
            assert tuple(layer["shape"]) == values[i].shape
            error = np.abs(values[i].ravel() - layer["values"]).max()
            assert error <= 1e-5 * np.abs(values[i]).max(), layer["name"]


def test_layers_are_named_as_in_keras(images):
    model = cnn_mnist.build_model()
    (found,) = page.run(images[:1], cnn_mnist.page_of(model))
    assert [layer["name"] for layer in found] == [layer.name for layer in model.layers]


def test_16_bits_in_place_of_32_differ_by_their_rounding_only(images):
    keras.utils.set_random_seed(3)
    policy = keras.mixed_precision.dtype_policy()
    keras.mixed_precision.set_dtype_policy("mixed_bfloat16")
    try:
        model = with_biases(two_convolutions())
    finally:
        keras.mixed_precision.set_dtype_policy(policy)
    expected = np.float32(by_keras(model, images)[-1])
    found = [
        layers[-1]["values"] for layers in page.run(images, cnn_mnist.page_of(model))
    ]
    np.testing.assert_allclose(found, expected, atol=0.02)


def test_large_scores_do_not_overflow():
    (values,) = page.evaluate("(z) => softmax(z)", [[1000, 999, 0]])
    np.testing.assert_allclose(values, [0.731059, 0.268941, 0], atol=1e-6)


# --- The page that is written ----------------------------------------------------


def test_the_committed_page_has_the_default_network():
    expected = page.network_of(cnn_mnist.page_of(cnn_mnist.build_model()))
    found = page.network_of(page.PAGE.read_text(encoding="utf-8"))
    keys = ("class", "input_shape", "output_shape", "activation", "weights")
    facts = [
        [[layer.get(key) for key in keys] for layer in json.loads(text)["layers"]]
        for text in (expected, found)
    ]
    assert facts[0] == facts[1]


def test_the_committed_page_reads_test_digits(mnist):
    found = page.run(mnist["x_test"][:200] / 255)
    said = [np.argmax(layers[-1]["values"]) for layers in found]
    assert np.mean(said == mnist["y_test"][:200]) >= 0.97


def test_only_the_network_is_replaced(tmp_path):
    path = tmp_path / "mine.html"
    model = functional()
    path.write_text(cnn_mnist.page_of(model), encoding="utf-8")
    committed = page.PAGE.read_text(encoding="utf-8")
    written = path.read_text(encoding="utf-8")
    assert written != committed
    blank = [text.replace(page.network_of(text), "") for text in (written, committed)]
    assert blank[0] == blank[1]


def test_a_name_cannot_end_the_script(images):
    model = sequential(layers.Flatten(name="<!--<script>"), answer())
    text = cnn_mnist.page_of(model)
    assert "<!--<script>" not in page.network_of(text)
    assert page.run(images[:1], text)[0][0]["name"] == "<!--<script>"


class Unknown(layers.Layer):
    def call(self, values):
        return values


# Each with a layer named "odd", and then a dense layer with softmax.
REFUSED = {
    "unknown layer": lambda: [layers.Flatten(), Unknown(name="odd")],
    "average": lambda: [layers.AveragePooling2D(2, name="odd"), layers.Flatten()],
    "dilation": lambda: [
        layers.Conv2D(2, 3, dilation_rate=2, name="odd"),
        layers.Flatten(),
    ],
    "groups": lambda: [
        layers.Conv2D(4, 3),
        layers.Conv2D(4, 3, groups=2, name="odd"),
        layers.Flatten(),
    ],
    "activation": lambda: [
        layers.Flatten(),
        layers.Dense(5, activation="elu", name="odd"),
    ],
    "layer as activation": lambda: [
        layers.Flatten(),
        layers.Dense(5, activation=layers.LeakyReLU(), name="odd"),
    ],
    "dense on maps": lambda: [layers.Dense(5, name="odd"), layers.Flatten()],
    "channels first": lambda: [layers.Flatten("channels_first", name="odd")],
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_layer_that_the_page_cannot_show_is_named_in_one_line(name):
    with pytest.raises(cnn_mnist.InputError, match="odd") as error:
        cnn_mnist.page_of(sequential(*REFUSED[name](), answer()))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("last", [[], [layers.Dense(10)]], ids=["flatten", "scores"])
def test_a_model_without_softmax_at_its_end_is_refused(last):
    with pytest.raises(cnn_mnist.InputError, match="softmax"):
        cnn_mnist.page_of(sequential(layers.Flatten(), *last))


def test_a_layer_that_is_used_twice_is_refused():
    image = keras.Input((28, 28, 1))
    twice = layers.Conv2D(1, 3, padding="same")
    values = layers.Flatten()(twice(twice(image)))
    with pytest.raises(cnn_mnist.InputError, match="chain"):
        cnn_mnist.page_of(keras.Model(image, answer()(values)))


def test_a_model_with_a_call_of_its_own_is_refused():
    class Network(keras.Model):
        def __init__(self):
            super().__init__()
            self.flatten = layers.Flatten()
            self.answer = answer()

        def call(self, images):
            return self.answer(self.flatten(images))

    with pytest.raises(cnn_mnist.InputError, match="functional"):
        cnn_mnist.page_of(Network())


def test_a_missing_template_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(cnn_mnist, "HTML_PAGE", tmp_path / "gone.html")
    with pytest.raises(cnn_mnist.InputError, match="gone.html"):
        cnn_mnist.page_of(functional())


def test_a_template_without_a_network_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(cnn_mnist, "HTML_PAGE", tmp_path / "other.html")
    cnn_mnist.HTML_PAGE.write_text("<html></html>")
    with pytest.raises(cnn_mnist.InputError, match="other.html"):
        cnn_mnist.page_of(functional())


def test_a_run_writes_the_page_of_its_network(run, small_file, saved, tmp_path, images):
    path = tmp_path / "mine.html"
    flags = ("--load-model", saved, "--epochs", 1, "--page", path)
    flags += ("--save-model", tmp_path / "m.keras")
    assert run("--data", small_file, *flags).status == 0
    found = page.run(images[:1], path.read_text(encoding="utf-8"))[0][-1]["values"]
    model = keras.saving.load_model(tmp_path / "m.keras")
    expected = model.predict(images[:1].reshape(-1, 28, 28, 1), verbose=0)[0]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_what_the_page_does_not_know_is_said_before_the_training(
    run, small_file, tmp_path, monkeypatch
):
    model = sequential(
        layers.Flatten(), layers.BatchNormalization(name="odd"), answer()
    )
    monkeypatch.setattr(cnn_mnist, "build_model", lambda: model)
    done = run("--data", small_file, "--page", tmp_path / "mine.html")
    assert (done.status, done.out) == (2, "")
    assert "odd" in done.err
    assert done.err.count("\n") == 1


def test_a_model_without_an_input_layer_is_shown(images):
    model = keras.Sequential([layers.Flatten(), answer()])
    (found,) = page.run(images[:1], cnn_mnist.page_of(model))
    assert len(found) == 2


def test_the_network_is_one_line_and_the_last():
    lines = page.PAGE.read_text(encoding="utf-8").splitlines()
    assert re.match('<script type="application/json" id="network">', lines[-1])


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


@pytest.fixture(scope="module")
def readings():
    """What the page reads each of the drawn digits as."""
    drawings = [strokes for _, _, strokes in drawn_digits()]
    code = "(strokes) => run(toDigit(strokes)).at(-1).values"
    return [np.argmax(values) for values in page.evaluate(code, drawings)]


@pytest.mark.parametrize(
    "i", range(50), ids=lambda i: " ".join(list(drawn_digits())[i][:2])
)
def test_a_digit_drawn_by_hand_is_read(readings, i):
    assert readings[i] == int(list(drawn_digits())[i][0])


# --- A drawing becomes a digit ------------------------------------------------------

SEVEN = [[[0.3, 0.2], [0.7, 0.2], [0.45, 0.8]]]


def placed(strokes, size=1.0, x=0.0, y=0.0):
    return [[[x + size * px, y + size * py] for px, py in s] for s in strokes]


def test_nothing_drawn_is_blank():
    assert not page.to_digit([]).any()


def test_ink_is_between_0_and_1():
    digit = page.to_digit(SEVEN)
    assert digit.min() == 0
    assert digit.max() == 1


def test_the_longer_side_is_20_pixels():
    digit = page.to_digit([[[0.5, 0.1], [0.5, 0.9]]])
    assert np.flatnonzero(digit.any(axis=1)).size in (20, 21)
    assert digit.sum(axis=0).max() <= 20
    assert digit.sum() == pytest.approx(17.8 * 2.2 + np.pi * 1.1**2, rel=0.02)


def test_a_wide_drawing_is_20_pixels_wide():
    digit = page.to_digit([[[0.1, 0.5], [0.9, 0.5]]])
    assert np.flatnonzero(digit.any(axis=0)).size in (20, 21)


def test_a_stroke_is_2_2_pixels_wide():
    digit = page.to_digit([[[0.5, 0.1], [0.5, 0.9]]])
    assert digit[14].sum() == pytest.approx(2.2, abs=0.1)


def test_ends_of_a_stroke_are_round():
    """A dot is a disc, so that its area is pi / 4 of its square's."""
    digit = page.to_digit([[[0.5, 0.5]]])
    assert digit.sum() == pytest.approx(np.pi * 1.1**2, rel=0.05)


def test_the_centre_of_mass_is_on_pixel_14():
    digit = page.to_digit(SEVEN)
    for axis in (0, 1):
        middle = np.average(np.arange(28), weights=digit.sum(axis=1 - axis))
        assert middle == pytest.approx(14, abs=0.06)


@pytest.mark.parametrize(
    "size, x, y", [(0.2, 0.7, 0.1), (0.5, 0, 0.5), (1.2, -0.1, -0.1)]
)
def test_size_and_place_of_a_drawing_do_not_matter(size, x, y):
    moved = page.to_digit(placed(SEVEN, size, x, y))
    assert np.abs(moved - page.to_digit(SEVEN)).max() <= 0.15


def test_the_number_of_points_does_not_matter():
    (stroke,) = SEVEN
    fine = [
        [a + (b - a) * t for a, b in zip(p, q)]
        for p, q in itertools.pairwise(stroke)
        for t in np.linspace(0, 1, 50)
    ]
    assert np.abs(page.to_digit([fine]) - page.to_digit(SEVEN)).max() <= 0.15


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
