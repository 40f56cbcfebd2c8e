"""A log that says the same thing again and again: each of the first times, then less and less often, for it must not fill the disk."""

from __future__ import annotations


class Sparing:
    """Counts the lines of one kind.

    Args:
        first: so many have a line each; after them only every power of two.
    """

    def __init__(self, first: int) -> None:
        self._first = first
        self._count = 0

    def next(self) -> str | None:
        """What is to be added to the next line; None: leave it out."""
        self._count += 1
        if self._count <= self._first:
            return ""
        if self._count & (self._count - 1):
            return None
        return f" (the {self._count}th of its kind since the start; most are not named any more)"
