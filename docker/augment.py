"""The demo's data: drawn shapes, augmented with NumPy; what a node serves as `augment.py:train` and `augment.py:val`.

Nothing is read from disk, so the demo needs no data set. The augmentation is real work all the same: an affine warp
with bilinear sampling, colour, blur, noise and cutout cost some milliseconds per image, all of it in one process
that holds the GIL. That is the kind of Sequence that starves a training loop when it runs inside of it.
"""

from __future__ import annotations

import numpy as np

SIZE = 64
CLASSES = ("disc", "square", "ring", "cross", "triangle")


class Shapes:
    """Batches of one drawn shape per image, to be told apart by its kind; a Keras Sequence by duck type.

    Item i is `(x, y)`: x float32, shape (batch_size, 64, 64, 3), values 0..1; y int32, shape (batch_size,), an index
    into CLASSES. Sample k looks the same in every epoch but for the augmentation.
    """

    def __init__(self, samples: int, batch_size: int, first_sample: int = 0, augment: bool = True) -> None:
        self.batch_size = batch_size
        self.augment = augment
        self.samples = np.arange(first_sample, first_sample + samples)
        # Feeder finds generators like this one and seeds them for each epoch and item, so that every copy of the
        # source, in any worker on any node, shuffles alike and makes the same item i.
        self.rng = np.random.default_rng(0)

    def __len__(self) -> int:
        return len(self.samples) // self.batch_size

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        samples = self.samples[index * self.batch_size : (index + 1) * self.batch_size]
        images = [draw(int(sample)) for sample in samples]
        if self.augment:
            images = [augment(image, self.rng) for image in images]
        return np.stack(images), (samples % len(CLASSES)).astype(np.int32)

    def on_epoch_end(self) -> None:
        if self.augment:
            self.samples = self.rng.permutation(np.sort(self.samples))


def train(samples: int = 1600, batch_size: int = 32) -> Shapes:
    """The training data: augmented, in a new order in each epoch."""
    return Shapes(samples, batch_size)


def val(samples: int = 320, batch_size: int = 32) -> Shapes:
    """The validation data: samples that training never sees, as they are."""
    return Shapes(samples, batch_size, first_sample=1_000_000, augment=False)


def draw(sample: int) -> np.ndarray:
    """Draw one sample.

    Returns:
        image: float32, shape (64, 64, 3), values 0..1; always the same for the same sample.
    """
    rng = np.random.default_rng(sample)
    rows, columns = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
    radius = rng.uniform(12, 20)
    y = rows - rng.uniform(24, 40)
    x = columns - rng.uniform(24, 40)
    distance = np.hypot(x, y)
    kind = CLASSES[sample % len(CLASSES)]
    if kind == "disc":
        inside = distance < radius
    elif kind == "square":
        inside = np.maximum(abs(x), abs(y)) < 0.85 * radius
    elif kind == "ring":
        inside = (distance < radius) & (distance > 0.6 * radius)
    elif kind == "cross":
        inside = (np.minimum(abs(x), abs(y)) < 0.25 * radius) & (np.maximum(abs(x), abs(y)) < radius)
    else:
        inside = (y < 0.6 * radius) & (y > 1.8 * abs(x) - radius)
    paper, ink = rng.uniform(0.0, 0.4, 3), rng.uniform(0.6, 1.0, 3)
    if rng.random() < 0.5:
        paper, ink = ink, paper
    return np.where(inside[..., None], ink, paper).astype(np.float32)


def augment(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Warp, recolour, blur and damage one image.

    Args:
        image: float32, shape (height, width, 3), values 0..1; left as it is.

    Returns:
        A new array of the same shape, dtype and range.
    """
    turned = warp(image, angle=rng.uniform(-0.4, 0.4), scale=rng.uniform(0.8, 1.25), shift=rng.uniform(-5, 5, 2))
    if rng.random() < 0.5:
        turned = turned[:, ::-1]
    coloured = (turned - 0.5) * rng.uniform(0.7, 1.3) + 0.5 + rng.uniform(-0.1, 0.1, 3)
    blurred = blur(coloured, sigma=rng.uniform(0.3, 1.2))
    noisy = blurred + rng.normal(0.0, 0.04, image.shape)
    top, left = rng.integers(0, SIZE - 12, 2)
    noisy[top : top + 12, left : left + 12] = rng.uniform(0.0, 1.0, 3)
    return np.clip(noisy, 0.0, 1.0).astype(np.float32)


def warp(image: np.ndarray, angle: float, scale: float, shift: np.ndarray) -> np.ndarray:
    """Turn by `angle` (radians), zoom and shift (pixels) about the middle; bilinear, edges repeated."""
    height, width = image.shape[:2]
    rows, columns = np.mgrid[0:height, 0:width]
    y, x = rows - height / 2 - shift[0], columns - width / 2 - shift[1]
    sine, cosine = np.sin(angle) / scale, np.cos(angle) / scale
    source_y = np.clip(cosine * y - sine * x + height / 2, 0, height - 1.001)
    source_x = np.clip(sine * y + cosine * x + width / 2, 0, width - 1.001)
    y0, x0 = source_y.astype(int), source_x.astype(int)
    wy, wx = (source_y - y0)[..., None], (source_x - x0)[..., None]
    above = image[y0, x0] * (1 - wx) + image[y0, x0 + 1] * wx
    below = image[y0 + 1, x0] * (1 - wx) + image[y0 + 1, x0 + 1] * wx
    return above * (1 - wy) + below * wy


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur with a radius of three pixels, one axis after the other; edges repeated."""
    offsets = np.arange(-3, 4)
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    weights /= weights.sum()
    for axis in (0, 1):
        padded = np.pad(image, [(3, 3) if a == axis else (0, 0) for a in range(image.ndim)], mode="edge")
        length = image.shape[axis]
        parts = (w * padded.take(range(i, i + length), axis=axis) for i, w in enumerate(weights))
        image = np.sum(list(parts), axis=0)
    return image
