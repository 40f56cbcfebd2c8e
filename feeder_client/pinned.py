"""Page-locked blocks, for torch on CUDA: memory that the device fetches by itself, at the full speed of the bus and while others compute.

    asking() ── get() ──▶ Borrowed.open ──▶ Pins.pages()        registers the mapping of a block with CUDA, once
                                              │ views            (cudaHostRegister, some ms; as often as there are blocks)
                          last view dies ─────┴▶ Pages.release() the block goes home when the device has done what was asked of it so far
                          block forgotten ─────▶ Pins.forget()   unregistered, before it is unmapped

**Why a block waits for the device.** ``tensor.to(device, non_blocking=True)`` returns before a page-locked tensor was read. torch knows of
such copies from memory that it has locked itself, and keeps that back; of ours it knows nothing, and the tensor is mostly dropped at
once. A block that went home then would be written again under the copy. So an event is recorded on the current stream (and the default
one) of each device in use when the last view dies, and the block goes home after it. What this can't see is a copy on a stream of the
user's own that is neither current when the tensor dies nor waited for by one that is: see docs/operations.md.

**Order of death.** A view holds the array of its batch, which holds the array of the pages, which holds the mapping. An array tells its
weak references before it lets go of what it is made of; a mapping unmaps first and tells afterwards. Hence `Pages` in between.

Nothing here imports torch: where nobody has, nobody wants this.
"""

from __future__ import annotations

import logging
import mmap
import queue
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np

log = logging.getLogger("feeder.client")

LEAST_BYTES = 1 << 20
"""Smaller blocks aren't worth a call of CUDA's."""
MOST_BYTES = 4 << 30
"""Page-locked memory is taken from everybody on the machine; what is above this stays as it was."""
ALREADY_REGISTERED = 712
_JOIN_SECONDS = 5.0


class Mark(Protocol):
    """A moment in what the device was asked to do."""

    def done(self) -> bool:
        """Has it come so far?"""

    def wait(self) -> None:
        """Until it has."""


class Runtime(Protocol):
    """What is asked of CUDA. The numbers are its error codes; 0: none."""

    def register(self, address: int, size_bytes: int) -> int:
        """Lock these pages."""

    def unregister(self, address: int) -> int:
        """Let them go."""

    def mark(self) -> Mark | None:
        """Now; None: it can't be said at this moment (a graph is being captured)."""


class Pages:
    """The registered mapping of one block. Views are made of `data`."""

    def __init__(self, mapped: mmap.mmap, pins: Pins) -> None:
        self._pins = pins
        array = np.frombuffer(mapped, np.uint8)
        self.address = int(array.__array_interface__["data"][0])
        # A memoryview, so that a view's base is no array: see `decode` in codec.py.
        self.data = array.data
        self.array = array

    def release(self, give_back: Callable[[str], None], block: str) -> None:
        """The last view has died: `give_back` the block when the device is done with it. From any thread, in the middle of anything."""
        self._pins._release(_Home(self, give_back, block))


@dataclass(frozen=True, slots=True)
class _Home:
    """A block on its way home. Its pages stay registered until it is there."""

    pages: Pages
    give_back: Callable[[str], None]
    block: str

    def go(self) -> None:
        self.give_back(self.block)


_Later = queue.SimpleQueue["tuple[Mark, list[_Home]] | None"]


class Pins:
    """The page-locked blocks of one client.

    Args:
        runtime: CUDA, or what stands for it.
        least_bytes, most_bytes: of one block; of all of them.
    """

    def __init__(self, runtime: Runtime, least_bytes: int = LEAST_BYTES, most_bytes: int = MOST_BYTES) -> None:
        self._runtime = runtime
        self._least, self._most = least_bytes, most_bytes
        self._sizes: dict[int, int] = {}  # by address
        self._kept: weakref.WeakKeyDictionary[object, dict[str, Pages]] = weakref.WeakKeyDictionary()
        self._off = self._closed = False
        self._later: _Later = queue.SimpleQueue()
        self._unmarked: list[_Home] = []  # released at a moment without a mark: the next one is theirs, too
        self._thread: threading.Thread | None = None

    @property
    def held_bytes(self) -> int:
        """Bytes that are registered now."""
        return sum(list(self._sizes.values()))

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Batches that this thread opens meanwhile come page-locked, where that is possible."""
        before = asked()
        _asking.pins = self
        try:
            yield
        finally:
            _asking.pins = before

    def pages(self, owner: object, block: str, mapped: mmap.mmap) -> Pages | None:
        """The mapping of a block, registered; None: it stays as it is. Only in `asking` it is registered anew.

        Args:
            owner: whose block it is; with it, what it has goes.
            block: its name.
            mapped: its mapping.
        """
        kept = self._kept.setdefault(owner, {})
        found = kept.get(block)
        if found is None and asked() is self and not self._off and not self._closed:
            found = self._register(mapped)
            if found is not None:
                kept[block] = found
        return found

    def _register(self, mapped: mmap.mmap) -> Pages | None:
        size = len(mapped)
        if size < self._least or self.held_bytes + size > self._most:
            return None
        made = Pages(mapped, self)
        try:
            if self._thread is None:
                self._runtime.mark()  # what can't be waited for must not be locked
            code = self._runtime.register(made.address, size)
            why = f"CUDA error {code} for {size / 1e6:.1f} MB"
        except Exception as e:  # a torch that is built otherwise: nothing that a training should end for
            code, why = -1, f"{type(e).__name__}: {e}"
        if code not in (0, ALREADY_REGISTERED):
            self._off = True
            log.warning("batches can't be page-locked, and are copied to the device as ever: %s", why)
            return None
        if code == 0:
            self._sizes[made.address] = size
            weakref.finalize(made.array, self._unregister, made.address).atexit = False
        if self._thread is None:
            # Not when the first block is released: that may happen in the middle of anything, and a start takes locks.
            log.info("batches lie in page-locked memory from now on")
            self._thread = threading.Thread(target=_wait_for_the_device, args=(self._later,), name="feeder-pinned", daemon=True)
            self._thread.start()
        return made

    def _unregister(self, address: int) -> None:
        self._sizes.pop(address, None)
        code = self._runtime.unregister(address)
        if code:
            log.debug("page-locked memory could not be let go: CUDA error %d", code)

    def forget(self, owner: object, blocks: Iterable[str]) -> None:
        """These blocks are gone. What nobody looks at is unregistered now, the rest with its last view."""
        kept = self._kept.get(owner, {})
        for block in blocks:
            kept.pop(block, None)

    def _release(self, home: _Home) -> None:
        try:
            mark = self._runtime.mark()
        except RuntimeError as e:  # the device is lost, and the training with it
            log.debug("no mark in the device's work: %s", e)
            mark = None
        if mark is None:
            self._unmarked.append(home)
            return
        due = [home]
        while self._unmarked:
            due.append(self._unmarked.pop())
        if mark.done():
            _all(due)
        elif self._closed:  # nobody else is there to wait
            mark.wait()
            _all(due)
        else:
            self._later.put((mark, due))

    def close(self) -> None:
        """No more pages are locked; those of views that are alive go with them. May be called again."""
        self._closed = True
        thread, self._thread = self._thread, None
        if thread is not None:
            self._later.put(None)
            thread.join(_JOIN_SECONDS)
            if not thread.is_alive() and not self._later.empty():  # released while this closed
                self._later.put(None)
                _wait_for_the_device(self._later)
        self._kept.clear()


_asking = threading.local()


def asked() -> Pins | None:
    """Whose `asking` this thread is in."""
    found: Pins | None = getattr(_asking, "pins", None)
    return found


def _wait_for_the_device(later: _Later) -> None:
    while (item := later.get()) is not None:
        mark, due = item
        try:
            mark.wait()
        except RuntimeError as e:  # the device is lost, and copies nothing any more
            log.warning("waiting for the device failed: %s", e)
        _all(due)
        del item, mark, due  # nothing of them is held while this waits for the next


def _all(due: list[_Home]) -> None:
    for home in due:
        home.go()
