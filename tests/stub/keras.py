"""A stand-in for Keras that loads at once, for tests of the process around it.

Its network learns nothing: a step of its training is a short sleep. From the
environment it takes NOISE, code that is run as it loads, the name of its DEVICE, for how
many seconds it is to SLEEP in its evaluation, and how often Ctrl-C PRESSES happen while
it is saved after its third epoch.
"""

import os
import signal
import sys
import time
import types

import numpy as np

exec(os.environ.get("NOISE", ""))  # noqa: S102

sys.modules["stub"] = types.SimpleNamespace(__version__="1")
__version__ = "0"
backend = types.SimpleNamespace(backend=lambda: "stub")
zeros = types.SimpleNamespace(device=os.environ.get("DEVICE", "cpu:0"))
ops = types.SimpleNamespace(zeros=lambda shape: zeros)
utils = types.SimpleNamespace(set_random_seed=lambda seed: None)
layers = types.SimpleNamespace(
    **dict.fromkeys(
        ["Conv2D", "MaxPooling2D", "Flatten", "Dropout", "Dense"],
        lambda *args, **kwargs: None,
    )
)
Input = layers.Dense


class Callback:
    def on_train_begin(self, logs=None):
        pass

    def on_epoch_end(self, epoch, logs=None):
        pass


callbacks = types.SimpleNamespace(Callback=Callback)
config = types.SimpleNamespace(
    set_image_data_format=lambda name: None, set_floatx=lambda name: None
)


class Sequential:
    def __init__(self, layers):
        self.stop_training = False
        self.epoch = 0

    def compile(self, *args, **kwargs):
        pass

    def summary(self):
        print("a summary", flush=True)

    def fit(self, x, y, batch_size, epochs, verbose, callbacks, validation_split):
        self.stop_training = False
        for callback in callbacks:
            callback.model = self
            callback.on_train_begin()
        for epoch in range(1, epochs + 1):
            self.epoch = epoch
            print(f"Epoch {epoch}", flush=True)
            for _ in range(100):
                time.sleep(0 if self.stop_training else 0.001)
            for callback in callbacks:
                callback.on_epoch_end(epoch)
            if self.stop_training:
                break
        return types.SimpleNamespace(history={})

    def evaluate(self, x, y, **more):
        time.sleep(float(os.environ.get("SLEEP", "0")))
        return {"loss": 0.5, "accuracy": 0.5}

    def predict(self, x, **more):
        return np.full((len(x), 10), 0.1)

    def save(self, path):
        path.write_text("a network")
        if self.epoch == 3:
            for _ in range(int(os.environ.get("PRESSES", "0"))):
                signal.raise_signal(signal.SIGINT)
