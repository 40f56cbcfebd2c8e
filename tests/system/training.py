"""A client that goes on reading while a test does something to it, to the node or to what lies between."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from feeder_client import FeederClient
from tests.sources import pattern

Right = Callable[[int, Any], bool]


def is_pattern(nbytes: int) -> Right:
    """Is it batch i of `sources.Blocks`, to the last byte?"""
    return lambda i, batch: bool(np.array_equal(batch, pattern(i, nbytes)))


def is_number(i: int, batch: Any) -> bool:
    """Is it batch i of `sources.Numbers`?"""
    x, y = batch
    return bool((x == i).all() and (y == i).all()) and len(x) == len(y) == 4


class Training:
    """Reads pass after pass in a thread, and notes what isn't as it should be.

    Args:
        client: is read by nobody else meanwhile.
        n: batches of a pass.
        right: is this batch i?
    """

    def __init__(self, client: FeederClient, n: int, right: Right) -> None:
        self.passes, self.batches, self.wrong = 0, 0, []  # type: tuple[int, int, list[str]]
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(client, n, right))
        self._thread.start()

    def _run(self, client: FeederClient, n: int, right: Right) -> None:
        try:
            while not self._ending.is_set():
                got = 0
                for i, batch in enumerate(client):
                    got += 1
                    self.batches += 1
                    if not right(i, batch):
                        self.wrong.append(f"batch {i} of pass {self.passes}")
                if got != n:
                    self.wrong.append(f"{got} batches in pass {self.passes}")
                self.passes += 1
        except BaseException as e:
            self.wrong.append(repr(e))

    def end(self) -> None:
        """Ends with the pass under way; fails if anything was wrong."""
        self._ending.set()
        self._thread.join(60)
        assert not self._thread.is_alive()
        assert not self.wrong
        assert self.passes > 0
