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
FIRST = 'layers.Conv2D(32, kernel_size=(3, 3), activation="relu"),'
SECOND = 'layers.Conv2D(64, kernel_size=(3, 3), activation="relu"),'
DROPOUT = "layers.Dropout(0.5),"
CALLBACKS = "callbacks=callbacks,"
POLICY = 'set_global_policy("mixed_bfloat16")'
INPUT = "keras.Input(shape=INPUT_SHAPE),"


def with_callback(callback):
    return [(CALLBACKS, f"callbacks=[*callbacks, keras.callbacks.{callback}],")]


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


# What is replaced by what, in the text of the script.
CHANGES = {
    "nothing": [],
    "a second metric": [(METRICS, 'metrics=["accuracy", "mse"]')],
    "another metric first": [(METRICS, 'metrics=["mse", "accuracy"]')],
    "precision": [(METRICS, 'metrics=["accuracy", keras.metrics.Precision()]')],
    "top 2": [
        (METRICS, 'metrics=["accuracy", keras.metrics.TopKCategoricalAccuracy(k=2)]')
    ],
    "a metric of each class": [
        (METRICS, 'metrics=["accuracy", keras.metrics.F1Score()]')
    ],
    "no accuracy": [(METRICS, 'metrics=["mse"]')],
    "no metric": [(METRICS, "metrics=[]")],
    "no validation": [("VALIDATION_SPLIT = 0.1", "VALIDATION_SPLIT = 0")],
    "EarlyStopping": with_callback(
        "EarlyStopping(patience=1, restore_best_weights=True)"
    ),
    "ReduceLROnPlateau": with_callback('ReduceLROnPlateau(monitor="loss", patience=1)'),
    "callbacks of one's own only": [
        (CALLBACKS, "callbacks=[keras.callbacks.TerminateOnNaN()],")
    ],
    "a learning rate": [('optimizer="adam"', "optimizer=keras.optimizers.Adam(1e-4)")],
    "a schedule": [
        (
            'optimizer="adam"',
            "optimizer=keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(0.1, 9))",
        )
    ],
    "weight averages": [
        ('optimizer="adam"', "optimizer=keras.optimizers.Adam(use_ema=True)")
    ],
    "label smoothing": [
        (LOSS, "keras.losses.CategoricalCrossentropy(label_smoothing=0.1)")
    ],
    "another loss": [(LOSS, '"mse"')],
    "BatchNormalization": [(SECOND, f"{SECOND} layers.BatchNormalization(),")],
    "augmentation": [(INPUT, f"{INPUT} layers.RandomTranslation(0.1, 0.1),")],
    "a hidden layer": [(DROPOUT, f'{DROPOUT} layers.Dense(16, activation="relu"),')],
    "padding": [(FIRST, FIRST.replace("activation", 'padding="same", activation'))],
    "strides": [(FIRST, FIRST.replace("activation", "strides=2, activation"))],
    "no dropout": [(DROPOUT, "")],
    "the functional API": functional,
    "numbers of 16 bits": [
        (
            "model = keras.Sequential(",
            f"keras.mixed_precision.{POLICY}; model = keras.Sequential(",
        )
    ],
    "26 letters": [("NUM_CLASSES = 10", "NUM_CLASSES = 26")],
}

# What is printed then, if it is not loss and accuracy.
MEASURED = {
    "a second metric": ["loss", "accuracy", "mse"],
    "another metric first": ["loss", "accuracy", "mse"],
    "precision": ["loss", "accuracy", "precision"],
    "top 2": ["loss", "accuracy", "top_k_categorical_accuracy"],
    "a metric of each class": ["loss", "accuracy", "f1_score"],
    "no accuracy": ["loss", "mse"],
    "no metric": ["loss"],
}


def changed(change):
    """The script as a module after the change."""
    source = SOURCE
    if callable(change):
        source = change(source)
    else:
        for old, new in change:
            assert source.count(old) == 1
            source = source.replace(old, new)
    module = types.ModuleType("changed")
    module.__file__ = str(SCRIPT)
    exec(compile(source, SCRIPT, "exec"), vars(module))  # noqa: S102
    return module


@pytest.fixture(scope="module")
def files(small, tmp_path_factory):
    """Data of digits, and data of 26 classes."""
    folder = tmp_path_factory.mktemp("files")
    digits = {n: a[: 256 if "train" in n else 26] for n, a in small.items()}
    np.savez(folder / "10.npz", **digits)
    letters = {
        n: a % 26 if "x" in n else np.arange(len(a), dtype=np.uint8) % 26
        for n, a in digits.items()
    }
    np.savez(folder / "26.npz", **letters)
    return folder


@pytest.fixture
def policy():
    """Puts Keras's numbers back to 32 bits."""
    yield
    keras.mixed_precision.set_global_policy("float32")


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_keeps_its_results(change, files, tmp_path, capsys, policy):
    script = changed(CHANGES[change])
    figures, draw = [], script.draw
    script.draw = lambda *args: figures.append(draw(*args)) or figures[-1]
    model, plot = tmp_path / "model.keras", tmp_path / "plot.png"
    flags = ["--data", files / f"{script.NUM_CLASSES}.npz"]
    first = ["--epochs", "2", "--save-model", model, "--plot", plot]
    again = ["--epochs", "0", "--load-model", model]
    printed = []
    for more in (first, again):
        status = script.main([str(flag) for flag in [*flags, *more]])
        out, err = capsys.readouterr()
        assert (status, err) == (0, "")
        printed.append(out[out.index("Test loss: ") :])
    assert printed[0] == printed[1]
    names = re.findall(r"^Test (\w+): \d+\.\d{4}$", printed[0], re.MULTILINE)
    assert names == MEASURED.get(change, ["loss", "accuracy"])
    assert plot.exists()
    curves = [axes for axes in figures[0].axes if axes.lines]
    assert curves[0].get_xlabel() == "epoch"
    for axes in curves:
        assert all(tick == int(tick) for tick in axes.get_xticks())
