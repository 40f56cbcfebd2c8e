"""The arena: memory-mapped blocks that a batch is written to once. Both ends of the layout.

Who owns a block, and when:

    worker (ArenaWriter)                 node                            client (ArenaReader)
    take() ── writes ── MadeBlock ─────▶ forwards Lent ────────────────▶ map(), hands out views
    give_back() ◀────── Free ─────────── accounts ◀────── Release ────── the last view has died
    retire()    ◀────── Retire ───────── the client was lost: it may still be looking at the block, so it is never written again

Between `take` and `give_back` the worker does not touch the block. The message that names a block is sent after the last byte
was written, and a socket orders memory, so a reader sees all of it. A block is a plain file of a private directory (mode 0700):
in /dev/shm where there is room, else in the temporary directory. `multiprocessing.shared_memory` is not used: its resource
tracker removes blocks of other processes before Python 3.13, and its rules for a block's life differ on Windows. How a directory lives and
dies is in directories.py.
"""

from __future__ import annotations

import logging
import mmap
import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from feeder_wire.directories import free_bytes
from feeder_wire.errors import ProtocolError
from feeder_wire.fields import BLOCK_NAME
from feeder_wire.mapping import CREATE_FLAGS, OPEN_FLAGS, map_file, unmap

log = logging.getLogger("feeder.arena")


class ArenaFullError(Exception):
    """No directory of the arena has room for a block; the text says how much was asked for and what is free where."""


def block_size(nbytes: int) -> int:
    """Size of the block for a payload: whole pages, in eight steps per doubling, so that like sizes share blocks (waste below 1/8)."""
    step = max(mmap.PAGESIZE, 1 << max(0, nbytes.bit_length() - 4))
    return max(step, -(-nbytes // step) * step)


@dataclass(slots=True)
class Block:
    """A block in its writer's hands: `view` is writable and `size` bytes long."""

    name: str
    size: int
    view: mmap.mmap


class ArenaWriter:
    """A worker's end: makes blocks, hands them out, takes them back. One thread.

    Args:
        directories: the node's arena, best first.
        slot, generation: name the worker, so that blocks of a restarted one never have the name of an old one.
        budget_bytes: above this many bytes of blocks, free ones of the wrong size are removed before a new one is made.
    """

    def __init__(self, directories: Sequence[str], slot: int, generation: int, budget_bytes: int) -> None:
        self._directories = [Path(d) for d in directories]
        self._stem = f"{slot}-{generation}"
        self._budget = budget_bytes
        self._count = 0
        self._free: list[Block] = []  # oldest first
        self._lent: dict[str, Block] = {}
        self._doomed: list[str] = []  # could not be removed yet (Windows, still mapped)
        self.dropped: list[str] = []
        """Names of blocks removed since the caller last emptied the list: readers should forget their mappings."""

    def take(self, nbytes: int) -> Block:
        """A block of at least `nbytes`, the caller's until it is lent.

        Raises:
            ArenaFullError: there is no room in any directory, also after the free blocks were removed.
        """
        size = block_size(nbytes)
        block = self._reuse(size)
        if block is None:
            self._shrink(size)
            block = self._make(size)
        self._lent[block.name] = block
        return block

    def _reuse(self, size: int) -> Block | None:
        while fits := [b for b in self._free if size <= b.size <= 2 * size]:
            block = min(reversed(fits), key=lambda b: b.size)  # of like sizes the one given back last: it may still be in the cache
            self._free.remove(block)
            # A cleaner of /tmp, or systemd's RemoveIPC, may have taken the file away; then no new reader could map it.
            if os.path.exists(os.path.join(self._directories[int(block.name[0])], block.name)):
                return block
            self._discard(block)
        return None

    def give_back(self, names: Iterable[str]) -> None:
        """The readers are done with these blocks. Unknown names are ignored: they belonged to an earlier worker."""
        for name in names:
            block = self._lent.pop(name, None)
            if block is not None:
                self._free.append(block)

    def retire(self, names: Iterable[str]) -> None:
        """Never write these blocks again: remove them. A reader's mapping keeps its content as long as it wants."""
        for name in names:
            block = self._lent.pop(name, None)
            if block is not None:
                self._discard(block)

    def owned_bytes(self) -> int:
        """Bytes of all blocks, free and lent."""
        return sum(b.size for b in self._free) + sum(b.size for b in self._lent.values())

    def close(self) -> None:
        """Unmap everything. The files go with the node's directory."""
        for block in (*self._free, *self._lent.values()):
            unmap(block.view)
        self._free.clear()
        self._lent.clear()

    def _shrink(self, size: int) -> None:
        self._doomed = [name for name in self._doomed if not self._unlink(name)]
        while self._free and self.owned_bytes() + size > self._budget:
            self._discard(self._free.pop(0))

    def _make(self, size: int) -> Block:
        try:
            return self._create(size)
        except ArenaFullError:
            if not self._free:
                raise
        while self._free:
            self._discard(self._free.pop())
        return self._create(size)

    def _create(self, size: int) -> Block:
        for place, directory in enumerate(self._directories):
            self._count += 1
            name = f"{place}-{self._stem}-{self._count}"
            try:
                view = map_new(directory / name, size)
            except OSError as e:
                log.debug("no block of %d bytes in %s: %s", size, directory, e)
                continue
            return Block(name, size, view)
        free = ", ".join(f"{d} has {free_bytes(d) / 1e6:.0f} MB free" for d in self._directories)
        raise ArenaFullError(f"no room for a batch of {size / 1e6:.1f} MB: {free}")

    def _discard(self, block: Block) -> None:
        unmap(block.view)
        self.dropped.append(block.name)
        if not self._unlink(block.name):
            self._doomed.append(block.name)

    def _unlink(self, name: str) -> bool:
        try:
            (self._directories[int(name[0])] / name).unlink(missing_ok=True)
        except OSError:  # Windows: a reader has it mapped
            return False
        return True


def map_new(path: Path, size: int) -> mmap.mmap:
    """Make a file of `size` bytes that has its room already, and map it. Raises OSError, and leaves nothing, where it can't."""
    fd = os.open(path, CREATE_FLAGS, 0o600)
    try:
        # Reserve the pages now: running over a full tmpfs later is a SIGBUS, not an exception.
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(fd, 0, size)
        elif free_bytes(path.parent) < size:
            raise OSError("no space left")
        else:
            os.ftruncate(fd, size)
        return map_file(fd, size)
    except BaseException:
        os.close(fd)
        path.unlink(missing_ok=True)
        fd = -1
        raise
    finally:
        if fd != -1:
            os.close(fd)


class ArenaReader:
    """A reader's end: maps blocks by name and keeps the mappings, for blocks come back. One thread.

    Args:
        directories: as the node offered them: input, and checked here.
    """

    def __init__(self, directories: Sequence[str]) -> None:
        self._directories = [Path(d) for d in directories]
        self._mapped: dict[str, mmap.mmap] = {}

    def same_host(self, nonce: str) -> bool:
        """Is this the host, and the user, that the node runs on? Found out by trying: can the nonce be read, is it the one?"""
        if not nonce or not self._directories:
            return False
        try:
            for directory in self._directories:
                info = directory.lstat()
                if not stat.S_ISDIR(info.st_mode) or (hasattr(os, "getuid") and info.st_uid != os.getuid()):
                    return False  # somebody else's: it could hold anything
            with open(self._directories[0] / "nonce", encoding="ascii") as f:
                return f.read(100) == nonce
        except (OSError, ValueError):
            return False

    def map(self, name: str, size: int) -> mmap.mmap:
        """The writable mapping of a block.

        Raises:
            ProtocolError: the name is none, or the file is not there or smaller than `size`.
        """
        found = self._mapped.get(name)
        if found is not None and len(found) >= size:
            return found
        if not BLOCK_NAME.fullmatch(name) or int(name[0]) >= len(self._directories):
            raise ProtocolError(f"{name!r:.80} is not the name of a block")
        try:
            fd = os.open(self._directories[int(name[0])] / name, OPEN_FLAGS)
            try:
                if os.fstat(fd).st_size < size:
                    raise ProtocolError(f"block {name} is smaller than the {size} bytes announced")
                made = map_file(fd, size)
            finally:
                os.close(fd)
        except (OSError, ValueError) as e:
            raise ProtocolError(f"block {name} can't be mapped: {e}") from None
        self._mapped[name] = made
        return made

    def forget(self, names: Iterable[str]) -> None:
        """Drop mappings; the memory goes with the last view."""
        for name in names:
            self._mapped.pop(name, None)

    def close(self) -> None:
        """Drop all mappings. Views that are still alive stay valid."""
        self._mapped.clear()
