"""Sources that make their batches with `feeder_server.empty`, carefully and carelessly."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

import feeder_server
from tests.sources import lies_in, pattern

Array = np.ndarray[Any, Any]
SHAPE = (64, 1024)


class InPlace:
    """Batch i: `pattern(i)`, and the file in which it lay when it was made. `keeps`: this object holds on to it, and spoils it later."""

    def __init__(self, n: int = 30, keeps: bool = False) -> None:
        self.n, self.keeps = n, keeps
        self.kept: Array | None = None

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> dict[str, Any]:
        if self.kept is not None:
            self.kept[...] = 255
        x = feeder_server.empty(SHAPE, np.uint8)
        x[...] = pattern(i, x.size).reshape(SHAPE)
        if self.keeps:
            self.kept = x[1:]
        return {"name": f"{i:06}", "x": x, "file": lies_in(x)}


def stream(n: int = 30) -> Iterator[dict[str, Any]]:
    """The same from a generator that goes on to use the array that it gave away."""
    for i in range(n):
        x = feeder_server.empty(SHAPE, np.uint8)
        x[...] = pattern(i, x.size).reshape(SHAPE)
        yield {"i": i, "x": x, "file": lies_in(x)}
        x[...] = 255
