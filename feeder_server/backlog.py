"""How much of what was sent to one connection has not left yet: ZeroMQ takes everything, and doesn't say.

    sent(n) ... sent(n), due ──▶ send that one with a tracker ──▶ mark(tracker) ... the tracker is done: all before it has left, too

What goes into one connection leaves in order, so one tracker now and then is enough, and small messages cost nothing more.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

MARK_BYTES = 256 * 1024


class Tracker(Protocol):
    """What of `zmq.MessageTracker` is used."""

    @property
    def done(self) -> bool:
        """Has it left?"""


class Backlog:
    """See the module."""

    def __init__(self) -> None:
        self._sent = self._left = self._marked = 0  # bytes: all, those that have left, those up to the last mark
        self._marks: deque[tuple[Tracker, int]] = deque()

    def sent(self, nbytes: int) -> None:
        """So many bytes more were handed over."""
        self._sent += nbytes

    @property
    def due(self) -> bool:
        """Should the next message have a tracker?"""
        return self._sent - self._marked >= MARK_BYTES

    def mark(self, tracker: Tracker) -> None:
        """The message handed over last has this tracker."""
        self._marked = self._sent
        self._marks.append((tracker, self._sent))

    @property
    def nbytes(self) -> int:
        """Bytes that may still be here; what has gone since the last mark counts as here."""
        while self._marks and self._marks[0][0].done:
            self._left = self._marks.popleft()[1]
        return self._sent - self._left
