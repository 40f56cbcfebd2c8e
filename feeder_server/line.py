"""How quick the line to a client is. PURE: time is an argument.

What can be seen is when the bytes of a batch have left this process. While some are always under way the line is the limit, and what leaves
per second is its speed; else it could take more, and nothing is known of it. The first moments don't count: the system's own buffer
fills up then, as fast as memory is.

Whether it is quick is found out by itself: a training that takes its time leaves the line idle in between, so its speed stays unknown, and
yet much leaves in each second.
"""

from __future__ import annotations

MEASURED_SECONDS = 0.25
"""Without a break; then that makes one measurement, and another one begins."""
KNOWN_SECONDS = 60.0
"""Lines change. And once batches are packed, the line may be no limit any more, and isn't measured."""
QUICK_SECONDS = 1.0
QUICK_RATE = 128e6
"""Bytes per second. A line is quick when so much has left in one: many times what the system's own buffer takes."""


class Line:
    """See the module."""

    def __init__(self) -> None:
        self._under_way = 0  # batches
        self._since: float | None = None  # when this measurement began; None: the buffer is still filling up
        self._busy_since = 0.0
        self._left = 0  # bytes, since then
        self._rate = 0.0
        self._measured = 0.0
        self._second = 0.0  # when the second began that is being counted
        self._second_left = 0  # bytes, in it
        self._quick = False  # by the second before

    def began(self, now: float) -> None:
        """The bytes of a batch were handed over."""
        if not self._under_way:
            self._since, self._busy_since = None, now
        self._under_way += 1

    def ended(self, now: float, nbytes: int) -> None:
        """The bytes of a batch have left."""
        self._under_way -= 1
        self._left += nbytes
        self._second_left += nbytes
        if now - self._second >= QUICK_SECONDS:
            self._quick = self._second_left >= QUICK_RATE * (now - self._second)
            self._second, self._second_left = now, 0
        if self._since is None:
            if now - self._busy_since >= MEASURED_SECONDS:
                self._since, self._left = now, 0
        elif now - self._since >= MEASURED_SECONDS:
            rate = self._left / (now - self._since)
            known = self._rate and now - self._measured < KNOWN_SECONDS
            self._rate = (self._rate + rate) / 2 if known else rate
            self._measured = self._since = now
            self._left = 0

    def rate(self, now: float) -> int:
        """Bytes per second; 0: not known, it may be as quick as it likes."""
        return max(1, int(self._rate)) if self._rate and now - self._measured < KNOWN_SECONDS else 0

    def quick(self, now: float) -> bool:
        """Is it certain that a large part leaves in no time?"""
        return self._quick and now - self._second < KNOWN_SECONDS
