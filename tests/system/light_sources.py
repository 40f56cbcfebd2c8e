"""Sources made with Keras and TensorFlow that need them for a base class alone, late, or at once."""

from __future__ import annotations

import random
import sys
from typing import Any

import numpy as np
import tensorflow as tf
from keras.utils import PyDataset, to_categorical
from tensorflow import keras

rng = np.random.default_rng()
SPLIT = [*np.random.permutation(10), random.random()]


def drawn() -> list[Any]:
    """Numbers of all kinds."""
    return [np.random.rand(2), random.random(), rng.random(2), np.random.default_rng().random(2)]


class Base(PyDataset):  # type: ignore[misc]
    """Shuffles, and says whether the real TensorFlow is there."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.ids = np.random.permutation(24)

    def __len__(self) -> int:
        return 6

    def on_epoch_end(self) -> None:
        np.random.shuffle(self.ids)

    def __getitem__(self, i: int) -> dict[str, Any]:
        ids = self.ids[4 * i : 4 * i + 4]
        return {"ids": ids, "y": to_categorical(ids, 24), "before": drawn(), **self.more(), "after": [*drawn(), *SPLIT], "real": is_there()}

    def more(self) -> dict[str, Any]:
        """What an heir adds to a batch."""
        return {}


def is_there() -> bool:
    """Whether the real one has been loaded, without asking it."""
    return "tensorflow.python" in sys.modules


class Late(Base):
    """Touches TensorFlow when it makes an item, and draws from it and from Keras."""

    def more(self) -> dict[str, Any]:
        return {"tf": tf.random.uniform((3,)).numpy(), "noise": np.array(keras.layers.GaussianNoise(0.5)(np.ones((2, 2)), training=True))}


class Early(Base):
    """Has a layer that draws."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.flip = keras.layers.RandomFlip()

    def more(self) -> dict[str, Any]:
        return {"tf": np.array(self.flip(np.arange(16.0).reshape(1, 2, 2, 4), training=True))}
