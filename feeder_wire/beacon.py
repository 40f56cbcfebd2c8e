"""What a worker is at, told without a message: sixteen bytes of a mapped file, written before each task, readable after its death.

Results of quick batches are gathered before they are sent, so when a worker dies the node can't tell from the answers that came
which of the tasks it held it was at. A message per task would cost more than the task; a store into a mapped page costs nothing,
and the page outlives the process, however that ended.

A task may take several *steps*: an epoch to be replayed, an item of a stream to be drawn and dropped, and then the batch. The node
measures the time of each (overdue.py). A step that isn't to be measured, such as building a copy of the source, is `UNTIMED`.
"""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path

_FORMAT = struct.Struct("<QQ")
IDLE = 0
"""No task: tasks are numbered from 1."""
UNTIMED = 0
"""A step that may take as long as it likes: others are numbered from 1, and go on counting over all tasks."""


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
        path.write_bytes(_FORMAT.pack(IDLE, UNTIMED))
        self._task, self._steps = IDLE, 0
        self.timed = False
        """Is the step that the worker is at one that is measured?"""
        with open(path, "r+b") as file:
            self._map = mmap.mmap(file.fileno(), _FORMAT.size)

    def mark(self, task: int) -> None:
        """The worker begins `task`, or with `IDLE` has none."""
        self._task = task
        self.step(timed=task != IDLE)

    def step(self, timed: bool) -> None:
        """The next step of the task begins."""
        self.timed = timed
        self._steps += timed
        # Who reads while this is written may see half of it: that is another step to him, and the next look tells.
        _FORMAT.pack_into(self._map, 0, self._task, self._steps if timed else UNTIMED)

    def close(self) -> None:
        """Unmap it; the file stays for the node."""
        self._map.close()


def read(directory: str | os.PathLike[str], slot: int, generation: int) -> int | None:
    """What the worker was at: a task, `IDLE`, or None where that can't be told (it died before it made the file)."""
    found = read_step(directory, slot, generation)
    return None if found is None else found[0]


def read_step(directory: str | os.PathLike[str], slot: int, generation: int) -> tuple[int, int] | None:
    """What the worker is at: a task or `IDLE`, and the step of it or `UNTIMED`; None where that can't be told."""
    try:
        task, step = _FORMAT.unpack(_path(directory, slot, generation).read_bytes())
    except (OSError, struct.error):
        return None
    return task, step


def remove(directory: str | os.PathLike[str], slot: int, generation: int) -> None:
    """The worker is gone and its last word was read."""
    try:
        _path(directory, slot, generation).unlink(missing_ok=True)
    except OSError:  # Windows, somebody looks at it: it goes with the directory
        pass
