"""A set of whole numbers that mostly come in sequence. PURE."""

from __future__ import annotations

from collections.abc import Iterable


class Seen:
    """A set of whole numbers that mostly come in sequence: what is from `start` to below `run` is in it, the rest is kept one by one."""

    __slots__ = ("_rest", "run", "start")

    def __init__(self, start: int = 0, run: int | None = None, rest: Iterable[int] = ()) -> None:
        self.start = start
        self.run = start if run is None else run
        self._rest: set[int] = set()
        for i in rest:
            self.add(i)

    def add(self, i: int) -> None:
        """Put `i` in."""
        if i == self.run:
            self.run += 1
            while self.run in self._rest:
                self._rest.remove(self.run)
                self.run += 1
        elif not self.start <= i < self.run:
            self._rest.add(i)

    def missing(self, k: int) -> int:
        """The `k`-th number from `start` on that is not in it, counted from 0."""
        found = self.run + k
        for i in sorted(self._rest):
            if i > found:
                break
            found += 1
        return found

    @property
    def rest(self) -> list[int]:
        """What is in it beyond `run`, ascending."""
        return sorted(self._rest)

    def copy(self) -> Seen:
        """Another one with the same numbers."""
        return Seen(self.start, self.run, self._rest)

    def __contains__(self, i: object) -> bool:
        return (type(i) is int and self.start <= i < self.run) or i in self._rest

    def __len__(self) -> int:
        return self.run - self.start + len(self._rest)

    def __repr__(self) -> str:
        return f"<Seen {self.start} to {self.run}{''.join(f', {i}' for i in self.rest)}>"


class Tally:
    """What was asked for, by Keras' indices, and what was given for it, by ours: they differ where Keras shuffles."""

    __slots__ = ("asked", "given")

    def __init__(self, asked: int = 0, given: int | Seen = 0) -> None:
        self.asked = Seen(asked)
        self.given = given.copy() if isinstance(given, Seen) else Seen(given)

    def add(self, asked: int, given: int) -> None:
        self.asked.add(asked)
        self.given.add(given)

    def __len__(self) -> int:
        return len(self.asked)
