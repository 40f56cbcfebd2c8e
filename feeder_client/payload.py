"""A batch that has come and was not looked at yet, and the loan of arena blocks behind it.

A batch in a block is handed out as views of the block itself. When the last view dies, `weakref.finalize` on the array that owns
them puts the block's name into the loan's `returned`, from whatever thread drops the last reference; the receiver thread sends it
home. Never by count and never at the next call: TensorFlow and JAX keep and read such arrays long after (docs/architecture.md).
"""

from __future__ import annotations

import mmap
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from feeder_client.pinned import Pins, asked
from feeder_wire import codec
from feeder_wire.arena import ArenaReader
from feeder_wire.errors import FeederError
from feeder_wire.messages import Lent

Bytes = npt.NDArray[np.uint8]

PUT_OFF = 8
"""One part in so many of what the caller may have in hand is sent home with the next thing that the receiver does."""


class Loan:
    """The blocks that one node has lent this client.

    Args:
        reader: maps the node's arena.
        limit_bytes: above this much in the caller's hands, batches are copied out and their blocks go home at once, so that a
            caller who keeps every batch can't starve the node.
        wake: called when there is enough to send home to be worth it, from any thread.
    """

    def __init__(self, reader: ArenaReader, limit_bytes: int, wake: Callable[[], None]) -> None:
        self.reader = reader
        self.returned: deque[str] = deque()  # appended to from any thread: deque.append is atomic
        self._limit = limit_bytes
        self._wake = wake
        self._sizes: dict[str, int] = {}  # of all blocks in hand
        self._handed: dict[str, int] = {}  # of those whose views the caller has
        self._pins: Pins | None = None  # who page-locks them, where that is wanted

    @property
    def holds(self) -> tuple[str, ...]:
        """Blocks that this client has and did not send home."""
        return tuple(self._sizes)

    @property
    def held_bytes(self) -> int:
        """Bytes of the blocks in hand."""
        return sum(list(self._sizes.values()))

    def accept(self, lent: Lent) -> mmap.mmap:
        """A block has come. Raises ProtocolError where it can't be mapped."""
        mapped = self.reader.map(lent.block, lent.size)
        self._sizes[lent.block] = lent.size
        return mapped

    def memory(self, block: str, mapped: mmap.mmap) -> tuple[mmap.mmap | memoryview, Callable[[str], None]]:
        """What views of a block are made of, and what is to be called when the last one has died: see pinned.py."""
        self._pins = asked() or self._pins
        pages = None if self._pins is None else self._pins.pages(self, block, mapped)
        return (mapped, self.give_back) if pages is None else (pages.data, partial(pages.release, self.give_back))

    def forget(self, blocks: Sequence[str]) -> None:
        """These blocks are gone; views of them keep what they need."""
        if self._pins is not None:
            self._pins.forget(self, blocks)
        self.reader.forget(blocks)

    def give_back(self, block: str) -> None:
        """Nobody looks at this block any more. From any thread."""
        self._handed.pop(block, None)
        size = self._sizes.pop(block, 0)
        self.returned.append(block)
        # The receiver sends home what there is whenever it looks up, and it does so at least four times a second.
        if len(self.returned) * size * PUT_OFF >= self._limit:
            self._wake()

    def hand_out(self, block: str) -> bool:
        """May the caller have views of this block? False: too much is in its hands already, copy the batch.

        What has come and was not taken yet doesn't count: the window bounds that.
        """
        size = self._sizes.get(block, 0)
        if self._handed and sum(list(self._handed.values())) + size > self._limit:
            return False
        self._handed[block] = size
        return True


@dataclass(slots=True)
class Owned:
    """A batch in memory of our own."""

    head: bytes
    data: Bytes
    nbytes: int

    def open(self) -> object:
        """The batch."""
        return codec.decode(self.head, self.data)

    def drop(self) -> None:
        """Nobody will look at it."""


@dataclass(slots=True)
class Borrowed:
    """A batch in a block of the arena."""

    head: bytes
    mapped: mmap.mmap
    nbytes: int
    block: str
    loan: Loan

    def open(self) -> object:
        """The batch: views of the block, or of a copy where the caller holds too many."""
        memory, home = self.loan.memory(self.block, self.mapped)
        block: Bytes = np.frombuffer(memory, np.uint8, self.nbytes)
        if not self.loan.hand_out(self.block):
            data = codec.aligned_empty(self.nbytes)
            np.copyto(data, block)
            self.loan.give_back(self.block)
            return codec.decode(self.head, data)
        # At exit the process' mappings go anyway, and the receiver thread is gone: nothing to call.
        weakref.finalize(block, home, self.block).atexit = False
        return codec.decode(self.head, block)

    def drop(self) -> None:
        """Nobody will look at it: send it home."""
        self.loan.give_back(self.block)


@dataclass(slots=True)
class Broken:
    """A batch that can't be had. `skippable`: that is a matter of this batch, and not of what serves it."""

    error: FeederError
    nbytes: int = 0
    skippable: bool = False

    def open(self) -> object:
        """Raises the error."""
        raise self.error

    def drop(self) -> None:
        """Nobody will hear of it."""


Payload = Owned | Borrowed | Broken


def small(data: bytes) -> Bytes:
    """A copy of `data` that starts at a 64-byte-aligned address."""
    out = codec.aligned_empty(len(data))
    out[:] = np.frombuffer(data, np.uint8)
    return out
