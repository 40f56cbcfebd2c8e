"""Train from a generator function. Pass the function, not what it returns: a generator runs only once.

    python examples/generator_train.py

An endless generator has no length, so `steps=` says how many batches make an epoch. Each worker runs a generator of its own, with
random numbers of its own, so the workers' batches differ.
"""

import keras
import numpy as np

from feeder_client import FeederSequence


def batches():
    """Endless batches of points in the plane, x: float32, shape (64, 2); y: float32, shape (64, 1), 1 inside of the unit circle."""
    while True:
        x = np.random.uniform(-1.5, 1.5, (64, 2)).astype("float32")
        y = (np.hypot(x[:, 0], x[:, 1]) < 1).astype("float32")
        yield x, y[:, None]


model = keras.Sequential(
    [keras.Input((2,)), keras.layers.Dense(32, activation="relu"), keras.layers.Dense(32, activation="relu"), keras.layers.Dense(1)]
)
model.compile(keras.optimizers.Adam(1e-2), keras.losses.BinaryCrossentropy(from_logits=True))

with FeederSequence.local(batches, workers=2, steps=50) as train:
    print(f"{len(train)} batches make an epoch")
    model.fit(train, epochs=3, verbose=2)
