"""The network of `build_model`, layer by layer, and how it is compiled."""

import keras
import numpy as np
import pytest

import cnn_mnist

CONVOLUTION = {
    "kernel_size": (3, 3),
    "strides": (1, 1),
    "padding": "valid",
    "dilation_rate": (1, 1),
    "groups": 1,
    "activation": "relu",
    "use_bias": True,
    "data_format": "channels_last",
}
POOLING = {"pool_size": (2, 2), "strides": (2, 2), "padding": "valid"}
# Class, output shape, number of parameters, configuration.
LAYERS = [
    (
        keras.layers.Conv2D,
        (None, 26, 26, 32),
        3 * 3 * 1 * 32 + 32,
        {"filters": 32, **CONVOLUTION},
    ),
    (keras.layers.MaxPooling2D, (None, 13, 13, 32), 0, POOLING),
    (
        keras.layers.Conv2D,
        (None, 11, 11, 64),
        3 * 3 * 32 * 64 + 64,
        {"filters": 64, **CONVOLUTION},
    ),
    (keras.layers.MaxPooling2D, (None, 5, 5, 64), 0, POOLING),
    (keras.layers.Flatten, (None, 1600), 0, {}),
    (keras.layers.Dropout, (None, 1600), 0, {"rate": 0.5, "noise_shape": None}),
    (
        keras.layers.Dense,
        (None, 10),
        1600 * 10 + 10,
        {"units": 10, "activation": "softmax", "use_bias": True},
    ),
]


@pytest.fixture(scope="module")
def model():
    return cnn_mnist.build_model()


def test_it_is_a_sequential_model_of_images(model):
    assert type(model) is keras.Sequential
    assert model.input_shape == (None, 28, 28, 1)
    assert model.output_shape == (None, 10)
    assert len(model.layers) == len(LAYERS)
    assert {weight.dtype for weight in model.weights} == {"float32"}


@pytest.mark.parametrize("i", range(len(LAYERS)), ids=lambda i: LAYERS[i][0].__name__)
def test_layer(model, i):
    layer = model.layers[i]
    kind, output_shape, parameters, config = LAYERS[i]
    assert type(layer) is kind
    assert layer.output.shape == output_shape
    assert layer.count_params() == parameters
    found = layer.get_config()
    assert {name: found[name] for name in config} == config
    if parameters:  # weights drawn, not constant, and biases that start at zero
        for name, initializer in (
            ("kernel_initializer", "GlorotUniform"),
            ("bias_initializer", "Zeros"),
        ):
            assert found[name]["class_name"] == initializer
        for name in ("kernel_regularizer", "bias_regularizer", "kernel_constraint"):
            assert found[name] is None


def test_it_has_34826_parameters_all_trained(model):
    assert model.count_params() == 34826
    assert sum(np.prod(w.shape) for w in model.trainable_weights) == 34826
    lines = []
    model.summary(print_fn=lambda line, **_: lines.append(line))
    assert "34,826 (136.04 KB)" in "\n".join(lines)


def test_compile_settings(model):
    config = model.get_compile_config()
    assert config["loss"] == "categorical_crossentropy"
    assert config["metrics"] == ["accuracy"]
    assert config["loss_weights"] is None
    assert config["weighted_metrics"] is None
    assert model.steps_per_execution == 1
    assert model.run_eagerly is False
    assert type(model.optimizer) is keras.optimizers.Adam
    adam = {"learning_rate": 0.001, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7}
    found = model.optimizer.get_config()
    assert {name: found[name] for name in adam} == pytest.approx(adam)
    assert found["amsgrad"] is False
    for name in ("weight_decay", "clipnorm", "clipvalue", "global_clipnorm"):
        assert found[name] is None
    assert not found["use_ema"]


def test_each_call_builds_a_new_model(model):
    other = cnn_mnist.build_model()
    assert other is not model
    assert not np.array_equal(other.weights[0], model.weights[0])
