"""A position in the data, and how it moves on by a batch. PURE. See position.py."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from feeder_client.seen import Seen


@dataclass(slots=True)
class Place:
    """A position in an indexed source, or in a stream with a length.

    Attributes:
        epoch: passes over the data before this one.
        given: batches of this epoch that were given.
        shuffled: whether they come in our permutation.
        next_k: place in that.
        expect_shuffle: whether the next epoch will be.
    """

    epoch: int = 0
    given: Seen = field(default_factory=Seen)
    shuffled: bool = False
    next_k: int = 0
    expect_shuffle: bool = False

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        given = [self.given.start, self.given.run, self.given.rest]
        return {"epoch": self.epoch, "given": given, "shuffled": self.shuffled, "next": self.next_k, "expect_shuffle": self.expect_shuffle}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Place:
        """Read what `to_json` wrote. Raises ValueError, TypeError or KeyError for anything else."""
        numbers = [data["epoch"], data["next"]]
        if not all(type(n) is int and 0 <= n < 1 << 63 for n in numbers) or type(data["shuffled"]) is not bool:
            raise ValueError("not a position")
        return cls(data["epoch"], seen_from(data["given"]), data["shuffled"], data["next"], bool(data["expect_shuffle"]))


def seen_from(data: Any) -> Seen:
    """A `Seen` from [start, run, rest]. Raises ValueError or TypeError."""
    start, run, rest = data
    if not all(type(n) is int and 0 <= n < 1 << 63 for n in (start, run, *rest)) or run < start:
        raise ValueError("not a set of batches")
    return Seen(start, run, rest)


@dataclass(frozen=True, slots=True)
class Mark:
    """What one batch changes about a `Place`.

    Attributes:
        index: of the batch.
        opening: set for the first batch of an epoch: what counted as given before it.
        cut: the epoch before was left in the middle, so what was read ahead of it is not going to be used.
    """

    epoch: int
    index: int
    shuffled: bool
    next_k: int
    expect_shuffle: bool
    opening: Seen | None
    cut: bool


def follow(place: Place, mark: Mark) -> Place:
    """A `Place` after one batch more; may change the one before."""
    if mark.opening is not None:
        place = Place(mark.epoch, mark.opening.copy())
    place.given.add(mark.index)
    place.shuffled, place.next_k, place.expect_shuffle = mark.shuffled, mark.next_k, mark.expect_shuffle
    return place


@dataclass(slots=True)
class StreamPlace:
    """A position in a stream.

    Attributes:
        place: in a pass of `steps` batches.
        run: of the source.
        parts: by (node, worker): places of that worker's part of the run that were given.
    """

    place: Place = field(default_factory=Place)
    run: int = 0
    parts: dict[tuple[int, int], Seen] = field(default_factory=dict)

    def copy(self) -> StreamPlace:
        """Another one that changes by itself."""
        place = Place(
            self.place.epoch, self.place.given.copy(), self.place.shuffled, self.place.next_k, self.place.expect_shuffle
        )  # fmt: skip
        return StreamPlace(place, self.run, {key: seen.copy() for key, seen in self.parts.items()})


@dataclass(frozen=True, slots=True)
class StreamMark:
    """What one batch changes about a `StreamPlace`: it was batch `place` of `part`, a (node, worker)."""

    run: int
    part: tuple[int, int]
    place: int
    mark: Mark | None

    @property
    def cut(self) -> bool:
        """See `Mark`."""
        return self.mark is not None and self.mark.cut


def follow_stream(position: StreamPlace, mark: StreamMark) -> StreamPlace:
    """A `StreamPlace` after one batch more; changes the one before."""
    if mark.run != position.run:
        position.run, position.parts = mark.run, {}
    position.parts.setdefault(mark.part, Seen()).add(mark.place)
    if mark.mark is not None:
        position.place = follow(position.place, mark.mark)
    return position
