"""The network of `build_model`, layer by layer, and how it is compiled."""

import keras
import numpy as np
import pytest
from keras import layers

import cnn_mnist

# Class, shape of the output, number of parameters, and what these do not tell.
LAYERS = [
    (layers.Conv2D, (26, 26, 32), 3 * 3 * 1 * 32 + 32, {"activation": "relu"}),
    (layers.MaxPooling2D, (13, 13, 32), 0, {"pool_size": (2, 2)}),
    (layers.Conv2D, (11, 11, 64), 3 * 3 * 32 * 64 + 64, {"activation": "relu"}),
    (layers.MaxPooling2D, (5, 5, 64), 0, {"pool_size": (2, 2)}),
    (layers.Flatten, (1600,), 0, {}),
    (layers.Dropout, (1600,), 0, {"rate": 0.5}),
    (layers.Dense, (10,), 1600 * 10 + 10, {"activation": "softmax"}),
]


@pytest.fixture(scope="module")
def model():
    return cnn_mnist.build_model()


def test_it_is_a_sequential_model_of_images(model):
    assert type(model) is keras.Sequential
    assert model.input_shape == (None, 28, 28, 1)
    assert len(model.layers) == len(LAYERS)
    assert {weight.dtype for weight in model.weights} == {"float32"}
    assert sum(np.prod(w.shape) for w in model.trainable_weights) == 34826


@pytest.mark.parametrize("i", range(len(LAYERS)), ids=lambda i: LAYERS[i][0].__name__)
def test_layer(model, i):
    layer = model.layers[i]
    kind, output_shape, parameters, config = LAYERS[i]
    assert type(layer) is kind
    assert layer.output.shape == (None, *output_shape)
    assert layer.count_params() == parameters
    assert config.items() <= layer.get_config().items()


def test_compile_settings(model):
    config = model.get_compile_config()
    assert config["loss"] == "categorical_crossentropy"
    assert config["metrics"] == ["accuracy"]
    assert type(model.optimizer) is keras.optimizers.Adam
    found = model.optimizer.get_config()
    assert found == keras.optimizers.Adam(0.001, name=found["name"]).get_config()


def test_each_call_builds_a_new_model(model):
    other = cnn_mnist.build_model()
    assert other is not model
    assert not np.array_equal(other.weights[0], model.weights[0])
