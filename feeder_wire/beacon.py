"""What a worker is at, told without a message: eight bytes of a mapped file, written before each task, readable after its death.

Results of quick batches are gathered before they are sent, so when a worker dies the node can't tell from the answers that came
which of the tasks it held it was at. A message per task would cost more than the task; a store into a mapped page costs nothing,
and the page outlives the process, however that ended.
"""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path

_FORMAT = struct.Struct("<Q")
IDLE = 0
"""No task: tasks are numbered from 1."""


def _path(directory: str | os.PathLike[str], slot: int, generation: int) -> Path:
    return Path(directory) / f"beacon-{slot}-{generation}"


class Beacon:
    """The worker's end.

    Args:
        directory: the first of the node's arena.
        slot, generation: name the worker.
    """

    def __init__(self, directory: str | os.PathLike[str], slot: int, generation: int) -> None:
        path = _path(directory, slot, generation)
        path.write_bytes(_FORMAT.pack(IDLE))
        with open(path, "r+b") as file:
            self._map = mmap.mmap(file.fileno(), _FORMAT.size)

    def mark(self, task: int) -> None:
        """The worker begins `task`, or with `IDLE` has none."""
        _FORMAT.pack_into(self._map, 0, task)

    def close(self) -> None:
        """Unmap it; the file stays for the node."""
        self._map.close()


def read(directory: str | os.PathLike[str], slot: int, generation: int) -> int | None:
    """What the worker was at: a task, `IDLE`, or None where that can't be told (it died before it made the file)."""
    try:
        return int(_FORMAT.unpack(_path(directory, slot, generation).read_bytes())[0])
    except (OSError, struct.error):
        return None


def remove(directory: str | os.PathLike[str], slot: int, generation: int) -> None:
    """The worker is gone and its last word was read."""
    try:
        _path(directory, slot, generation).unlink(missing_ok=True)
    except OSError:  # Windows, somebody looks at it: it goes with the directory
        pass
