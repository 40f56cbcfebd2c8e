"""Sources that share what they read, and say of each batch in which process it was made and where its data lies."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path
from typing import Any

import numpy as np

import feeder_server
from tests.sources import lies_in

Array = np.ndarray[Any, Any]
ROWS, ROW = 64, 1 << 16
RNG = np.random.default_rng()


def note(folder: str, text: str) -> None:
    """Adds a line to what has been computed; one write, so that processes don't mix theirs."""
    with open(Path(folder) / "computed", "a") as file:
        file.write(f"{os.getpid()} {text}\n")


def load(folder: str, split: str) -> dict[str, Any]:
    """Draws from everything that there is, as careless code does."""
    note(folder, split)
    return {
        "x": np.arange(ROWS * ROW, dtype=np.uint32).astype(np.uint8).reshape(ROWS, ROW),
        "drawn": [np.random.rand(2), RNG.random(2), random.random(), np.random.default_rng().random(2)],
        "split": split,
    }


class Shared:
    """Batch i: row i, what is drawn after the data was shared, and where that lies."""

    def __init__(self, folder: str, split: str = "train") -> None:
        np.random.rand(3)
        self.rng = np.random.default_rng()
        self.data = feeder_server.shared(load, folder, split)
        self.again = feeder_server.shared(load, folder, split)
        self.order = [*np.random.permutation(8), *self.rng.permutation(8), *RNG.permutation(8), random.random()]

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, i: int) -> dict[str, Any]:
        x = self.data["x"]
        refused = False
        try:
            x[i] = 0
        except ValueError:
            refused = True
        time.sleep(0.002)  # so that each worker gets a part
        return {
            "x": x[i],
            "after": np.array(self.order),
            "drawn": np.concatenate([np.ravel(part) for part in self.data["drawn"]]),
            "split": self.data["split"],
            "refused": refused,
            "file": lies_in(x),
            "same": lies_in(self.again["x"]) == lies_in(x),
            "pid": os.getpid(),
            "sum": int(x.sum(dtype="i8")),  # so that each has read all of it
        }


def dying(folder: str) -> list[Array]:
    """The first process that computes it dies at that."""

    def compute() -> Array:
        note(folder, "dying")
        try:
            (Path(folder) / "died").touch(exist_ok=False)
        except FileExistsError:
            return np.arange(1000)
        os._exit(9)

    return [feeder_server.shared(compute)[i : i + 1] for i in range(10)]


def raising(folder: str) -> list[Array]:
    """Nobody can compute it."""

    def compute() -> Array:
        note(folder, "raising")
        raise LookupError("there is no such data")

    return [feeder_server.shared(compute)]
