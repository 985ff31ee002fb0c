"""What tutorials suggest to change keeps its results: printed, saved, loaded, drawn."""

import re
import types

import keras
import numpy as np
import pytest
from conftest import SCRIPT

METRICS = 'metrics=["accuracy"]'
LOSS = '"categorical_crossentropy"'
ADAM = '"adam"'
FIRST = 'layers.Conv2D(32, kernel_size=(3, 3), activation="relu"),'
SECOND = 'layers.Conv2D(64, kernel_size=(3, 3), activation="relu"),'
CALLBACKS = "callbacks=callbacks,"
MODEL = "model = keras.Sequential("
INPUT = "keras.Input(shape=INPUT_SHAPE),"

MORE_METRICS = """metrics=["mse", "accuracy",
    keras.metrics.TopKCategoricalAccuracy(k=2),
    keras.metrics.F1Score()]"""  # the last has a value for each class
MORE_CALLBACKS = """callbacks=[*callbacks,
    keras.callbacks.EarlyStopping(patience=1),
    keras.callbacks.ReduceLROnPlateau(monitor="loss", patience=1)],"""
SCHEDULE = "keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(0.1, 9))"
SMOOTHING = "keras.losses.CategoricalCrossentropy(label_smoothing=0.1)"
AVERAGES = "keras.optimizers.Adam(1e-4, use_ema=True)"
WIDE = FIRST.replace("activation", 'padding="same", strides=2, activation')
POLICY = 'keras.mixed_precision.set_global_policy("mixed_bfloat16")'

# What is measured, each old text of the script, and the new one. Changes that do not
# meet share a run.
CHANGES = {
    "more metrics and callbacks, averages of weights": (
        ["loss", "accuracy", "f1_score", "mse", "top_k_categorical_accuracy"],
        {METRICS: MORE_METRICS, ADAM: AVERAGES, CALLBACKS: MORE_CALLBACKS},
    ),
    "no accuracy, no validation, callbacks of one's own only": (
        ["loss", "mse"],
        {
            METRICS: 'metrics=["mse"]',
            LOSS: SMOOTHING,
            ADAM: SCHEDULE,
            CALLBACKS: "callbacks=[keras.callbacks.TerminateOnNaN()],",
            "VALIDATION_SPLIT = 0.1": "VALIDATION_SPLIT = 0",
        },
    ),
    "no metric, 26 letters, the functional API": (
        ["loss"],
        {
            METRICS: "metrics=[]",
            LOSS: '"mse"',
            "NUM_CLASSES = 10": "NUM_CLASSES = 26",
            MODEL: "model = functional(",
        },
    ),
    "layers": (
        ["loss", "accuracy"],
        {
            INPUT: f"{INPUT} layers.RandomTranslation(0.1, 0.1),",
            FIRST: WIDE,
            SECOND: f"{SECOND} layers.BatchNormalization(),",
            "layers.Dropout(0.5),": 'layers.Dense(16, activation="relu"),',
        },
    ),
    "numbers of 16 bits": (["loss", "accuracy"], {MODEL: f"{POLICY}; {MODEL}"}),
}


def functional(stack):
    """A model of the layers, called one after another."""
    inputs = x = stack[0]
    for layer in stack[1:]:
        x = layer(x)
    return keras.Model(inputs, x)


def changed(changes):
    """The script as a module after the changes."""
    source = SCRIPT.read_text(encoding="utf-8")
    for old, new in changes.items():
        assert source.count(old) == 1
        source = source.replace(old, new)
    module = types.ModuleType("changed")
    module.__file__ = str(SCRIPT)
    module.functional = functional
    exec(compile(source, SCRIPT, "exec"), vars(module))  # noqa: S102
    return module


@pytest.fixture
def policy():
    """Puts Keras's numbers back to 32 bits."""
    yield
    keras.mixed_precision.set_global_policy("float32")


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_keeps_its_results(name, small, tmp_path, capsys, policy):
    measured, changes = CHANGES[name]
    script = changed(changes)
    data = {}
    for part, size in (("train", 256), ("test", 26)):
        data[f"x_{part}"] = small[f"x_{part}"][:size]
        data[f"y_{part}"] = np.arange(size, dtype=np.uint8) % script.NUM_CLASSES
    np.savez(tmp_path / "data.npz", **data)
    model, plot = tmp_path / "model.keras", tmp_path / "plot.png"
    printed = []
    for flags in (
        ["--epochs", "2", "--save-model", model, "--plot", plot],
        ["--epochs", "0", "--load-model", model],
    ):
        flags += ["--data", tmp_path / "data.npz"]
        status = script.main([str(flag) for flag in flags])
        out, err = capsys.readouterr()
        assert (status, err) == (0, "")
        printed.append(out[out.index("Test loss: ") :])
    assert printed[0] == printed[1]
    first, *others = re.findall(r"^Test (\w+): \d+\.\d{4}$", printed[0], re.MULTILINE)
    assert [first, *sorted(others)] == measured
    assert plot.exists()
