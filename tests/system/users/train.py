"""Two sources for training: one with batches that travel as blocks, one with small ones."""

import random

import noise
import numpy as np

FIRST = np.random.rand()  # before the split is drawn: another import order, and it would be another one

from common import MEAN, TRAIN  # noqa: E402

SIDE = 64


class Train:
    """Shuffles, crops and adds noise."""

    def __init__(self):
        self.ids = TRAIN.copy()
        self.rng = np.random.default_rng()
        np.random.shuffle(self.ids)

    def __len__(self):
        return 12

    def on_epoch_end(self):
        self.rng.shuffle(self.ids)

    def __getitem__(self, i):
        ids = self.ids[i * 4 : (i + 1) * 4]
        x = np.empty((4, SIDE, SIDE, 3), "float32")
        for place, k in enumerate(ids):
            x[place] = k + random.random() * np.random.rand(SIDE, SIDE, 3)
        return {"x": noise.add(x), "shift": self.rng.integers(1000), "mean": MEAN + FIRST}, ids


class Small(Train):
    """The same with one pixel."""

    def __getitem__(self, i):
        ids = self.ids[i * 4 : (i + 1) * 4]
        return [ids * FIRST + self.rng.random(4), noise.add(np.zeros((4, 2), "float32"))], ids
