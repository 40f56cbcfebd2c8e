"""Train from an object whose class stands in this very script; the same works in a notebook.

    python examples/train_object.py

The object is packed once and handed to the workers. They never import this script, so it needs no `if __name__ == "__main__":`.
Arrays of 1 MB or more, such as `pictures` here, are in memory once for all workers.
"""

import keras
import numpy as np

from feeder_client import FeederSequence


class Noisy(keras.utils.PyDataset):
    """Batches of pictures with noise; the target is the picture's mean brightness."""

    def __init__(self, pictures, batch_size):
        super().__init__()
        self.pictures = pictures
        self.batch_size = batch_size

    def __len__(self):
        return len(self.pictures) // self.batch_size

    def __getitem__(self, index):
        clean = self.pictures[index * self.batch_size : (index + 1) * self.batch_size]
        noise = np.random.normal(0.0, 0.1, clean.shape).astype("float32")
        return clean + noise, clean.mean(axis=(1, 2))[:, None]


pictures = np.random.default_rng(0).random((640, 32, 32), "float32") * np.linspace(0, 1, 640, dtype="float32")[:, None, None]

model = keras.Sequential([keras.Input((32, 32)), keras.layers.Flatten(), keras.layers.Dense(1)])
model.compile(keras.optimizers.Adam(1e-3), "mse")

with FeederSequence.local(Noisy(pictures, batch_size=32), workers=2) as train:
    model.fit(train, epochs=3, verbose=2)
    print(train.verdict())
