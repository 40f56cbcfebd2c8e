"""What the nodes of a chaos run serve: batches that tell everything about themselves, and user code that fails when it is told to.

An order is a file in a folder, named for what a worker is to do. Who renames it has it, so one worker obeys each order, once.

    exit-17 ─▶ taken-exit-17        os._exit in the middle of a batch; likewise segfault, hang (a wait), stick (C code with the GIL)
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import time
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

ORDERS = ("exit", "segfault", "hang", "stick")
TAKEN = "taken-"
WHOLE_BYTES = 65536
"""Of an array so much goes into the digest, and of the rest a checksum: ten times as quick, and this is no defence against anybody."""
VARIED_ROWS = 1000


def obey(folder: str) -> None:
    """Does what the oldest order in `folder` says, if there is one and nobody else has taken it."""
    if not folder:
        return
    for name in sorted(os.listdir(folder)):
        what = name.partition("-")[0]
        if what not in ORDERS:
            continue
        try:
            os.rename(os.path.join(folder, name), os.path.join(folder, TAKEN + name))
        except OSError:  # another worker was quicker
            continue
        fail(what)
        return


def fail(what: str) -> None:
    """Never comes back."""
    if what == "exit":
        os._exit(7)
    if what == "segfault":
        ctypes.string_at(0)
    while True:
        if what == "stick":
            re.match(r"(a+)+$", "a" * 60 + "b")  # takes some 2 ** 60 steps
        else:
            time.sleep(1)


def digest(batch: Any) -> str:
    """Digest over structure, dtypes, shapes and bytes of nested tuples of arrays."""
    state = hashlib.blake2b(digest_size=12)
    _feed(state, batch)
    return state.hexdigest()


def _feed(state: Any, item: Any) -> None:
    if isinstance(item, np.ndarray):
        state.update(f"{item.dtype.str}{item.shape}".encode())
        data = np.ascontiguousarray(item).reshape(-1).view(np.uint8).data
        state.update(data[:WHOLE_BYTES])
        state.update(zlib.crc32(data).to_bytes(4, "little"))
    else:
        state.update(f"{len(item)}(".encode())
        for part in item:
            _feed(state, part)


class Shuffled:
    """As users write it: shuffles in place after each epoch, with NumPy's global generator, and augments with it.

    Batch: (x: float32, shape (rows, 4); y: int64, shape (rows, 3), each row (epoch, sample, row)). `rows` says how large it is.
    """

    def __init__(self, n: int = 40, rows: int = 8, orders: str = "", seconds: float = 0.0) -> None:
        self.n, self.rows, self.orders, self.seconds, self.epoch = n, rows, orders, seconds, 0
        self.order = np.arange(n)

    def __len__(self) -> int:
        return self.n

    def on_epoch_end(self) -> None:
        self.epoch += 1
        np.random.shuffle(self.order)

    def __getitem__(self, i: int) -> tuple[Array, Array]:
        obey(self.orders)
        if self.seconds:
            time.sleep(self.seconds)
        y = np.empty((self.rows, 3), np.int64)
        y[:, 0], y[:, 1], y[:, 2] = self.epoch, self.order[i], np.arange(self.rows)
        return noise(self.rows), y


def noise(rows: int) -> Array:
    """float32, shape (rows, 4), values 0..1; drawn for the first rows, and then again the same, for the sake of speed."""
    return np.resize(np.random.rand(min(rows, VARIED_ROWS), 4).astype(np.float32), (rows, 4))


class Flawed(Shuffled):
    """The same, of which some batches can't be had: which ones depends on the epoch."""

    def __getitem__(self, i: int) -> tuple[Array, Array]:
        if (i * 7 + self.epoch * 3) % 11 == 0:
            raise ValueError(f"picture {i} of epoch {self.epoch} is broken")
        return super().__getitem__(i)


def sharded(
    n: int = 40, rows: int = 8, orders: str = "", seconds: float = 0.0, shard_index: int = 0, num_shards: int = 1
) -> Iterator[tuple[Array, Array]]:
    """A stream of which each worker makes its part, its files shuffled at the beginning."""
    samples = np.random.permutation(n)
    nonce = int(np.random.randint(1 << 30))  # so that no two runs have a batch in common
    for sample in samples[shard_index::num_shards]:
        obey(orders)
        if seconds:
            time.sleep(seconds)
        y = np.empty((rows, 3), np.int64)
        y[:, 0], y[:, 1], y[:, 2] = nonce, sample, np.arange(rows)
        yield noise(rows), y
