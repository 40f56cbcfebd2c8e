"""The node's end of the arena: its folders, from the sweep at the start to their removal at the end. See feeder_wire/directories.py."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Collection, Iterable
from pathlib import Path

from feeder_wire import beacon
from feeder_wire import worker_messages as w
from feeder_wire.arena import ArenaReader
from feeder_wire.directories import PrivateDirectory, free_bytes, parents, shared_memory, sweep

log = logging.getLogger("feeder.node")


class Folders:
    """The folders that the workers put blocks into, and what is done with the files there.

    Args:
        need_bytes: room that shared memory must have to be used at all.

    Attributes:
        nonce: what a client has to find in the file ``nonce`` of the first folder to be believed that it can map blocks.
        reader: maps blocks, for those that are sent in parts.
    """

    def __init__(self, need_bytes: int) -> None:
        self.nonce = secrets.token_hex(16)
        self._directories: list[PrivateDirectory] = []
        self._doomed: set[str] = set()  # could not be removed yet (Windows, still mapped)
        self._said_full = False
        places = parents(need_bytes)
        _say_if_passed_over(places, need_bytes)
        for path in sweep(places):
            log.info("removed %s, left behind by a server that was killed", path)
        for place in places:
            try:
                made = PrivateDirectory(place)
            except OSError as e:
                log.warning("no arena in %s: %s", place, e.strerror)
                continue
            self._directories.append(made)
            self._put_nonce(made)
        self.reader = ArenaReader(self.paths)

    def _put_nonce(self, directory: PrivateDirectory) -> None:
        try:
            (directory.path / "nonce").write_text(self.nonce, encoding="ascii")
        except OSError as e:  # then clients get bytes over the socket
            log.warning("nothing can be written in %s: %s", directory.path, e.strerror)

    @property
    def paths(self) -> tuple[str, ...]:
        """Where they are, best first."""
        return tuple(str(directory.path) for directory in self._directories)

    def notice(self, made: w.Made | w.MadeBlock) -> None:
        """A batch was made. Where blocks begin to go into the second folder, say so, once: it may be slower, and nobody would know why."""
        if not self._said_full and isinstance(made, w.MadeBlock) and made.block[0] != "0":
            self._said_full = True
            first, second = self.paths
            free = free_bytes(first) / 1e6
            log.warning("no room in %s (%.0f MB are free): batches go through %s, which may be slower", first, free, second)

    def blocks_of(self, slot: int, generation: int, keep: Collection[str]) -> tuple[str, ...]:
        """Names of the blocks that one worker made, but for those in `keep`."""
        found = []
        for place, directory in enumerate(self._directories):
            found += [p.name for p in directory.path.glob(f"{place}-{slot}-{generation}-*") if p.name not in keep]
        return tuple(found)

    def remove(self, names: Iterable[str]) -> None:
        """Remove blocks; who has one mapped keeps its content."""
        names = tuple(names)
        self.reader.forget(names)
        self._doomed.update(names)
        self.tidy()

    def tidy(self) -> None:
        """Try again what couldn't be removed: Windows removes no file that is mapped, and clients hear that it is to go only then."""
        if self._doomed:
            self._doomed = {name for name in self._doomed if not self._unlink(name)}

    def _unlink(self, name: str) -> bool:
        try:
            (self._directories[int(name[0])].path / name).unlink(missing_ok=True)
        except OSError:
            return False
        return True

    def step(self, slot: int, generation: int) -> tuple[int, int] | None:
        """What a worker is at, see `beacon.read_step`."""
        return beacon.read_step(self._directories[0].path, slot, generation) if self._directories else None

    def last_task(self, slot: int, generation: int) -> int | None:
        """What a worker that is gone was at, see beacon.py; can be asked once."""
        if not self._directories:
            return None
        where = (self._directories[0].path, slot, generation)
        task = beacon.read(*where)
        beacon.remove(*where)
        return task

    def close(self) -> None:
        """Remove them, with all that is in them."""
        for directory in self._directories:
            directory.close()


def _say_if_passed_over(places: list[Path], need_bytes: int) -> None:
    shm = shared_memory()
    if not shm or Path(shm) in places:
        return
    if os.access(shm, os.W_OK | os.X_OK):
        why = f"{shm} has {free_bytes(shm) / 1e6:.0f} MB free, and --memory is {need_bytes / 1e6:.0f} MB"
    else:
        why = f"nothing can be written in {shm}"
    log.warning("shared memory is not used, for %s; batches go through %s, which may be slower", why, places[-1])
