"""Sources of which one worker stops in the middle, and that say who made what."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.sources import first_here, hold

QUICK = 0.02
"""What a batch takes: so much that a worker is given the next one only when it has finished."""


class OneHolds:
    """Batch i is i. Who comes to `at` first of all waits there until there is a file ``go`` in `folder`; all others don't."""

    def __init__(self, folder: str, n: int = 40, at: int = 16, name: str = "") -> None:
        self.folder, self.n, self.at, self.name = Path(folder), n, at, name

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> tuple[int, str]:
        time.sleep(QUICK)
        if i == self.at and first_here(str(self.folder)):
            hold(str(self.folder), i)
        (self.folder / f"made-{i}-{self.name}{os.getpid()}").touch()
        return i, f"sample {i:08}"


class AllHold(OneHolds):
    """Every worker that comes to `at` or beyond waits there."""

    def __getitem__(self, i: int) -> tuple[int, str]:
        if i >= self.at:
            hold(str(self.folder), i)
        return super().__getitem__(i)


def counting(folder: str, shard_index: int = 0, num_shards: int = 1) -> Iterator[int]:
    """0 .. 39, shared out; from 10 on each waits for ``go``."""
    for i in range(shard_index, 40, num_shards):
        time.sleep(QUICK)
        if i >= 10:
            hold(folder, i)
        yield i


def made(folder: Path) -> Counter[int]:
    """How often each batch was made."""
    return Counter(int(path.name.split("-")[1]) for path in folder.glob("made-*"))
