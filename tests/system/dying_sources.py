"""Sources whose worker dies where a user's code could hardly make it: in the middle of writing a batch, and before it is reported."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from feeder_server.link import NodeLink
from feeder_wire import worker_messages as w
from feeder_wire.codec import Encoded
from tests.sources import Array, first_here, pattern

NBYTES = 1 << 18
EXIT_CODE = 77


class Dies:
    """Batch i is `pattern(i, NBYTES)`, twice. The first worker that comes to `at` dies over it, at a point that `when` names."""

    def __init__(self, folder: str, when: str, n: int = 30, at: int = 17) -> None:
        self.folder, self.when, self.n, self.at = folder, when, n, at

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> tuple[Array, Array]:
        if i == self.at and first_here(self.folder):
            {"writing": _die_writing, "reporting": _die_reporting}[self.when]()
        return pattern(i, NBYTES), pattern(i, NBYTES)


def _die_writing() -> None:
    def write_half(self: Encoded, target: Any) -> None:
        np.frombuffer(target, np.uint8)[: self.nbytes // 2] = 255
        os._exit(EXIT_CODE)

    Encoded.write_into = write_half  # type: ignore[method-assign]


def _die_reporting() -> None:
    put = NodeLink.put

    def die_instead(self: NodeLink, message: w.FromWorker) -> None:
        if isinstance(message, w.MadeBlock):
            os._exit(EXIT_CODE)
        put(self, message)

    NodeLink.put = die_instead  # type: ignore[method-assign]


class TooMuch:
    """Batch `at` needs more memory than there is."""

    def __init__(self, n: int = 10, at: int = 4) -> None:
        self.n, self.at = n, at

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> int:
        if i == self.at:
            np.zeros(1 << 62, np.uint8)
        return i
