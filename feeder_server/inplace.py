"""`feeder_server.empty`: arrays that lie where the batch has to be in the end, so that nothing is copied when it is returned.

    def __getitem__(self, i):
        x = feeder_server.empty((64, 224, 224, 3), np.float32)
        np.stack([load(f) for f in self.files[i]], out=x)
        return x, self.y[i]

While a worker makes an item, they lie in a block of the arena. What is returned of them stays where it is, and everything else of the
batch is copied behind it. The block is lent to the client only when nobody in this process can write to it any more: where an array, or a
view of it, is still alive after the item was made (kept in an attribute, held by a generator that is in the middle of its loop), the batch
is copied after all. So it is never wrong to use it, and to return only a part, or nothing of it.
"""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from feeder_wire.arena import ArenaFullError, ArenaWriter, Block
from feeder_wire.codec import ALIGNMENT, Encoded
from feeder_wire.fields import INLINE_BYTES

Array = np.ndarray[Any, Any]

FIRST_TAIL = 64 * 1024
"""Room behind the first array, in bytes, while it isn't known what else there is in a batch."""

_scratch: Scratch | None = None  # of this process, if it is a worker


def empty(shape: int | Sequence[int], dtype: DTypeLike = float, order: str = "C") -> Array:
    """An uninitialised array, as `numpy.empty` gives it; in a worker that makes an item, one that needn't be copied when it is returned.

    Worth it from some 100 kB on, and for the largest arrays of a batch. Outside a worker, in other threads than the one that makes
    the item, for objects, and where there is no room, it is `numpy.empty`.

    Args:
        shape: of the array.
        dtype: of its elements.
        order: ``"C"`` or ``"F"``.
    """
    if _scratch is not None:
        made = _scratch.empty(shape, np.dtype(dtype), order)
        if made is not None:
            return made
    return np.empty(shape, dtype, order)  # type: ignore[call-overload,no-any-return]


def use(scratch: Scratch | None) -> None:
    """This process is a worker, and makes its batches there."""
    global _scratch
    _scratch = scratch


class _Piece:
    """A block, and who looks at it: every array and view in it has a reference to `root`."""

    def __init__(self, block: Block) -> None:
        self.block = block
        self.root: Any = np.frombuffer(block.view, np.uint8)
        self.address: int = self.root.__array_interface__["data"][0]
        self._alone = self._references()  # how many that is depends on the interpreter

    def _references(self) -> int:
        return sys.getrefcount(self.root)

    @property
    def seen(self) -> bool:
        """Does anybody have a view of it?"""
        return self._references() > self._alone


class Scratch:
    """The block in which the item under way is made.

    Args:
        arena: of this worker.
    """

    def __init__(self, arena: ArenaWriter) -> None:
        self._arena = arena
        self._thread = threading.get_ident()
        self._active = False
        self._piece: _Piece | None = None
        self._claimed: list[tuple[int, int]] = []
        self._kept: list[_Piece] = []  # blocks of items gone by that somebody still has a view of
        self._need = 0  # bytes that the last items needed
        self.end = 0
        """Where the block is free."""

    def begin(self) -> None:
        """An item is made from now on."""
        self._active = True

    def empty(self, shape: int | Sequence[int], dtype: np.dtype[Any], order: str) -> Array | None:
        """An array in the block; None: not now, or not here."""
        if not self._active or dtype.hasobject or threading.get_ident() != self._thread:
            return None
        nbytes = dtype.itemsize * (math.prod(shape) if isinstance(shape, Sequence) else shape)
        if self._piece is None and nbytes > INLINE_BYTES:
            self._piece = self._take(max(nbytes + FIRST_TAIL, self._need))
        if self._piece is None or nbytes <= 0:
            return None
        offset = -(-self.end // ALIGNMENT) * ALIGNMENT
        if offset + nbytes > self._piece.block.size:
            self._need = max(self._need, offset + nbytes + FIRST_TAIL)  # there will be room the next time
            return None
        self.end = offset + nbytes
        return np.ndarray(shape, dtype, self._piece.root, offset, None, order)  # type: ignore[arg-type]

    def _take(self, nbytes: int) -> _Piece | None:
        done = [piece for piece in self._kept if not piece.seen]
        self._kept = [piece for piece in self._kept if piece not in done]
        self._arena.give_back(piece.block.name for piece in done)
        self.end = 0
        try:
            return _Piece(self._arena.take(nbytes))
        except ArenaFullError:
            return None

    @property
    def used(self) -> bool:
        """Has the item under way asked for an array?"""
        return self._piece is not None

    def offset_of(self, array: Array) -> int | None:
        """Where an array of the batch lies in the block; None: it doesn't, or not so that it can stay there."""
        if self._piece is None:
            return None
        first: int = array.__array_interface__["data"][0] - self._piece.address
        last = first + array.nbytes
        if not 0 <= first < last <= self.end or first % ALIGNMENT or not (array.flags.c_contiguous or array.flags.f_contiguous):
            return None
        if any(first < stop and start < last for start, stop in self._claimed):
            return None  # it stands in the batch twice, and arrives as two arrays
        self._claimed.append((first, last))
        return first

    def lend(self, encoded: Encoded) -> Block | None:
        """Complete the batch in the block, and give the block away. None: it doesn't fit in.

        The caller has no reference to the batch any more, and `encoded` can't be written afterwards.
        """
        self._need = max(encoded.nbytes, int(0.95 * self._need))
        piece = self._piece
        if piece is None or not encoded.placed or encoded.nbytes > piece.block.size:
            return None
        nbytes = encoded.nbytes
        encoded.write_rest(piece.root)
        encoded.drop()
        if piece.seen:
            copy = self._arena.take(nbytes)
            np.frombuffer(copy.view, np.uint8)[:nbytes] = piece.root[:nbytes]
            return copy
        self._piece = None
        return piece.block

    def finish(self) -> None:
        """The item is made, or has failed."""
        self._active = False
        self._claimed.clear()
        if self._piece is not None:
            self._kept.append(self._piece)  # somebody may have a view of it, an error's traceback for one
            self._piece = None
