"""What tutorials suggest to change keeps its results: printed, saved, loaded, drawn."""

import re
import types

import keras
import numpy as np
import pytest
from conftest import SCRIPT

SOURCE = SCRIPT.read_text(encoding="utf-8")
METRICS = 'metrics=["accuracy"]'
LOSS = '"categorical_crossentropy"'
ADAM = '"adam"'
FIRST = 'layers.Conv2D(32, kernel_size=(3, 3), activation="relu"),'
SECOND = 'layers.Conv2D(64, kernel_size=(3, 3), activation="relu"),'
DROPOUT = "layers.Dropout(0.5),"
CALLBACKS = "callbacks=callbacks,"
POLICY = 'keras.mixed_precision.set_global_policy("mixed_bfloat16")'
MODEL = "model = keras.Sequential("
INPUT = "keras.Input(shape=INPUT_SHAPE),"


def functional(source):
    """The layers called one after another, in place of a list of them."""
    block = re.compile(
        r"    model = keras\.Sequential\(\n        \[\n(.*?)        \]\n    \)\n",
        re.DOTALL,
    )
    lines = re.findall(r"            (.*),(?:  #.*)?\n", block.search(source)[1])
    code = f"    inputs = x = {lines[0]}\n"
    code += "".join(f"    x = {line}(x)\n" for line in lines[1:])
    return block.sub(code + "    model = keras.Model(inputs, x)\n", source)


def replaced(*changes):
    """A function that makes several changes at once, each of an old text to a new one."""

    def change(source):
        for old, new in changes:
            assert source.count(old) == 1
            source = source.replace(old, new)
        return source

    return change


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

# Changes that do not meet are made in one run.
CHANGES = {
    "metrics": replaced((METRICS, MORE_METRICS), (ADAM, AVERAGES)),
    "no accuracy": replaced((METRICS, 'metrics=["mse"]'), (LOSS, SMOOTHING)),
    "no metric": replaced((METRICS, "metrics=[]"), (LOSS, '"mse"')),
    "callbacks": replaced((CALLBACKS, MORE_CALLBACKS)),
    "callbacks of one's own only": replaced(
        (CALLBACKS, "callbacks=[keras.callbacks.TerminateOnNaN()],"),
        ("VALIDATION_SPLIT = 0.1", "VALIDATION_SPLIT = 0"),
        (ADAM, SCHEDULE),
    ),
    "layers": replaced(
        (INPUT, f"{INPUT} layers.RandomTranslation(0.1, 0.1),"),
        (FIRST, WIDE),
        (SECOND, f"{SECOND} layers.BatchNormalization(),"),
        (DROPOUT, 'layers.Dense(16, activation="relu"),'),
    ),
    "the functional API": functional,
    "numbers of 16 bits": replaced((MODEL, f"{POLICY}; {MODEL}")),
    "26 letters": replaced(("NUM_CLASSES = 10", "NUM_CLASSES = 26")),
}

# What is printed then, if it is not loss and accuracy.
MEASURED = {
    "metrics": ["loss", "accuracy", "f1_score", "mse", "top_k_categorical_accuracy"],
    "no accuracy": ["loss", "mse"],
    "no metric": ["loss"],
}


def changed(change):
    """The script as a module after the change."""
    module = types.ModuleType("changed")
    module.__file__ = str(SCRIPT)
    exec(compile(change(SOURCE), SCRIPT, "exec"), vars(module))  # noqa: S102
    return module


@pytest.fixture
def policy():
    """Puts Keras's numbers back to 32 bits."""
    yield
    keras.mixed_precision.set_global_policy("float32")


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_keeps_its_results(change, small, tmp_path, capsys, policy):
    script = changed(CHANGES[change])
    data = {
        name: array[: 256 if "train" in name else 26] for name, array in small.items()
    }
    if script.NUM_CLASSES == 26:
        for labels in ("y_train", "y_test"):
            data[labels] = np.arange(len(data[labels]), dtype=np.uint8) % 26
    np.savez(tmp_path / "data.npz", **data)
    figures, draw = [], script.draw
    script.draw = lambda *args: figures.append(draw(*args)) or figures[-1]
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
    assert [first, *sorted(others)] == MEASURED.get(change, ["loss", "accuracy"])
    assert plot.exists()
    curves = [axes for axes in figures[0].axes if axes.lines]
    for axes in curves:
        assert axes.get_xlabel() == "epoch"
        assert all(tick == int(tick) for tick in axes.get_xticks())
