"""The two sources of ``feeder-server demo``: batches that take real time, without Keras and without anything to download.

`Sleeping` waits, as for a disk or a network; `Augmented` computes in pure Python, so that only one thread of a process gets on.
Both are what users write: a class with ``__getitem__`` and ``__len__``. The trainer of the demo runs this same file in its own
process too, so it imports nothing of feeder. Item i depends on i alone: threads and processes make the same batches.
"""

from __future__ import annotations

import math
import random
import time
from typing import Any, TypeAlias

import numpy as np

Batch: TypeAlias = "tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]"

SIDE = 32  # pixels
IMAGES = 8  # kept in memory; each is augmented afresh whenever it is drawn
SMALLEST, LARGEST = 4, 512


class Sleeping:
    """Batches of x: float32, shape (10, 3), and y: float32, shape (10, 2), one-hot, that cost time and no core.

    Args:
        batches: of one pass.
        seconds: that a batch takes.
    """

    def __init__(self, batches: int = 10, seconds: float = 0.1) -> None:
        self.batches = batches
        self.seconds = seconds

    def __len__(self) -> int:
        return self.batches

    def __getitem__(self, index: int) -> Batch:
        """Sleep, and make batch `index`."""
        if not 0 <= index < self.batches:
            raise IndexError(index)
        time.sleep(self.seconds)
        rng = np.random.default_rng(index)
        return rng.random((10, 3), np.float32), np.eye(2, dtype=np.float32)[rng.integers(0, 2, 10)]


class Augmented:
    """Batches of x: float32, shape (size, 32, 32), values 0..1, and y: float32, shape (size, 1), augmented pixel by pixel.

    Args:
        batches: of one pass.
        size: images of one batch.
    """

    def __init__(self, batches: int = 10, size: int = 32) -> None:
        self.batches = batches
        self.size = size
        rng = random.Random(0)
        self.images = [[rng.random() for _ in range(SIDE * SIDE)] for _ in range(IMAGES)]

    def __len__(self) -> int:
        return self.batches

    def __getitem__(self, index: int) -> Batch:
        """Make batch `index`."""
        if not 0 <= index < self.batches:
            raise IndexError(index)
        rng = random.Random(index)
        chosen = [rng.randrange(IMAGES) for _ in range(self.size)]
        x = np.array([augment(self.images[i], rng) for i in chosen], np.float32).reshape(-1, SIDE, SIDE)
        return x, np.array(chosen, np.float32)[:, None] / IMAGES


def augment(image: list[float], rng: random.Random) -> list[float]:
    """Turn an image by a small angle, change its brightness and add noise. Pure Python: holds the GIL all the time."""
    angle, gain = rng.uniform(-0.4, 0.4), rng.uniform(0.8, 1.2)
    sin, cos = math.sin(angle), math.cos(angle)
    middle = (SIDE - 1) / 2
    turned = []
    for row in range(SIDE):
        for column in range(SIDE):
            x = round(cos * (column - middle) - sin * (row - middle) + middle)
            y = round(sin * (column - middle) + cos * (row - middle) + middle)
            value = image[y * SIDE + x] if 0 <= x < SIDE and 0 <= y < SIDE else 0.0
            turned.append(min(1.0, max(0.0, value * gain + 0.05 * rng.random())))
    return turned


def size_for(seconds: float) -> int:
    """How many images make a batch of `Augmented` that takes about so long on this machine."""
    source = Augmented(batches=1, size=SMALLEST)
    took = []
    for _ in range(15):
        start = time.perf_counter()
        source[0]
        took.append(time.perf_counter() - start)
    # The shortest: the others were held up by something else.
    return min(LARGEST, max(SMALLEST, round(SMALLEST * seconds / min(took))))
