"""What `question.py` trains on, as a user has it in a file of his own. Batch i says its number: x is i, and y is twice that."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

BATCHES = 12
Batch = tuple[NDArray[np.float32], NDArray[np.float32]]


def take(kind: str, amount: float) -> None:
    """Waits as for a disk, that many seconds; or does arithmetic in Python, that many thousand rounds."""
    if kind == "waiting":
        time.sleep(amount)
        return
    value = 0
    for i in range(int(amount * 1000)):
        value = (value * 31 + i) % 1_000_003


def batch(kind: str, amount: float, i: int) -> Batch:
    """One batch."""
    take(kind, amount)
    return np.full((10, 1), i, np.float32), np.full((10, 1), 2 * i, np.float32)


def generator(kind: str, amount: float) -> Iterator[Batch]:
    """Never ends, as Keras wants it."""
    while True:
        for i in range(BATCHES):
            yield batch(kind, amount, i)


class Locked:
    """What can't be pickled for two reasons."""

    def __init__(self, kind: str, amount: float) -> None:
        self.lock = threading.Lock()
        self.make: Callable[[int], Batch] = lambda i: batch(kind, amount, i)

    def __len__(self) -> int:
        return BATCHES

    def __getitem__(self, i: int) -> Batch:
        with self.lock:
            return self.make(i)
