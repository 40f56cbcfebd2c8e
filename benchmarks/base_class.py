"""A source as many have one: Keras is imported for the base class of its `Sequence` and for `to_categorical`, and for nothing else."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from keras.utils import Sequence, to_categorical


class Labelled(Sequence):  # type: ignore[misc]
    """x: float32, shape (32, 26, 3), values 0..1; y: shape (32, 10), one of each row is 1. 10 kB."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self._length = length
        self._x = np.random.default_rng(0).random((32, 26, 3), np.float32)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.generic]]:
        return self._x, to_categorical(np.arange(32) % 10, 10)
