"""Sources as people write them, whose copies agree, agree in part, or don't. Each batch: pixels, and the ids of its samples."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

SIZE, LENGTH = 4, 12


class Exact:
    """Shuffles in on_epoch_end, and draws from a generator that is made without a seed when an item is."""

    def __init__(self) -> None:
        self.order = np.arange(SIZE * LENGTH)

    def __len__(self) -> int:
        return LENGTH

    def on_epoch_end(self) -> None:
        np.random.shuffle(self.order)

    def __getitem__(self, i: int) -> Any:
        return np.random.default_rng().random((SIZE, 3)), self.order[i * SIZE : (i + 1) * SIZE].copy()


class Augmented(Exact):
    """Takes its random numbers from where nobody can set them."""

    def __getitem__(self, i: int) -> Any:
        return np.frombuffer(os.urandom(96)).reshape(SIZE, 3), super().__getitem__(i)[1]


class Lazy(Exact):
    """Draws the order of an epoch when its first item is made."""

    order: Any

    def __init__(self) -> None:
        self.order = None

    def on_epoch_end(self) -> None:
        self.order = None

    def __getitem__(self, i: int) -> Any:
        if self.order is None:
            self.order = np.random.permutation(SIZE * LENGTH)
        return super().__getitem__(i)


class Cursor:
    """Ignores the index."""

    def __init__(self) -> None:
        self.cursor = -1

    def __len__(self) -> int:
        return LENGTH

    def __getitem__(self, i: int) -> Any:
        self.cursor = (self.cursor + 1) % LENGTH
        return np.ones((SIZE, 3)), np.arange(self.cursor * SIZE, (self.cursor + 1) * SIZE)
