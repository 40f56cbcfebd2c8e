"""Data code for the other examples: pictures of a disc or a square, augmented with NumPy. Nothing is read or downloaded.

This is what you write for feeder: a class with `__len__` and `__getitem__`. It may derive from keras.utils.PyDataset, but need
not, and a worker that does without Keras starts faster. Its random numbers come from `random` and `np.random`, which feeder
seeds before every epoch and every batch, so the batches don't depend on how many workers make them.
"""

from __future__ import annotations

import numpy as np

SIDE = 32  # pixels


class Train:
    """Batches of x: float32, shape (batch_size, 32, 32, 1), values 0..1, and y: float32, shape (batch_size, 1), 1 for a disc.

    Args:
        samples: how many different pictures there are.
        batch_size: pictures per batch.
    """

    def __init__(self, samples: int = 640, batch_size: int = 32) -> None:
        self.samples = np.arange(samples)
        self.batch_size = batch_size

    def __len__(self) -> int:
        return len(self.samples) // self.batch_size

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        samples = self.samples[index * self.batch_size : (index + 1) * self.batch_size]
        x = np.stack([augment(draw(sample)) for sample in samples])
        y = (samples % 2).astype(np.float32)
        return x[..., None], y[:, None]

    def on_epoch_end(self) -> None:
        np.random.shuffle(self.samples)


class Val(Train):
    """Other pictures, as they are, always in the same order."""

    def __init__(self, samples: int = 128, batch_size: int = 32) -> None:
        super().__init__(samples, batch_size)
        self.samples += 1_000_000

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        samples = self.samples[index * self.batch_size : (index + 1) * self.batch_size]
        return np.stack([draw(sample) for sample in samples])[..., None], (samples % 2).astype(np.float32)[:, None]

    def on_epoch_end(self) -> None:
        """Nothing to shuffle."""


def draw(sample: int) -> np.ndarray:
    """Draw one sample, always the same for the same number: float32, shape (32, 32), values 0..1; odd ones are discs."""
    rng = np.random.default_rng(sample)
    rows, columns = np.mgrid[0:SIDE, 0:SIDE] - rng.uniform(12, 20, (2, 1, 1))
    radius = rng.uniform(5, 9)
    inside = np.hypot(rows, columns) < radius if sample % 2 else np.maximum(abs(rows), abs(columns)) < radius
    return inside.astype(np.float32)


def augment(image: np.ndarray) -> np.ndarray:
    """Flip, shift, recolour and blur one picture by chance; same shape, dtype and range as `image`."""
    if np.random.rand() < 0.5:
        image = image[:, ::-1]
    image = np.roll(image, np.random.randint(-3, 4, 2), axis=(0, 1))
    image = image * np.random.uniform(0.6, 1.0) + np.random.normal(0.0, 0.05, image.shape)
    return np.clip(image, 0.0, 1.0).astype(np.float32)
