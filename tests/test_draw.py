"""What draw.html calculates: each layer as Keras does, and a digit of a drawing or a photograph.

Keras sums in 32 bits, the page in 64. Relative to a layer's largest value they differ by
less than 1e-6 in the default network, so 1e-5 leaves room, and no wrong formula passes.
"""

import json
import re

import keras
import numpy as np
import page
import pytest
from keras import layers
from keras.layers import Conv2D, Dense, Flatten

import cnn_mnist

# --- The layers ----------------------------------------------------------------


def sequential(*stack):
    return keras.Sequential([keras.Input((28, 28, 1)), *stack])


def answer():
    return Dense(10, activation="softmax")


MODELS = {
    "default": cnn_mnist.build_model,
    "convolutions": lambda: sequential(
        Conv2D(6, (2, 5), activation="relu"),
        Conv2D(5, (4, 2), activation="tanh", padding="same"),
        Conv2D(7, (3, 5), strides=(2, 3), padding="same"),
        layers.ReLU(),
        Conv2D(4, 3, activation="softmax", use_bias=False),
        layers.Activation("sigmoid"),
        Flatten(),
        Dense(20, activation="relu"),
        answer(),
    ),
    "poolings": lambda: sequential(
        Conv2D(5, 3, activation="relu"),
        layers.AveragePooling2D((3, 2), strides=(2, 1)),
        layers.MaxPooling2D((3, 2), strides=(2, 1)),
        layers.MaxPooling2D(4, padding="same"),
        layers.AveragePooling2D(3, padding="same"),
        layers.GlobalAveragePooling2D(),
        answer(),
    ),
    "normalization, and what acts in training only": lambda: sequential(
        layers.RandomFlip("horizontal"),
        *(kind(0.1) for kind in (layers.RandomRotation, layers.RandomZoom)),
        layers.RandomTranslation(0.1, 0.1),
        layers.GaussianNoise(0.1),
        layers.BatchNormalization(),
        Conv2D(5, 3, use_bias=False),
        layers.BatchNormalization(scale=False),
        layers.Dropout(0.2),
        Flatten(),
        layers.BatchNormalization(center=False, epsilon=0.1),
        answer(),
    ),
    "no input layer, and a name like a tag": lambda: keras.Sequential(
        [Flatten(name="<!--<script>"), answer()]
    ),
}


@pytest.fixture(scope="module")
def images(mnist):
    noise = np.random.default_rng(2).random((1, 28, 28))
    return np.concatenate([mnist["x_test"][:2] / 255, noise, np.zeros((1, 28, 28))])


@pytest.mark.parametrize("name", MODELS)
def test_each_layer_calculates_as_keras_does(name, images):
    keras.utils.set_random_seed(3)
    model = MODELS[name]()
    rng = np.random.default_rng(1)
    for weight in model.weights:
        if weight.name != "kernel":  # Keras starts with equal numbers
            weight.assign(rng.uniform(0.1, 0.9, weight.shape))
    text = cnn_mnist.page_of(model)
    assert "<" not in page.network_of(text)  # a tag would end the script
    found = page.run(images, text)
    expected = np.float32(images)[..., np.newaxis]
    for i, layer in enumerate(model.layers):
        expected = np.asarray(layer(expected, training=False))
        for image, stages in zip(expected, found):
            assert stages[i]["name"] == layer.name
            assert tuple(stages[i]["shape"]) == image.shape
            error = np.abs(image.ravel() - stages[i]["values"]).max()
            assert error <= 1e-5 * np.abs(image).max(), layer.name
    assert {len(stages) for stages in found} == {len(model.layers)}


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
    assert (found["images"], found["epochs"], found["test_images"]) == (54000, 15, 1e4)
    assert page.PAGE.stat().st_size <= 450_000
    images, labels = mnist["x_test"][:100] / 255, mnist["y_test"][:100]
    for which, time, room in (
        ("first_weights", "before", 0.08),
        ("weights", "after", 0.02),
    ):
        right = page.answers(images, which=which).argmax(axis=1) == labels
        assert right.mean() == pytest.approx(found[time]["accuracy"], abs=room)


def test_a_run_writes_its_network_and_what_it_was_before(
    run, small_file, small, tmp_path, images
):
    path, saved = tmp_path / "mine.html", tmp_path / "m.keras"
    flags = ("--epochs", 1, "--seed", 5, "--page", path, "--save-model", saved)
    assert run("--data", small_file, *flags).status == 0
    text = path.read_text(encoding="utf-8")
    story = network_of(path)
    assert (story["images"], story["epochs"], story["test_images"]) == (1152, 1, 300)
    keras.utils.set_random_seed(5)
    first, last = cnn_mnist.build_model(), keras.saving.load_model(saved)
    x, labels = small["x_test"][..., np.newaxis] / 255, small["y_test"]
    for model, weights, time in (
        (first, "first_weights", "before"),
        (last, "weights", "after"),
    ):
        found = page.answers(images, text, weights)
        expected = np.asarray(model(images[..., np.newaxis]))
        np.testing.assert_allclose(found, expected, atol=1e-5)
        answers = np.asarray(model(x))
        loss = -np.log(answers[range(300), labels]).mean()
        assert story[time]["loss"] == pytest.approx(loss, rel=1e-4)
        right = np.mean(answers.argmax(axis=1) == labels)
        assert story[time]["accuracy"] == pytest.approx(right)
    # Nothing but the last line is new.
    committed = page.PAGE.read_text(encoding="utf-8")
    blank = [t.replace(page.network_of(t), "") for t in (text, committed)]
    assert blank[0] == blank[1]
    # A loaded or untrained network has no first weights.
    for flags in (("--epochs", 0), ("--load-model", saved, "--epochs", 1)):
        assert run("--data", small_file, *flags, "--page", path).status == 0
        assert not {"first_weights", "before"} & set(network_of(path))


class Unknown(layers.Layer):
    def call(self, values):
        return values


class Subclassed(keras.Model):
    def call(self, images):
        return images


# What stands between a convolution and the last two layers.
ODD = [
    lambda: [Unknown(name="odd")],
    lambda: [Conv2D(2, 3, dilation_rate=2, name="odd")],
    lambda: [Conv2D(4, 3, groups=2, name="odd")],
    lambda: [Flatten(), Dense(5, activation="gelu", name="odd")],
    lambda: [Flatten(), Dense(5, activation=layers.LeakyReLU(), name="odd")],
    lambda: [layers.ReLU(negative_slope=1, name="odd")],
    lambda: [layers.ReLU(6, name="odd")],
    lambda: [layers.ReLU(threshold=1, name="odd")],
    lambda: [layers.GlobalAveragePooling2D(keepdims=True, name="odd")],
    lambda: [layers.BatchNormalization(axis=1, name="odd")],
    lambda: [Dense(5, name="odd")],
    lambda: [Flatten("channels_first", name="odd")],
]


@pytest.mark.parametrize("odd", ODD)
def test_a_layer_that_the_page_cannot_show_is_refused(odd):
    model = sequential(Conv2D(4, 3), *odd(), Flatten(), answer())
    with pytest.raises(cnn_mnist.InputError, match="odd") as error:
        cnn_mnist.page_of(model)
    assert "\n" not in str(error.value)


def test_a_model_that_the_page_cannot_show_is_refused():
    image = keras.Input((28, 28, 1))
    functional = keras.Model(image, answer()(Flatten()(image)))
    for word, model in (
        ("softmax", sequential(Flatten(), Dense(10))),
        ("softmax", sequential(Flatten(), Dense(10), layers.Activation("softmax"))),
        ("Sequential", functional),
        ("Sequential", Subclassed()),
    ):
        with pytest.raises(cnn_mnist.InputError, match=word):
            cnn_mnist.page_of(model)


def test_it_is_refused_before_the_training(run, small_file, tmp_path, monkeypatch):
    monkeypatch.setattr(cnn_mnist, "build_model", lambda: sequential(Unknown()))
    done = run("--data", small_file, "--page", tmp_path / "mine.html")
    assert (done.status, done.out) == (2, "")
    assert done.err.count("\n") == 1


def test_a_template_without_a_network_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(cnn_mnist, "PAGE", tmp_path / "other.html")
    for write in (lambda: None, lambda: cnn_mnist.PAGE.write_text("<html></html>")):
        write()
        with pytest.raises(cnn_mnist.InputError, match="other.html"):
            cnn_mnist.page_of(cnn_mnist.build_model())


# --- A drawing becomes a digit ------------------------------------------------------


def test_digits_drawn_by_hand_are_read():
    """Each line of the file is a digit, its style, and strokes in hundredths of the pad."""
    lines = page.TOP.joinpath("tests", "drawn_digits.txt").read_text().splitlines()[2:]
    drawings = []
    for line in lines:
        strokes = re.fullmatch(r"\d \D+ (.+)", line)[1].split("/")
        points = [[point.split(",") for point in stroke.split()] for stroke in strokes]
        drawings.append([(np.array(p, float) / 100).tolist() for p in points])
    code = "(strokes) => run(toDigit(strokes)).at(-1).values"
    said = np.argmax(page.evaluate(code, drawings), axis=1)
    assert len(lines) == 50
    assert [line for line, digit in zip(lines, said) if line[0] != str(digit)] == []


SEVEN = np.array([[0.3, 0.2], [0.7, 0.2], [0.45, 0.8]])
DRAWINGS = {
    "nothing": [],
    "upright": [[[0.5, 0.1], [0.5, 0.9]]],
    "lying": [[[0.1, 0.5], [0.9, 0.5]]],
    "dot": [[[0.5, 0.5]]],
    "two": [[[0.2, 0.1], [0.2, 0.9]], [[0.8, 0.1], [0.8, 0.9]]],
    "seven": [SEVEN.tolist()],
    "small": [(0.2 * SEVEN + [0.7, 0.1]).tolist()],
    "at the left": [(0.5 * SEVEN + [0, 0.5]).tolist()],
    "too large": [(1.2 * SEVEN - 0.1).tolist()],
    "many points": [
        np.concatenate(np.linspace(SEVEN[:-1], SEVEN[1:], 50, axis=1)).tolist()
    ],
}


@pytest.fixture(scope="module")
def drawn():
    """What the drawings become, by name."""
    pixels = page.evaluate("(strokes) => [...toDigit(strokes)]", [*DRAWINGS.values()])
    return dict(zip(DRAWINGS, np.reshape(pixels, (-1, 28, 28))))


def test_a_line_is_20_pixels_long_2_2_wide_and_has_round_ends(drawn):
    digit = drawn["upright"]
    assert (digit.min(), digit.max()) == pytest.approx((0, 1), abs=1e-6)
    assert digit.sum(axis=0).max() <= 20
    assert digit[14].sum() == pytest.approx(2.2, abs=0.1)
    assert digit.sum() == pytest.approx(17.8 * 2.2 + np.pi * 1.1**2, rel=0.02)
    assert np.count_nonzero(digit.any(axis=1)) in (20, 21)
    assert np.count_nonzero(drawn["lying"].any(axis=0)) in (20, 21)
    # A dot is a disc, two strokes are not joined, and nothing is blank.
    assert drawn["dot"].sum() == pytest.approx(np.pi * 1.1**2, rel=0.05)
    assert not drawn["two"][:, 12:16].any()
    assert not drawn["nothing"].any()


def test_the_centre_of_mass_is_on_pixel_14_and_rows_run_down(drawn):
    """The bar of the seven is its first row, and its foot is left of its corner."""
    digit = drawn["seven"]
    for axis in (0, 1):
        middle = np.average(np.arange(28), weights=digit.sum(axis=1 - axis))
        assert middle == pytest.approx(14, abs=0.06)
    first, last = np.flatnonzero(digit.any(axis=1))[[0, -1]]
    assert digit[first + 1].sum() > 3 * digit[last - 1].sum()
    corner, foot = (np.flatnonzero(digit[row])[-1] for row in (first, last))
    assert foot < corner


@pytest.mark.parametrize("name", ["small", "at the left", "too large", "many points"])
def test_size_place_and_number_of_points_do_not_matter(drawn, name):
    assert np.abs(drawn[name] - drawn["seven"]).max() <= 0.15


def test_moving_loses_what_leaves_and_brings_paper():
    pixels = np.arange(784)
    (found,) = page.evaluate("(p) => moved(p, [2, -3])", [pixels.tolist()])
    expected = np.zeros((28, 28))
    expected[2:, :-3] = pixels.reshape(28, 28)[:-2, 3:]
    np.testing.assert_array_equal(np.reshape(found, (28, 28)), expected)


# --- A photograph becomes a digit ---------------------------------------------------


def colours(grey):
    """Return a grey picture as red, green, blue and alpha, nothing transparent."""
    opaque = np.full_like(grey, 255)
    return np.uint8(np.clip(np.dstack([grey, grey, grey, opaque]), 0, 255))


def sheet(digit, side=120, top=90, left=60, paper=220, ink=40, size=(300, 240)):
    """Return a page of grey values with one of MNIST's digits, and a little noise."""
    grey = np.full(size, float(paper))
    rows = np.arange(side) * 28 // side
    strength = digit[rows][:, rows] / 255
    grey[top : top + side, left : left + side] += (ink - paper) * strength
    return grey + np.random.default_rng(0).normal(0, 3, size)


def in_yellow(digit):
    """Ink that shows in the blue channel only."""
    photograph = colours(sheet(digit, paper=240, ink=230))
    photograph[..., 2] = colours(sheet(digit, ink=90))[..., 2]
    return photograph


VIEWS = {
    "paper": lambda digit: colours(sheet(digit)),
    "small": lambda digit: colours(sheet(digit, side=28, top=200, left=20)),
    "board": lambda digit: colours(sheet(digit, paper=50, ink=210)),
    "shadow": lambda digit: colours(sheet(digit) * np.linspace(1, 0.5, 240)),
    "table": lambda digit: colours(np.pad(sheet(digit), 30, constant_values=70)),
    "MNIST, black": lambda digit: colours(255.0 - digit),
    "MNIST, white": lambda digit: colours(1.0 * digit),
    "yellow": in_yellow,
}


def test_photographs_are_read_in_any_place_size_light_and_colour(mnist):
    digits, labels = mnist["x_test"][:5], mnist["y_test"][:5]
    photographs = [view(digit) for view in VIEWS.values() for digit in digits]
    found = page.read_photographs(photographs)
    answers = np.reshape([f["answer"] for f in found], (-1, 5)).tolist()
    assert dict(zip(VIEWS, answers)) == dict.fromkeys(VIEWS, labels.tolist())
    # MNIST's own digits have their centre and size already, and are found as they are.
    black = np.reshape([f["digit"] for f in found], (-1, 5, 28, 28))[5]
    assert np.abs(digits / 255 - black).mean() < 0.04


def test_thin_strokes_become_as_wide_as_mnists_and_wide_ones_stay():
    """Each stands upright, 120 pixels long: 6 of them are one pixel of the digit."""
    sheets = np.full((2, 300, 240), 220.0)
    for grey, width in zip(sheets, (3, 24)):
        grey[90:210, 100 : 100 + width] = 40
    found = page.read_photographs([colours(grey) for grey in sheets])
    rows = np.reshape([f["digit"] for f in found], (2, 28, 28)).sum(axis=2)
    np.testing.assert_allclose(rows[:, 14], [2.5, 4], atol=0.4)
    assert set(np.count_nonzero(rows, axis=1)) <= {20, 21}


def test_a_rectangle_and_a_polarity_are_taken_as_they_are_said(mnist):
    """Of two digits, the rectangle is around the smaller one."""
    digits, labels = mnist["x_test"][:10], mnist["y_test"][:10]
    photographs = [
        colours(np.hstack([sheet(d), sheet(other, side=200, top=20, left=20)]))
        for d, other in zip(digits, np.roll(digits, 1, axis=0))
    ]
    box = [50, 80, 190, 220]
    found = page.read_photographs(photographs, box=box)
    assert np.sum([f["answer"] for f in found] != labels) <= 1
    assert (found[0]["box"], found[0]["light"]) == (box, False)
    (found,) = page.read_photographs(photographs[:1], light=True)
    assert found["light"] is True


def test_where_there_is_no_ink_none_is_found():
    noise = np.random.default_rng(1).normal(200, 4, (400, 500))
    photographs = [noise, np.zeros((1, 1)), np.full((50, 60), 255.0), np.zeros((9, 90))]
    found = page.read_photographs([colours(p) for p in photographs])
    assert [f["strokes"] for f in found] == [0, 0, 0, 0]
