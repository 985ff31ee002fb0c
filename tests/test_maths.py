"""The formulas of the README in plain NumPy, against the layers of `build_model`.

Keras computes in float32, whose rounding is 6e-8 of a value; sums of n such values
are off by up to about sqrt(n) of that. The largest sum here has 1,600 terms of order
1, so 1e-5 leaves room for every order of summation, and no wrong formula comes near.
"""

import keras
import numpy as np
import page
import pytest
from conftest import TOP

import cnn_mnist

TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


# --- The formulas -------------------------------------------------------------


def convolution(x, kernel, bias):
    """ReLU(W * X + b): at each place the sum over window and channels, no flipping."""
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[:2], axis=(1, 2))
    # windows: (image, row, column, channel, i, j); kernel: (i, j, channel, filter)
    return np.maximum(np.tensordot(windows, kernel, ((4, 5, 3), (0, 1, 2))) + bias, 0)


def max_pooling(x):
    """The maximum of each 2x2 region; an odd last row or column is left out."""
    n, height, width, channels = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2]
    return x.reshape(n, height // 2, 2, width // 2, 2, channels).max(axis=(2, 4))


def flatten(x):
    """Row by row, column by column, channel by channel."""
    return np.array([[v for row in image for cell in row for v in cell] for image in x])


def softmax(z):
    """e^z_i / sum_j e^z_j; the largest z subtracted, which cancels in the fraction."""
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def dense(x, kernel, bias):
    return softmax(x @ kernel + bias)


def cross_entropy(y, probabilities):
    """-(1/m) sum_i sum_j y_ij log(yhat_ij)"""
    return -np.sum(y * np.log(probabilities)) / len(y)


def accuracy(y, probabilities):
    """The mean of the indicator argmax(yhat_i) = argmax(y_i)."""
    return np.mean(probabilities.argmax(axis=1) == y.argmax(axis=1))


def network(weights, x, mask=1.0):
    """The whole forward pass; mask is what dropout multiplies with."""
    kernel_1, bias_1, kernel_2, bias_2, kernel_3, bias_3 = weights
    x = max_pooling(convolution(x, kernel_1, bias_1))
    x = max_pooling(convolution(x, kernel_2, bias_2))
    return dense(flatten(x) * mask, kernel_3, bias_3)


def adam(theta, m, v, g, t, alpha=0.001, beta_1=0.9, beta_2=0.999, eps=1e-7):
    """One update as Keras does it: eps is added to sqrt(v), before the correction."""
    m = beta_1 * m + (1 - beta_1) * g
    v = beta_2 * v + (1 - beta_2) * g**2
    m_hat = m / (1 - beta_1**t)
    usual_size = (np.sqrt(v) + eps) / np.sqrt(1 - beta_2**t)
    return theta - alpha * m_hat / usual_size, m, v


# --- Layer by layer, on random input ------------------------------------------


def random_model(seed):
    """The network with random biases, too. They start at zero."""
    keras.utils.set_random_seed(seed)
    model = cnn_mnist.build_model()
    random = np.random.default_rng(seed)
    model.set_weights(
        [w + random.normal(0, 0.05, w.shape) for w in model.get_weights()]
    )
    return model


@pytest.fixture(scope="module")
def model():
    return random_model(0)


@pytest.fixture(scope="module")
def inputs(model):
    """Random numbers for each layer."""
    random = np.random.default_rng(1)
    return [
        random.normal(size=(50, *part.input.shape[1:])).astype("float32")
        for part in model.layers
    ]


@pytest.mark.parametrize("i", [0, 2])
def test_convolution(model, inputs, i):
    kernel, bias = model.layers[i].get_weights()
    found = np.asarray(model.layers[i](inputs[i]))
    np.testing.assert_allclose(found, convolution(inputs[i], kernel, bias), **TOLERANCE)


@pytest.mark.parametrize("i", [1, 3])
def test_max_pooling(model, inputs, i):
    found = np.asarray(model.layers[i](inputs[i]))
    assert np.array_equal(found, max_pooling(inputs[i]))


def test_flatten(model, inputs):
    found = np.asarray(model.layers[4](inputs[4]))
    assert np.array_equal(found, flatten(inputs[4]))


def test_dropout(model, inputs):
    x = np.abs(inputs[5]) + 1
    found = np.asarray(model.layers[5](x, training=True))
    kept = found != 0
    assert np.array_equal(found, np.where(kept, 2 * x, 0))  # 1 / (1 - p) = 2
    # 80,000 draws of Bernoulli(1/2): one standard deviation of the mean is 0.0018.
    assert kept.mean() == pytest.approx(0.5, abs=0.01)
    assert np.array_equal(np.asarray(model.layers[5](x, training=False)), x)


def test_dense_with_softmax(model, inputs):
    kernel, bias = model.layers[6].get_weights()
    found = np.asarray(model.layers[6](inputs[6]))
    np.testing.assert_allclose(found, dense(inputs[6], kernel, bias), **TOLERANCE)


def test_loss_and_accuracy(model, small):
    x = small["x_test"][..., np.newaxis].astype("float32") / 255
    y = np.eye(10)[small["y_test"]]
    probabilities = model.predict(x, verbose=0)
    loss, found = model.evaluate(x, y, verbose=0)
    assert loss == pytest.approx(cross_entropy(y, probabilities), rel=1e-5)
    assert found == pytest.approx(accuracy(y, probabilities), abs=1e-7)
    assert 0 < found < 1


# --- The whole network --------------------------------------------------------


def test_the_trained_network_from_its_weights(saved, small):
    model = keras.saving.load_model(saved)
    x = small["x_test"][..., np.newaxis].astype("float32") / 255
    expected = network([w.astype("float64") for w in model.get_weights()], x)
    found = model.predict(x, verbose=0)
    assert np.abs(found - expected).max() < 1e-5
    assert np.array_equal(found.argmax(axis=1), expected.argmax(axis=1))
    assert accuracy(np.eye(10)[small["y_test"]], found) > 0.5


@pytest.fixture(scope="module")
def step(small):
    """One training step of Keras on 16 digits, and the same loss in NumPy."""
    model = random_model(2)
    x = small["x_train"][:16, ..., np.newaxis].astype("float32") / 255
    y = np.eye(10, dtype="float32")[small["y_train"][:16]]

    dropout = model.layers[5]
    state = np.array(dropout.seed_generator.state.numpy())
    mask = np.asarray(dropout(np.ones((16, 1600), "float32"), training=True))
    dropout.seed_generator.state.assign(state)  # so that the step draws it again

    before = [w.astype("float64") for w in model.get_weights()]
    loss, _ = model.train_on_batch(x, y)
    # Adam's variables are two numbers, then m and v of each weight. The first step leaves
    # m = (1 - beta_1) g.
    moments = [np.asarray(m, "float64") for m in model.optimizer.variables[2::2]]
    return {
        "loss": float(loss),
        "expected_loss": lambda weights: cross_entropy(y, network(weights, x, mask)),
        "before": before,
        "gradients": [m / 0.1 for m in moments],
    }


def test_the_loss_of_a_training_step(step):
    assert step["loss"] == pytest.approx(
        step["expected_loss"](step["before"]), rel=1e-5
    )


@pytest.mark.parametrize("i", range(6))
def test_the_gradient_numerically(step, i):
    """Central differences in float64 of the NumPy network against Keras's gradient.

    Along random directions through all values of a weight at once, where any wrong
    sign, scale or axis shows, and along 8 single values.
    """
    weights, gradient = step["before"], step["gradients"][i]
    random = np.random.default_rng(i)
    directions = list(random.choice([-1.0, 1.0], size=(4, *gradient.shape)))
    for index in random.choice(gradient.size, min(8, gradient.size), replace=False):
        single = np.zeros(gradient.size)
        single[index] = 1
        directions.append(single.reshape(gradient.shape))
    h = 1e-8  # small, as a ReLU or a maximum may change sides on the way
    for direction in directions:
        there, back = (
            [w + s * h * direction if k == i else w for k, w in enumerate(weights)]
            for s in (1, -1)
        )
        slope = (step["expected_loss"](there) - step["expected_loss"](back)) / (2 * h)
        # float32 rounds each value of the gradient to within 1e-5 of its largest.
        rounding = 1e-5 * np.abs(gradient).max() * np.sqrt(np.abs(direction).sum())
        assert np.sum(gradient * direction) == pytest.approx(
            slope, rel=1e-4, abs=rounding
        )
    assert np.abs(gradient).max() > 1e-3


def test_adam_over_many_steps():
    """Random gradients of very different sizes, 50 steps, every weight."""
    model = cnn_mnist.build_model()
    random = np.random.default_rng(3)
    # Each weight, with its m and v.
    states = [(w.astype("float64"), 0.0, 0.0) for w in model.get_weights()]
    for t in range(1, 51):
        gradients = [
            (
                random.normal(size=w.shape) * 10.0 ** random.uniform(-6, 0, w.shape)
            ).astype("float32")
            for w, _, _ in states
        ]
        model.optimizer.apply(gradients, model.trainable_variables)
        states = [
            adam(*state, g.astype("float64"), t) for state, g in zip(states, gradients)
        ]
    for found, (expected, _, _) in zip(model.get_weights(), states):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


# --- The worked examples of the README ----------------------------------------

SCORES, TRUE = np.array([[2.0, 1.0, 0.0]]), np.array([[1.0, 0.0, 0.0]])
PROBABILITIES = softmax(SCORES)


def slopes(function, values, h=1e-6):
    """The slope for each of several values, by a small step to each side."""
    found = np.empty(values.shape)
    for place in np.ndindex(values.shape):
        step = np.zeros(values.shape)
        step[place] = h
        found[place] = (function(values + step) - function(values - step)) / (2 * h)
    return found


def test_example_of_the_convolution():
    window = np.array([[0, 0, 1], [0, 0, 1], [0, 1, 1]], "float32")
    kernel = np.tile(np.array([-1, 0, 1], "float32"), (3, 1))
    layer = keras.layers.Conv2D(1, 3, activation="relu")
    layer.build((None, 3, 3, 1))
    layer.set_weights([kernel[..., np.newaxis, np.newaxis], np.zeros(1)])
    mirrored = window[:, ::-1]
    for image, expected in ((window, 3), (mirrored, 0)):
        assert np.asarray(layer(image[np.newaxis, ..., np.newaxis])) == expected
    assert np.sum(mirrored * kernel) == -3


def test_the_learned_kernel_is_that_of_the_page():
    """Filter 27, its bias, and what the example's window gives, as the README says."""
    readme = " ".join((TOP / "README.md").read_text(encoding="utf-8").split())
    kernel, bias = page.arrays()[:2]
    learned = kernel[..., 0, 27].round(2)
    rows = [", ".join(f"{weight:.2f}" for weight in row) for row in learned]
    assert "the rows ({}), ({}) and ({})".format(*rows) in readme
    assert f"Its bias is {bias[27]:.2f}" in readme
    window = np.array([[0, 0, 1], [0, 0, 1], [0, 1, 1]])
    terms = [*learned[window == 1], bias[27].round(2)]
    text = " + ".join(f"{term:.2f}" for term in terms).replace("+ -", "- ")
    assert f"give {text} = {sum(terms):.2f}." in readme
    assert f"has learned the weight {learned[1, 2]:.2f}" in readme


def test_example_of_the_second_convolution():
    for level_edge, expected in ((2, 1), (0, 0)):
        x = np.array([3.0, level_edge]).reshape(1, 1, 1, 2)
        found = convolution(x, np.ones((1, 1, 2, 1)), np.array([-4.0]))
        assert found == expected


def test_layers_without_relu_are_one_layer():
    x = np.linspace(-2, 2, 9)
    assert np.allclose(3 * (2 * x + 1), 6 * x + 3)
    between = 3 * np.maximum(2 * x + 1, 0)
    assert np.ptp(np.diff(between)) > 1  # no straight line any more


def test_what_a_value_of_the_last_maps_sees(model, mnist):
    """The patches of 10 by 10 pixels, 4 pixels apart, end with pixel 25 of 0 to 27."""
    body = keras.Sequential(model.layers[:4])
    images = mnist["x_test"][..., np.newaxis].astype("float32") / 255
    digits = images[:20]
    maps = np.asarray(body(digits))
    for pixel in range(28):
        changed = digits.copy()
        changed[:, pixel] = 1 - changed[:, pixel]
        differs = np.any(np.asarray(body(changed)) != maps, axis=(0, 2, 3))
        seen = [4 * place <= pixel < 4 * place + 10 for place in range(5)]
        assert list(differs) == seen
    outside = images.copy()
    outside[:, :26, :26] = 0
    assert outside.any(axis=(1, 2, 3)).mean() == pytest.approx(0.11, abs=0.005)


def test_examples_of_softmax_and_loss():
    assert np.exp(SCORES) == pytest.approx(np.array([[7.39, 2.72, 1]]), abs=0.005)
    assert np.exp(SCORES).sum() == pytest.approx(11.11, abs=0.005)
    expected = np.array([[0.665, 0.245, 0.090]])
    assert pytest.approx(expected, abs=0.0005) == PROBABILITIES
    for probability, loss in ((0.99, 0.01), (0.665, 0.41), (0.1, 2.30), (0.001, 6.91)):
        assert -np.log(probability) == pytest.approx(loss, abs=0.005)


def test_the_slope_for_a_score_is_the_probability_less_the_label():
    found = slopes(lambda z: cross_entropy(TRUE, softmax(z)), SCORES)
    assert found == pytest.approx(PROBABILITIES - TRUE, abs=1e-8)
    assert found == pytest.approx(np.array([[-0.335, 0.245, 0.090]]), abs=0.0005)


def test_example_of_the_slopes_of_the_dense_layer():
    """A value of 3, whose weights for the three digits are 1, 0.5 and -1."""
    x, weights = np.array([[3.0]]), np.array([[1.0, 0.5, -1.0]])
    bias = SCORES[0] - (x @ weights)[0]
    found = slopes(lambda w: cross_entropy(TRUE, dense(x, w, bias)), weights)
    assert found[0, 0] == pytest.approx(-1, abs=0.005)
    weights_after = weights + [[0.1, 0, 0]]
    assert (x @ weights_after + bias)[0, 0] == pytest.approx(2.3)
    after = dense(x, weights_after, bias)
    assert after[0, 0] == pytest.approx(0.728, abs=0.0005)
    assert cross_entropy(TRUE, PROBABILITIES) == pytest.approx(0.408, abs=0.0005)
    assert cross_entropy(TRUE, after) == pytest.approx(0.317, abs=0.0005)
    found = slopes(lambda x: cross_entropy(TRUE, dense(x, weights, bias)), x)
    assert found == pytest.approx(-0.30, abs=0.005)


def test_a_slope_passes_to_the_maximum_and_through_a_positive_sum():
    region = np.array([[0.0, 3.0], [2.0, 0.0]])
    found = slopes(lambda x: -0.3 * max_pooling(x.reshape(1, 2, 2, 1)).sum(), region)
    assert found == pytest.approx(np.array([[0, -0.3], [0, 0]]), abs=1e-6)
    # The 3 comes from the window of the example, by the kernel and ReLU.
    window = np.array([[0, 0, 1], [0, 0, 1], [0, 1, 1.0]])
    kernel = np.tile([-1.0, 0, 1], (3, 1))
    found = slopes(lambda k: -0.3 * np.maximum(np.sum(window * k), 0), kernel)
    assert found == pytest.approx(-0.3 * window, abs=1e-6)
    assert found[0, 2] == pytest.approx(-0.3)
    found = slopes(lambda k: -0.3 * np.maximum(np.sum(window * -k), 0), kernel)
    assert not found.any()  # the sum is -3


def test_example_of_the_running_mean():
    mean, means, corrected = 0.0, [], []
    for t, g in enumerate((0.2, 0.2, -0.1), start=1):
        mean = 0.9 * mean + 0.1 * g
        means.append(mean)
        corrected.append(mean / (1 - 0.9**t))
    assert means == pytest.approx([0.02, 0.038, 0.0242])
    assert [1 - 0.9**t for t in (1, 2, 3)] == pytest.approx([0.1, 0.19, 0.271])
    assert corrected == pytest.approx([0.2, 0.2, 0.089], abs=0.0005)


def test_examples_of_adam():
    for g in (0.2, 0.002):
        theta, m, v = adam(0.0, 0.0, 0.0, g, t=1)
        assert (m / 0.1, v / 0.001) == pytest.approx((g, g**2))
        assert theta == pytest.approx(-0.001, rel=0.002)  # eps is in the way


def test_the_first_weights():
    """Uniform between ±sqrt(6 / (inputs + outputs)), as Glorot and Bengio say."""
    keras.utils.set_random_seed(1)
    layers = [layer for layer in cnn_mnist.build_model().layers if layer.weights]
    for layer, fans, expected in zip(
        layers, ((9, 288), (288, 576), (1600, 10)), (0.14, 0.083, 0.061)
    ):
        kernel, bias = layer.get_weights()
        limit = np.sqrt(6 / sum(fans))
        assert limit == pytest.approx(expected, rel=0.02)
        assert 0.98 * limit < np.abs(kernel).max() <= limit
        assert kernel.std() == pytest.approx(limit / np.sqrt(3), rel=0.1)
        assert not bias.any()


def test_with_a_seed_every_epoch_has_the_same_order():
    """At a learning rate of 0, the losses of an epoch tell its order."""
    keras.utils.set_random_seed(1)
    x = np.arange(20, dtype="float32")[:, np.newaxis]
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(loss="mse", optimizer=keras.optimizers.SGD(0.0))
    losses = []
    record = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: losses.append([]),
        on_train_batch_end=lambda batch, logs: losses[-1].append(logs["loss"]),
    )
    model.fit(x, x, batch_size=1, epochs=2, verbose=0, callbacks=[record])
    assert losses[0] == losses[1]
    assert losses[0] != sorted(losses[0])


def test_what_normalisation_is_for(small):
    """From grey values up to 255, the network's numbers are 255 times as large.

    The first guesses are then very sure and mostly wrong.
    """
    x, y = small["x_test"][..., np.newaxis], np.eye(10)[small["y_test"]]
    keras.utils.set_random_seed(1)
    model = cnn_mnist.build_model()
    usual = model.predict(x / 255, verbose=0)
    large = model.predict(x, verbose=0)
    assert usual.max(axis=1).mean() < 0.2
    assert large.max(axis=1).mean() > 0.9
    assert accuracy(y, large) < 0.3
    maps = keras.Sequential(model.layers[:5])
    found = maps.predict(x, verbose=0) / 255
    np.testing.assert_allclose(found, maps.predict(x / 255, verbose=0), **TOLERANCE)
