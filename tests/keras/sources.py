"""Sources that the checks of Keras serve. Every sample has a number of its own, with its epoch in it, so that it shows what came twice
or not at all: ``sample = first + 1000 * epoch + place``.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

BATCH = 4


def numbers(index: int, size: int = BATCH) -> Array:
    """The samples of batch `index`: column vector."""
    return (np.arange(size, dtype=np.float32) + index * BATCH)[:, None]


class Samples:
    """Inputs (samples, 3), targets (samples, 1): the number of the sample. The last batch is short.

    Args:
        n: batches of one epoch.
        first: number of the first sample.
        broken: the batch that raises.
        seconds: for each batch.
    """

    def __init__(self, n: int = 8, first: int = 0, broken: int | None = None, seconds: float = 0.0) -> None:
        self.n, self.first, self.broken, self.seconds, self.epoch = n, first, broken, seconds, 0

    def __len__(self) -> int:
        return self.n

    def on_epoch_end(self) -> None:
        self.epoch += 1

    def targets(self, i: int) -> Array:
        if i == self.broken:
            raise ValueError(f"no such image: {i}.png")
        time.sleep(self.seconds)
        return numbers(i, 2 if i == self.n - 1 else BATCH) + np.float32(self.first + 1000 * self.epoch)

    def __getitem__(self, i: int) -> Any:
        y = self.targets(i)
        return np.repeat(y, 3, axis=1), y


class Weighted(Samples):
    """With sample weights: a tenth of the number."""

    def __getitem__(self, i: int) -> Any:
        x, y = super().__getitem__(i)
        return x, y, (y / 10).reshape(-1)


class Classes(Samples):
    """Targets 0, 1, 2, 0, 1, ..."""

    def __getitem__(self, i: int) -> Any:
        x, y = super().__getitem__(i)
        return x, (y % 3).astype(np.int32)


class Forms(Samples):
    """What sources give and Keras doesn't take as it is: lists for tuples, None at the end, a foreign byte order, dicts."""

    def __init__(self, form: str, n: int = 8) -> None:
        super().__init__(n)
        self.form = form

    def __getitem__(self, i: int) -> Any:
        x, y = super().__getitem__(i)
        if self.form == "dict":
            return {"left": x, "right": x.copy()}, y
        if self.form == "odd":
            return [x, x.astype(">f4")], y.astype(">f4"), None
        if self.form == "list":
            return [x, y]
        return x


class Large(Samples):
    """Inputs of 256 KB: they travel in blocks."""

    def __getitem__(self, i: int) -> Any:
        y = numbers(i)
        return np.repeat(y, 16384, axis=1), y


def stream(n: int = 8, ends: bool = True) -> Iterator[Any]:
    """The same as `Samples` from a generator: of `n` batches, or without end."""
    i = 0
    while not ends or i < n:
        yield np.repeat(numbers(i), 3, axis=1), numbers(i)
        i += 1


def mixed() -> Iterator[Any]:
    """All sorts of types and structures, of changing lengths."""
    for i in range(3):
        yield (
            {
                "text": np.array([f"é{i}", "longer" * (i + 1)]),
                "bytes": np.array([b"a", b"bc"]),
                "inner": [np.arange(i + 1, dtype=np.int16), [i / 2, "scalar"]],
                "big": np.array([1, i], ">f4"),
                "bool": np.array([True, False]),
            },
            np.full((2, 3 + i, 3), i, np.uint8),
            None,
        )


def middle() -> Iterator[Any]:
    """Without targets, but with weights."""
    yield np.arange(2.0), None, np.arange(2.0)


def one_array() -> Iterator[Any]:
    """No structure at all."""
    for i in range(3):
        yield np.full(4, i)


def dates() -> Iterator[Any]:
    """What TensorFlow and torch have no type for."""
    yield np.arange(2.0), {"when": np.array(["2020-01-01", "2021-01-01"], "M8[D]")}


def changing() -> Iterator[Any]:
    """The third batch is of another dtype."""
    yield np.arange(2)
    yield np.arange(3)
    yield np.arange(2.0)


class Random(Samples):
    """Inputs (samples, 4096) that a model can learn something from: they travel in blocks.

    Args:
        form: xy, weighted, dict, classes, bare.
        dtype: of the inputs.
        n: batches of one epoch.
    """

    def __init__(self, form: str = "xy", dtype: str = "f4", n: int = 6) -> None:
        super().__init__(n)
        self.form, self.dtype = form, dtype

    def __getitem__(self, i: int) -> Any:
        rng = np.random.default_rng([self.epoch, i])
        size = 6 if i == self.n - 1 else 16
        x = (rng.random((size, 4096)) * 4).astype(self.dtype)
        y = x[:, :1].astype(np.float32) - 1
        if self.form == "weighted":
            return x, y, rng.random(size).astype(np.float32)
        if self.form == "dict":
            return {"left": x, "right": x[:, ::-1]}, y
        if self.form == "classes":
            return x, (y > 1).astype(np.int64)
        return x if self.form == "bare" else (x, y)
