#!/usr/bin/env python3
# /// script
# requires-python = ">=3.11,<3.14"
# dependencies = ["tensorflow>=2.20,<3", "keras>=3.15.1,<4", "numpy>=1.26,<3"]
# ///
"""Train the classic Keras convolutional network on the MNIST digits.

    python3 cnn_mnist.py

README.md says how to install what it needs, and explains every step.
After 15 epochs the test accuracy is about 0.991, with other seeds mostly 0.989 to 0.993.
Begin at "The program", and read to the end of `main`. The rest are helpers of `main`.
"""

import argparse
import base64
import contextlib
import json
import os
import signal
import sys
import tempfile
import zlib
from pathlib import Path

import numpy as np

# === Before Keras: Ctrl-C, speed, a quiet screen. Skip this at first. ================
UNFINISHED_FILES = set()  # what `save` is writing


def exit_at_once(signum, frame):
    """Handle Ctrl-C outside the training: no traceback, and no half-written file."""
    for file in UNFINISHED_FILES:
        file.unlink(missing_ok=True)
    os._exit(130)


if __name__ == "__main__":  # else the process belongs to the program that imports this
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:  # not ignored
        signal.signal(signal.SIGINT, exit_at_once)
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # faster training on a CPU
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # memory as needed
    # An epoch can wait seconds for TensorFlow's input pipeline. Batch scheduling avoids it
    # (tests/benchmarks/README.md). Only Linux has it, and may not permit it.
    with contextlib.suppress(AttributeError, OSError):
        if os.sched_getscheduler(0) == os.SCHED_OTHER:  # the user chose no other
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))

# TensorFlow starts with alarming lines, and no setting turns them off (TensorFlow's issue
# 100442). So standard error, stream 2, leads nowhere until TensorFlow has started. With
# TF_CPP_MIN_LOG_LEVEL=0 in the environment you see everything.
if "TF_CPP_MIN_LOG_LEVEL" not in os.environ:
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "1"  # from here on: warnings and errors
    standard_error = os.dup(2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    try:
        import keras

        keras.ops.zeros(())  # the first tensor: TensorFlow looks for a GPU, and says so
    finally:
        os.dup2(standard_error, 2)

import keras  # if that block was skipped

# === The program: data, network, training, main =======================================
NUM_CLASSES = 10
INPUT_SHAPE = (28, 28, 1)
BATCH_SIZE = 128
EPOCHS = 15
VALIDATION_SPLIT = 0.1
SEED = 1
DATA = Path(__file__).resolve().with_name("mnist.npz")


def load_data(path=DATA):
    """Return `(x_train, y_train), (x_test, y_test)`, ready for the network.

    x: float32, shape (n, 28, 28, 1), values in [0, 1]; y: float32, (n, 10), one-hot.
    path: an .npz file of uint8 arrays: x_train, x_test, shape (n, 28, 28), and y_train,
        y_test, shape (n,), values 0 to 9. If the path is DATA and there is no
        such file, Keras downloads MNIST.
    Raises InputError, a ValueError. Source: the MNIST database of LeCun and Cortes.
    """
    (x_train, y_train), (x_test, y_test) = read_arrays(path)

    # Grey values of 0 to 255 become 0 to 1, for which the random first weights are made.
    # Conv2D expects an axis of channels. A grey image has one channel: (n, 28, 28, 1).
    x_train = x_train[..., np.newaxis].astype("float32") / 255
    x_test = x_test[..., np.newaxis].astype("float32") / 255

    # The network has ten outputs. So the label 3 becomes 0 0 0 1 0 0 0 0 0 0, which is row
    # 3, counted from 0, of the identity matrix.
    one_hot = np.eye(NUM_CLASSES, dtype="float32")
    return (x_train, one_hot[y_train]), (x_test, one_hot[y_test])


def build_model():
    """Return the network of Keras's example `mnist_convnet`, ready for training.

    Input: float32, shape (batch, 28, 28, 1), values in [0, 1].
    Output: float32, shape (batch, 10), the probability of each digit.
    """
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input(shape=INPUT_SHAPE),
            # On the right: the shape of what each layer makes of an image.
            layers.Conv2D(32, kernel_size=(3, 3), activation="relu"),  # (26, 26, 32)
            layers.MaxPooling2D(pool_size=(2, 2)),  # (13, 13, 32)
            layers.Conv2D(64, kernel_size=(3, 3), activation="relu"),  # (11, 11, 64)
            layers.MaxPooling2D(pool_size=(2, 2)),  # (5, 5, 64)
            layers.Flatten(),  # (1600,)
            layers.Dropout(0.5),  # against learning the images by heart
            layers.Dense(NUM_CLASSES, activation="softmax"),  # (10,)
        ]
    )
    model.compile(
        loss="categorical_crossentropy",
        optimizer="adam",  # keras.optimizers.Adam(learning_rate=0.001) is the same
        metrics=["accuracy"],
    )
    return model


def train(model, x, y, batch_size=BATCH_SIZE, epochs=EPOCHS, callbacks=()):
    """Train the model; return a dict of loss, accuracy, val_loss and val_accuracy.

    x, y: as from `load_data`. The last tenth, VALIDATION_SPLIT, is for validation: the
        network does not learn from it. Its results are val_loss and val_accuracy.
    callbacks: objects whose methods `fit` calls, such as keras.callbacks.EarlyStopping().
    Each value of the dict is a list with one number for each epoch. With 0 epochs the dict
    is empty.
    """
    history = model.fit(
        x=x,
        y=y,
        batch_size=batch_size,
        epochs=epochs,
        validation_split=VALIDATION_SPLIT,
        callbacks=callbacks,
        verbose=1 if sys.stdout.isatty() else 2,  # a bar on a screen, else lines
    )
    return history.history


def evaluate(model, x, y, batch_size=BATCH_SIZE):
    """Return a dict of floats: the loss first, then each metric, such as accuracy."""
    results = model.evaluate(
        x=x, y=y, batch_size=batch_size, verbose=0, return_dict=True
    )
    # Some metrics, such as keras.metrics.F1Score, give a value for each class.
    means = {name: float(np.mean(value)) for name, value in results.items()}
    return {"loss": means["loss"], **means}


def main(argv=None):
    """Run with the options `argv`, or those of the command line; return the status."""
    args = parse_args(argv)
    try:
        (x_train, y_train), (x_test, y_test) = load_data(args.data)
        keras.utils.set_random_seed(args.seed)
        model = load_model(args.load_model) if args.load_model else build_model()
        check_output_files(args, model)
    except InputError as error:
        print(f"cnn_mnist.py: error: {error}", file=sys.stderr)
        return 2

    print_versions()
    model.summary()
    ctrl_c = CtrlC()
    saver = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: save(args.save_model, model.save)
    )

    untrained = {}
    if args.page and args.epochs and not args.load_model:  # the weights are random
        untrained["first_weights"] = encode(model.get_weights())
        untrained["before"] = evaluate(model, x_test, y_test, args.batch_size)
    history = train(
        model, x_train, y_train, args.batch_size, args.epochs, callbacks=[saver, ctrl_c]
    )
    results = evaluate(model, x_test, y_test, args.batch_size)
    for name, value in results.items():
        print(f"Test {name}: {value:.4f}", flush=True)

    # Once more: a callback of yours, such as EarlyStopping, may bring back older weights.
    written = [save(args.save_model, model.save)]
    if args.plot:
        figure = draw(history, x_test, y_test, model.predict(x_test, verbose=0))
        written.append(save(args.plot, figure.savefig))
    if args.page:
        training = {
            "images": int(len(x_train) * (1 - VALIDATION_SPLIT)),
            "epochs": len(history.get("loss", [])),
            "test_images": len(x_test),
            "after": results,
        }
        page = page_of(model, **training, **untrained)
        written.append(save(args.page, lambda file: file.write_text(page, "utf-8")))

    if not all(written):
        return 1
    return 130 if ctrl_c.pressed else 0


# === Data: reading and checking =======================================================
class InputError(ValueError):
    """A file or an option cannot be used. The message says in one line why."""


@contextlib.contextmanager
def using(what):
    """Turn any error in the `with` block into an InputError of one line.

    Wrap only what opens a file, a folder or a package. Other errors keep their traceback.
    """
    try:
        yield  # the block
    except Exception as error:  # damaged files raise errors of many kinds
        reason = " ".join(str(error).split())
        raise InputError(f"cannot use {what}: {reason}") from error


def read_arrays(path):
    """Return `(x_train, y_train), (x_test, y_test)`, uint8, as `load_data` says."""
    if Path(path) == DATA and not DATA.exists():
        with using(f"MNIST: there is no {DATA}, and Keras cannot download it"):
            return keras.datasets.mnist.load_data()
    names = ("x_train", "y_train", "x_test", "y_test")
    with using(path), np.load(path) as archive:
        # What is no array comes as bytes, and `check_images` refuses it.
        x_train, y_train, x_test, y_test = [np.asarray(archive[n]) for n in names]
    check_images(path, x_train, y_train)
    check_images(path, x_test, y_test)
    return (x_train, y_train), (x_test, y_test)


def check_images(path, x, y):
    """Raise InputError unless x are images and y their labels, as `load_data` says."""
    size = INPUT_SHAPE[:2]
    fits = (
        x.dtype == y.dtype == np.uint8
        and x.shape == (y.size, *size)
        and y.ndim == 1
        and len(x) >= 2  # one of the training images is for validation
        and y.max() < NUM_CLASSES
    )
    if not fits:
        raise InputError(
            f"cannot use {path}: it needs two or more images of {size} "
            f"and labels below {NUM_CLASSES}, all uint8"
        )


# === Model files: loading, saving =====================================================
def load_model(path):
    """Return the compiled model saved at `path`, with its optimizer's state.

    A layer class of your own needs @keras.saving.register_keras_serializable().
    Raises InputError if there is none, if Keras refuses it because it holds code, if it
    is not compiled, or if it does not turn images into NUM_CLASSES numbers.
    """
    with using(path):
        model = keras.saving.load_model(path)
        fits = (
            model.compiled
            and model.input_shape == (None, *INPUT_SHAPE)
            and model.output_shape == (None, NUM_CLASSES)
        )
    if not fits:
        raise InputError(
            f"cannot use {path}: it needs compile(), images of {INPUT_SHAPE} "
            f"and {NUM_CLASSES} classes"
        )
    return model


def save(path, write):
    """Let `write` fill a new file, then move it to `path`. Return whether that worked.

    A crash leaves no half-written file at `path`. If `path` is None, do nothing.
    """
    if path is None:
        return True
    path = path.resolve()  # of a symbolic link, the file that it points to
    new_file = path.with_name(f".{os.getpid()}.{path.name}")  # its suffix is the format
    UNFINISHED_FILES.add(new_file)
    try:
        write(new_file)
        new_file.replace(path)
    except OSError as error:
        print(f"\ncannot write {path}: {error}", file=sys.stderr)
        return False
    finally:
        new_file.unlink(missing_ok=True)
        UNFINISHED_FILES.remove(new_file)
    return True


# === Ctrl-C ===========================================================================
class CtrlC(keras.callbacks.Callback):
    """Lets Ctrl-C end the training after the current step. Then the results follow.

    Ctrl-C sends the signal SIGINT. We handle it ourselves, as Python sometimes loses a
    KeyboardInterrupt inside TensorFlow. `pressed` says whether Ctrl-C was pressed.
    """

    pressed = False

    def on_train_begin(self, logs=None):
        # Not earlier: fit() begins by setting stop_training to False.
        self.previous = signal.getsignal(signal.SIGINT)
        if self.previous != signal.SIG_IGN:
            with contextlib.suppress(ValueError):  # only the main thread may do this
                signal.signal(signal.SIGINT, self.stop)

    def on_train_end(self, logs=None):
        if signal.getsignal(signal.SIGINT) == self.stop:
            signal.signal(signal.SIGINT, self.previous)

    def stop(self, signum, frame):
        signal.signal(signal.SIGINT, self.previous)  # a second Ctrl-C ends at once
        self.pressed = True
        self.model.stop_training = True

    def on_epoch_end(self, epoch, logs=None):
        if self.pressed:
            try:
                print("\nStopped by Ctrl-C. The results follow.", flush=True)
            except BrokenPipeError:
                # In `cnn_mnist.py | tee log`, Ctrl-C has ended tee, too. From now on,
                # standard output leads nowhere. So the files are still written.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


# === The figure of --plot =============================================================
def draw(history, x, y, probabilities):
    """Return a matplotlib figure: a chart of each metric, and misread images.

    history: as from `train`. x, y: as from `load_data`; probabilities: float32, (n, 10),
    what the model predicts for x.
    """
    from matplotlib.figure import Figure  # only --plot needs it

    figure = Figure(figsize=(8.5, 8.0), dpi=120, layout="constrained")
    upper, lower = figure.subfigures(2, height_ratios=(3, 5))

    metrics = [name for name in history if not name.startswith("val_")]
    for position, name in enumerate(metrics, start=1):
        axes = upper.add_subplot(1, len(metrics), position)
        epochs = range(1, len(history[name]) + 1)
        for curve in (name, f"val_{name}"):
            # A metric may have a value for each class.
            values = [np.mean(value) for value in history.get(curve, [])]
            if len(values) == len(epochs):  # there may be no validation in some epochs
                axes.plot(epochs, values, "o-", label=curve)
        axes.set_xlabel("epoch")
        axes.locator_params(axis="x", integer=True, min_n_ticks=1)
        axes.legend()

    digits = y.argmax(axis=1)
    read = probabilities.argmax(axis=1)
    confidence = probabilities.max(axis=1)
    misread = np.flatnonzero(read != digits)
    lower.suptitle(f"{len(misread):,} of {len(x):,} test images misread")
    most_confident = misread[np.argsort(-confidence[misread])][:32]
    for position, i in enumerate(most_confident, start=1):
        axes = lower.add_subplot(4, 8, position)
        axes.axis("off")
        axes.imshow(x[i], cmap="gray_r", vmin=0, vmax=1)  # paper white, ink black
        caption = f"is {digits[i]}, read {read[i]}\n{confidence[i]:.1%} sure"
        axes.set_title(caption, fontsize=9, pad=2)
    return figure


# === The page of --page: draw.html with this network in it ============================
# To show another layer, name it here, and in KINDS or ONLY_IN_TRAINING of draw.html.
PAGE = Path(__file__).resolve().with_name("draw.html")
PAGE_LAYERS = [
    "Conv2D",
    "MaxPooling2D",
    "AveragePooling2D",
    "GlobalAveragePooling2D",
    "Flatten",
    "Dense",
    "Activation",
    "ReLU",
    "BatchNormalization",
    # The others act in training only.
    "Dropout",
    "GaussianNoise",
    "RandomFlip",
    "RandomRotation",
    "RandomTranslation",
    "RandomZoom",
]
PAGE_VALUES = {  # all that draw.html can do, where a layer has the option
    "activation": ["linear", "relu", "softmax", "tanh", "sigmoid"],
    "data_format": ["channels_last"],
    "dilation_rate": [(1, 1)],
    "groups": [1],
    "axis": [-1],
    "keepdims": [False],
    "max_value": [None],
    "negative_slope": [0],
    "threshold": [0],
}
PAGE_START = '<script type="application/json" id="network">'


def page_of(model, **more):
    """Return the text of draw.html with the network of this model in its last line.

    more: facts about the training. draw.html needs none of them.
    Raises InputError if draw.html cannot be read, or cannot do what the model does.
    """
    with using(PAGE):
        page = PAGE.read_text(encoding="utf-8")
        page = page[: page.index(PAGE_START)]
    network = {
        "layers": layers_of(model),
        "weights": encode(model.get_weights()),
        **more,
    }
    text = json.dumps(network).replace("<", r"\u003c")  # "</script>" would end it
    return f"{page}{PAGE_START}{text}</script>\n"


def encode(weights):
    """Return a list of arrays as text: their float32 numbers, packed, in base64."""
    numbers = b"".join(array.astype("<f4").tobytes() for array in weights)
    return base64.b64encode(zlib.compress(numbers, level=9)).decode()


def layers_of(model):
    """Return a list of dicts: what draw.html needs to know of each layer.

    Raises InputError if draw.html cannot do what the model does.
    """
    if type(model) is not keras.Sequential:  # the page runs one layer after another
        raise InputError("--page needs a keras.Sequential")
    if not model.built:  # a model without an Input is built by its first images
        model.build((None, *INPUT_SHAPE))
    descriptions = [describe(layer) for layer in model.layers]
    last = descriptions[-1]
    if last["class"] != "Dense" or last["activation"] != "softmax":
        raise InputError("--page needs a last layer that is Dense with softmax")
    return descriptions


def describe(layer):
    """Return what draw.html needs to know of a layer.

    Raises InputError if draw.html does not know it, or cannot do one of its options.
    """
    kind = type(layer).__name__
    config = layer.get_config()
    where = f"the layer {layer.name} ({kind})"
    if kind not in PAGE_LAYERS:
        raise InputError(f"--page does not know {where}")
    for option, values in PAGE_VALUES.items():
        if option in config and config[option] not in values:
            raise InputError(f"--page cannot show {option}={config[option]} of {where}")
    if kind == "Dense" and len(layer.input.shape) > 2:
        raise InputError(f"--page needs Flatten before {where}")
    return {
        **config,
        "class": kind,
        "input_shape": layer.input.shape[1:],
        "output_shape": layer.output.shape[1:],
        "weights": {weight.name: tuple(weight.shape) for weight in layer.weights},
    }


# === The command line: options, and what is printed ===================================
def parse_args(argv=None):
    """Return the options. At a wrong one, argparse ends the program with status 2."""
    parser = argparse.ArgumentParser(
        prog="cnn_mnist.py",
        description="Train a convolutional network on the MNIST digits.",
        epilog="Exit status: 0 done, 1 something could not be written, 2 a wrong "
        "option or file, 130 interrupted by Ctrl-C.",
    )
    for option, kind, default, text in (
        ("--epochs", int, EPOCHS, "passes over the data (default: %(default)s)"),
        ("--batch-size", int, BATCH_SIZE, "images in a step (default: %(default)s)"),
        ("--seed", int, SEED, "seed of all random numbers (default: %(default)s)"),
        ("--data", Path, DATA, "images and labels, .npz (default: %(default)s)"),
        ("--load-model", Path, None, "train this .keras model further"),
        ("--save-model", Path, None, "save to this .keras file after every epoch"),
        ("--plot", Path, None, "draw the results to this .png, .svg or .pdf file"),
        ("--page", Path, None, "write draw.html with this network to this .html file"),
    ):
        parser.add_argument(option, type=kind, default=default, help=text)
    args = parser.parse_args(argv)
    if args.epochs < 0 or args.batch_size < 1 or not 0 <= args.seed < 2**32:
        parser.error("needs --epochs >= 0, --batch-size >= 1 and 0 <= --seed < 2**32")
    return args


def check_output_files(args, model):
    """Raise InputError if a file that the options ask for could not be written.

    Better now than after the training.
    """
    for path, suffixes in (
        (args.save_model, (".keras",)),
        (args.plot, (".png", ".svg", ".pdf")),
        (args.page, (".html",)),
    ):
        if path is None:
            continue
        path = path.resolve()  # `save` follows a link, too
        if path.suffix not in suffixes or path.is_dir():
            raise InputError(
                f"cannot write {path}: it must be a {' or '.join(suffixes)} file"
            )
        with using(f"the folder {path.parent}"):
            tempfile.TemporaryFile(dir=path.parent).close()  # is writing allowed?
    if args.plot:
        with using("--plot without matplotlib (pip install matplotlib)"):
            import matplotlib.figure  # noqa: F401
    if args.page:
        page_of(model)  # can draw.html show this model?


def print_versions():
    """Print a line such as "Keras 3.15.1 with tensorflow on CPU:0"."""
    # A tensor knows its device, as /job:localhost/replica:0/task:0/device:GPU:0.
    device = str(keras.ops.zeros(()).device).rpartition("device:")[-1]
    print(f"Keras {keras.__version__} with {keras.backend.backend()} on {device}")


if __name__ == "__main__":
    try:
        status = main()
        sys.stdout.flush()
    except BrokenPipeError:  # nobody reads any more, as after `| head`
        os._exit(1)  # a normal exit would try to print the rest
    # All is done. Ctrl-C while Python tidies up would only change the status.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(status)
