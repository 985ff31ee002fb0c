"""What --page hands to draw.html: the layers, the weights, the story of the training."""

import base64
import json

import keras
import numpy as np
import pytest
from keras import layers

import cnn_mnist


def network_of(text):
    """Return the JSON in the last line of a page, as a dict."""
    line = text.splitlines()[-1]
    return json.loads(line.removeprefix(cnn_mnist.PAGE_START).removesuffix("</script>"))


def numbers(text):
    return np.frombuffer(base64.b64decode(text), "<f4")


def flat(weights):
    return np.concatenate([array.ravel() for array in weights])


def answer(**options):
    return layers.Dense(10, **{"activation": "softmax"} | options)


def sequential(*stack):
    return keras.Sequential([keras.Input((28, 28, 1)), *stack])


def every_layer():
    return sequential(
        layers.RandomFlip(),
        layers.RandomRotation(0.1),
        layers.RandomTranslation(0.1, 0.1),
        layers.RandomZoom(0.1),
        layers.RandomContrast(0.1),
        layers.RandomBrightness(0.1, value_range=(0, 1)),
        layers.GaussianNoise(0.1),
        layers.Conv2D(3, (3, 2), strides=(2, 1), padding="same", use_bias=False),
        layers.BatchNormalization(epsilon=0.01),
        layers.ReLU(),
        layers.SpatialDropout2D(0.1),
        layers.AveragePooling2D(2),
        layers.MaxPooling2D((2, 1), strides=(1, 2)),
        layers.Conv2D(4, 2, activation="tanh"),
        layers.GlobalAveragePooling2D(),
        layers.GaussianDropout(0.1),
        layers.Dropout(0.25),
        layers.Flatten(),
        layers.Dense(10),
        layers.Activation("softmax"),
    )


def test_every_layer_that_the_page_knows():
    model = every_layer()
    model.set_weights([np.random.random(w.shape) for w in model.get_weights()])
    network = network_of(cnn_mnist.page_of(model))
    assert set(network) == {"layers", "weights"}
    found = network["layers"]
    assert [layer["class"] for layer in found] == [
        type(layer).__name__ for layer in model.layers
    ]
    assert {layer["class"] for layer in found} == {*cnn_mnist.PAGE_LAYERS} - {
        "Dense"
    } | {"Dense"}
    assert [layer["name"] for layer in found] == [layer.name for layer in model.layers]
    first, normal = found[7:9]
    assert first == {
        "class": "Conv2D",
        "name": model.layers[7].name,
        "input_shape": [28, 28, 1],
        "output_shape": [14, 28, 3],
        "weights": {"kernel": [3, 2, 1, 3]},
        "filters": 3,
        "kernel_size": [3, 2],
        "strides": [2, 1],
        "padding": "same",
        "activation": "linear",
    }
    assert normal["epsilon"] == 0.01
    names = ["gamma", "beta", "moving_mean", "moving_variance"]
    assert list(normal["weights"]) == names
    assert found[12]["pool_size"] == [2, 1]
    assert found[16]["rate"] == 0.25
    assert found[18]["units"] == 10
    # In the order of the layers, and of the weights in each.
    in_order = [array for layer in model.layers for array in layer.get_weights()]
    assert np.array_equal(numbers(network["weights"]), flat(in_order))
    shapes = [shape for layer in found for shape in layer["weights"].values()]
    assert shapes == [list(array.shape) for array in in_order]


def functional():
    image = keras.Input((28, 28, 1))
    values = layers.Conv2D(4, 3, activation="sigmoid")(image)
    return keras.Model(image, answer()(layers.Flatten()(values)))


@pytest.mark.parametrize(
    "model", [functional(), keras.Sequential([layers.Flatten(), answer()])]
)
def test_functional_models_and_models_without_an_input(model):
    classes = [layer["class"] for layer in cnn_mnist.layers_of(model)]
    assert classes[-2:] == ["Flatten", "Dense"]
    assert "InputLayer" not in classes


class Unknown(layers.Layer):
    def call(self, values):
        return values


# Each with a layer named "odd", and then a dense layer with softmax.
REFUSED = {
    "unknown layer": lambda: [layers.Flatten(), Unknown(name="odd")],
    "dilation": lambda: [
        layers.Conv2D(2, 3, dilation_rate=2, name="odd"),
        layers.Flatten(),
    ],
    "groups": lambda: [
        layers.Conv2D(4, 3),
        layers.Conv2D(4, 3, groups=2, name="odd"),
        layers.Flatten(),
    ],
    "gelu": lambda: [layers.Flatten(), layers.Dense(5, activation="gelu", name="odd")],
    "layer as activation": lambda: [
        layers.Flatten(),
        layers.Dense(5, activation=layers.LeakyReLU(), name="odd"),
    ],
    "dense on maps": lambda: [layers.Dense(5, name="odd"), layers.Flatten()],
    "channels first": lambda: [layers.Flatten("channels_first", name="odd")],
    "axis": lambda: [layers.BatchNormalization(axis=1, name="odd"), layers.Flatten()],
    "keepdims": lambda: [
        layers.GlobalAveragePooling2D(keepdims=True, name="odd"),
        layers.Flatten(),
    ],
    "max_value": lambda: [layers.Flatten(), layers.ReLU(6, name="odd")],
    "slope": lambda: [layers.Flatten(), layers.ReLU(negative_slope=1, name="odd")],
    "threshold": lambda: [layers.Flatten(), layers.ReLU(threshold=1, name="odd")],
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_layer_that_the_page_does_not_know_is_named(name):
    with pytest.raises(cnn_mnist.InputError, match="odd") as error:
        cnn_mnist.page_of(sequential(*REFUSED[name](), answer()))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("last", [[], [answer(activation="linear")]])
def test_a_model_without_softmax_at_its_end_is_refused(last):
    with pytest.raises(cnn_mnist.InputError, match="softmax"):
        cnn_mnist.page_of(sequential(layers.Flatten(), *last))


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_a_layer_that_is_used_twice_is_refused(padding):
    image = keras.Input((28, 28, 1))
    twice = layers.Conv2D(1, 3, padding=padding)
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


def test_what_the_page_does_not_know_is_said_before_the_training(
    run, small_file, tmp_path, monkeypatch
):
    def build_model():
        return sequential(layers.Flatten(), Unknown(name="odd"), answer())

    monkeypatch.setattr(cnn_mnist, "build_model", build_model)
    done = run("--data", small_file, "--page", tmp_path / "mine.html")
    assert (done.status, done.out, done.err.count("\n")) == (2, "", 1)
    assert "odd" in done.err


def test_a_template_without_a_network_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(cnn_mnist, "PAGE", tmp_path / "other.html")
    for text in (None, "<html></html>"):
        if text:
            cnn_mnist.PAGE.write_text(text)
        with pytest.raises(cnn_mnist.InputError, match="other.html"):
            cnn_mnist.page_of(functional())


def test_a_name_cannot_end_the_script():
    text = cnn_mnist.page_of(sequential(layers.Flatten(name="<!--<script>"), answer()))
    assert "<!--<script>" not in text.splitlines()[-1]
    assert network_of(text)["layers"][0]["name"] == "<!--<script>"


def test_the_page_of_a_run(run, small_file, tmp_path):
    """With the first weights and the story of the training, if the network is new."""
    page, path = tmp_path / "mine.html", tmp_path / "m.keras"
    flags = ("--data", small_file, "--page", page)
    done = run(*flags, "--epochs", 2, "--seed", 5, "--save-model", path)
    assert done.status == 0
    text = page.read_text(encoding="utf-8")
    template = cnn_mnist.PAGE.read_text(encoding="utf-8")
    assert text.splitlines()[:-1] == template.splitlines()[:-1]
    network = network_of(text)
    model = keras.saving.load_model(path)
    assert np.array_equal(numbers(network["weights"]), flat(model.get_weights()))
    keras.utils.set_random_seed(5)
    first = cnn_mnist.build_model()
    expected = flat(first.get_weights())
    assert np.array_equal(numbers(network["first_weights"]), expected)

    _, (x, y) = cnn_mnist.load_data(small_file)
    before, after = (m.evaluate(x, y, verbose=0) for m in (first, model))
    training = network["training"]
    assert training.pop("loss") == pytest.approx([before[0], after[0]], abs=1e-5)
    assert training == {
        "images": 1152,
        "epochs": 2,
        "test_images": 300,
        "misread": [round(300 * (1 - result[1])) for result in (before, after)],
    }

    for more in (("--epochs", 0), ("--load-model", path, "--epochs", 1)):
        assert run(*flags, *more).status == 0
        assert set(network_of(page.read_text(encoding="utf-8"))) == {
            "layers",
            "weights",
        }
