"""Sources whose batches are of many sizes."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def size_of(i: int, most: int) -> int:
    """Bytes of batch i: from a few to `most`, small ones more often, as if by chance."""
    share = (i * 2654435761 % 4096) / 4096
    return 16 + int(share**3 * most)


class Varying:
    """Batch i is its number, and `size_of(i)` bytes that all are i."""

    def __init__(self, n: int = 2500, kilobytes: int = 300) -> None:
        self.n, self.most = n, kilobytes * 1024

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> tuple[int, Array]:
        return i, np.full(size_of(i, self.most), i % 251, np.uint8)


def is_varying(i: int, batch: Any, kilobytes: int = 300) -> bool:
    """Is it batch i of `Varying`?"""
    number, x = batch
    return bool(number == i and len(x) == size_of(i, kilobytes * 1024) and x[0] == x[-1] == i % 251 and x[len(x) // 2] == i % 251)
