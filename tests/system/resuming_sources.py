"""Sources for test_resume.py: they write down what they make, so that it shows what was made twice, or for nothing."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np


def note(log: str, *what: int) -> None:
    """One line: process, and what it makes. Written at once, also by several processes."""
    if log:
        with Path(log).open("a", encoding="utf-8") as file:
            file.write(" ".join(map(str, (os.getpid(), *what))) + "\n")


class Logged:
    """Item i of epoch e: (e, i, a random number)."""

    def __init__(self, log: str = "", n: int = 12) -> None:
        self.log, self.n, self.epoch = log, n, 0

    def __len__(self) -> int:
        return self.n

    def on_epoch_end(self) -> None:
        self.epoch += 1

    def __getitem__(self, i: int) -> Any:
        note(self.log, self.epoch, i)
        return self.epoch, i, random.random()


def augmented(log: str = "", n: int = 30, size: int = 4, shard_index: int = 0, num_shards: int = 1) -> Iterator[Any]:
    """A sharded stream, its files shuffled at the beginning: (item, noise). `size` says whether it travels in blocks."""
    items = list(range(n))
    random.shuffle(items)
    for item in items[shard_index::num_shards]:
        note(log, item)
        yield item, np.random.rand(size).astype(np.float32) + random.random()


def skipping(log: str = "", n: int = 30, shard_index: int = 0, num_shards: int = 1, start_batch: int = 0) -> Iterator[Any]:
    """The same, which begins near the place where it is to go on."""
    items = list(range(n))
    random.shuffle(items)
    for item in items[shard_index::num_shards][start_batch:]:
        note(log, item)
        yield item, np.random.rand(4).astype(np.float32) + random.random()


def drawing(n: int = 9) -> Iterator[Any]:
    """A plain stream: (place, noise, another noise), each worker its own."""
    for i in range(n):
        yield i, np.random.rand(3).astype(np.float32), random.random()
