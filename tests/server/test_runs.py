"""A worker's runs of a stream: places asked for again or ahead, `start_batch`, errors on the way, and what can't be replayed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from feeder_server.runs import Runs, StreamEnded
from feeder_server.source import StreamSource, build

A, B = b"a" * 16, b"b" * 16


def drawn(i: int) -> Any:
    return i, random.random(), float(np.random.rand())


class Streams:
    """Factories that note what they make."""

    def __init__(self) -> None:
        self.made: list[int] = []

    def plain(self, n: int = 6) -> Iterator[Any]:
        for i in range(n):
            self.made.append(i)
            yield drawn(i)

    def sharded(self, n: int = 12, shard_index: int = 0, num_shards: int = 1) -> Iterator[Any]:
        items = list(range(n))
        random.shuffle(items)
        for i in items[shard_index::num_shards]:
            self.made.append(i)
            yield drawn(i)

    def skipping(self, n: int = 12, shard_index: int = 0, num_shards: int = 1, start_batch: int = 0) -> Iterator[Any]:
        items = list(range(n))
        random.shuffle(items)
        for i in items[shard_index::num_shards][start_batch:]:
            self.made.append(i)
            yield drawn(i)

    def broken(self, n: int = 6, shard_index: int = 0, num_shards: int = 1) -> Any:
        def load(i: int) -> Any:
            self.made.append(i)
            if i == 2:
                raise ValueError("item 2 is broken")
            return drawn(i)

        return map(load, range(shard_index, n, num_shards))


def runs(factory: Any, slot: int = 0, slots: int = 2, incarnation: int = 0, ordered: bool = False) -> Runs:
    def take() -> StreamSource:
        source = build(factory, {}, shard=(slot, slots))
        assert isinstance(source, StreamSource)
        return source

    return Runs(take, seed=1, slot=slot, slots=slots, incarnation=incarnation, ordered=ordered)


def whole(made: Runs, run: int, session: bytes = A) -> list[Any]:
    found: list[Any] = []
    while True:
        try:
            found.append(made.next(session, run, len(found)))
        except StreamEnded:
            return found


@pytest.fixture(name="streams")
def streams_that_note() -> Streams:
    return Streams()


@pytest.mark.parametrize("name", ["sharded", "skipping"])
class TestReplayed:
    def test_any_place_by_any_incarnation(self, streams: Streams, name: str) -> None:
        """Backwards, forwards, in another run, by a worker that was restarted: the same numbers."""
        factory = getattr(streams, name)
        expected = {run: whole(runs(factory), run) for run in (0, 1)}
        assert len(expected[0]) == 6 and expected[0] != expected[1]
        made = runs(factory, incarnation=3)
        for run, place in ((0, 4), (0, 4), (0, 1), (0, 5), (0, 0), (0, 1), (1, 3), (1, 2), (1, 3)):
            assert made.next(A, run, place) == expected[run][place], (run, place)
        assert made.next(B, 0, 2) == expected[0][2], "each session has its own"

    def test_what_is_made_to_get_there(self, streams: Streams, name: str) -> None:
        made = runs(getattr(streams, name))
        made.next(A, 0, 4)
        assert len(streams.made) == (2 if name == "skipping" else 5)
        made.next(A, 0, 5)
        assert len(streams.made) == (3 if name == "skipping" else 6)

    def test_the_end_is_the_same_from_everywhere(self, streams: Streams, name: str) -> None:
        for place in (6, 7, 20):
            made = runs(getattr(streams, name))
            for _ in range(2):
                with pytest.raises(StreamEnded):
                    made.next(A, 0, place)
            assert made.next(A, 0, 5) == whole(runs(getattr(streams, name)), 0)[5], "and what lies before can still be had"

    def test_shards_fit_together(self, streams: Streams, name: str) -> None:
        """Also where one of them begins in the middle."""
        factory = getattr(streams, name)
        one, two = whole(runs(factory, 0), 2), runs(factory, 1)
        rest = [two.next(A, 2, place) for place in (3, 4, 5, 0, 1, 2)]
        assert sorted(i for i, *_ in one + rest) == list(range(12))


def test_an_error_on_the_way_counts_as_a_place(streams: Streams) -> None:
    made = runs(streams.broken, slots=1)
    assert made.next(A, 0, 4)[0] == 4  # type: ignore[index]
    with pytest.raises(ValueError, match="item 2 is broken"):
        made.next(A, 0, 2)
    assert made.next(A, 0, 3)[0] == 3  # type: ignore[index]


class TestPlain:
    def test_goes_on_whatever_is_asked_for(self, streams: Streams) -> None:
        """It can't be replayed: whoever asks again gets what comes next."""
        made = runs(streams.plain)
        assert [made.next(A, 0, place)[0] for place in (0, 1, 5, 5, 0)] == [0, 1, 2, 3, 4]  # type: ignore[index]

    def test_other_numbers_after_a_restart(self, streams: Streams) -> None:
        assert whole(runs(streams.plain), 0) != whole(runs(streams.plain, incarnation=1), 0)

    def test_in_a_fixed_order_it_is_replayed(self, streams: Streams) -> None:
        expected = whole(runs(streams.plain, ordered=True), 0)
        made = runs(streams.plain, incarnation=2, ordered=True)
        assert [made.next(A, 0, place) for place in (3, 1, 5)] == [expected[3], expected[1], expected[5]]
        assert whole(runs(streams.plain, slot=1, ordered=True), 0) != expected


def test_a_run_that_was_left_is_refused(streams: Streams) -> None:
    made = runs(streams.sharded)
    made.next(A, 2, 0)
    with pytest.raises(ValueError, match="run 1 was asked for, and the stream is in run 2"):
        made.next(A, 1, 0)
    made.drop(A)
    assert len(made) == 0
    assert made.next(A, 1, 0)
