"""A set of numbers that mostly come in sequence does what a set does; and a position survives being written down."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feeder_client.place import Mark, Place, StreamMark, StreamPlace, follow, follow_stream, seen_from
from feeder_client.seen import Seen, Tally

numbers = st.integers(0, 40)
sets = st.builds(Seen, numbers, st.none(), st.lists(numbers, max_size=20))


def as_set(seen: Seen) -> set[int]:
    return {i for i in range(200) if i in seen}


class TestSeen:
    @given(start=numbers, added=st.lists(numbers, max_size=40))
    def test_it_is_a_set(self, start: int, added: list[int]) -> None:
        seen, model = Seen(start), set()
        for i in added:
            seen.add(i)
            model.add(i)
            assert as_set(seen) == model
            assert len(seen) == len(model)
            assert seen.run not in seen
            assert set(seen.rest) == model - set(range(start, seen.run))

    @given(start=st.integers(0, 5), added=st.lists(st.integers(5, 30), max_size=20), k=st.integers(0, 30))
    def test_what_is_missing(self, start: int, added: list[int], k: int) -> None:
        seen = Seen(start)
        for i in added:
            seen.add(i)
        gaps = [i for i in range(start, 200) if i not in seen]
        assert seen.missing(k) == gaps[k]

    @given(seen=sets, extra=numbers)
    def test_a_copy_is_another_one(self, seen: Seen, extra: int) -> None:
        before = as_set(seen)
        copy = seen.copy()
        copy.add(extra)
        assert as_set(seen) == before
        assert as_set(copy) == before | {extra}

    def test_other_things_are_not_in_it(self) -> None:
        assert True not in Seen(0, 5) and "1" not in Seen(0, 5) and 1.0 not in Seen(0, 5)
        assert repr(Seen(2, 5, [9, 7])) == "<Seen 2 to 5, 7, 9>"

    @given(seen=sets)
    def test_written_down(self, seen: Seen) -> None:
        place = Place(given=seen)
        again = Place.from_json(json.loads(json.dumps(place.to_json())))
        assert as_set(again.given) == as_set(seen)
        assert again == Place(given=again.given)

    @pytest.mark.parametrize(
        "data", [[], [1], [0, 0, [-1]], [5, 2, []], [0, 1.0, []], [0, True, []], [0, 0, ["1"]], None, [0, 1 << 63, []]]
    )
    def test_what_is_none(self, data: Any) -> None:
        with pytest.raises((ValueError, TypeError)):
            seen_from(data)


def test_a_tally_counts_what_was_asked_for() -> None:
    tally = Tally(given=Seen(0, 2))
    tally.add(5, 2)
    tally.add(0, 7)
    assert len(tally) == 2
    assert as_set(tally.asked) == {0, 5} and as_set(tally.given) == {0, 1, 2, 7}


class TestPlace:
    @pytest.mark.parametrize(
        "change",
        [{"epoch": -1}, {"epoch": "1"}, {"next": True}, {"next": 1 << 63}, {"shuffled": 1}, {"given": [3, 1, []]}, {"given": None}],
    )
    def test_what_is_none(self, change: dict[str, Any]) -> None:
        with pytest.raises((ValueError, TypeError)):
            Place.from_json({**Place().to_json(), **change})

    def test_what_lacks_something_is_none(self) -> None:
        for name in Place().to_json():
            with pytest.raises(KeyError):
                Place.from_json({k: v for k, v in Place().to_json().items() if k != name})

    @pytest.mark.parametrize(
        ("place", "fits"),
        [
            (Place(given=Seen(0, 8)), True),
            (Place(given=Seen(0, 9)), False),
            (Place(given=Seen(0, 2, [7])), True),
            (Place(given=Seen(0, 2, [8])), False),
            (Place(next_k=8), True),
            (Place(next_k=9), False),
        ],
    )
    def test_does_it_fit(self, place: Place, fits: bool) -> None:
        assert place.fits(8) == fits

    def test_it_follows_batches(self) -> None:
        place = Place()
        for i in (0, 1):
            place = follow(place, Mark(0, i, False, i + 1, True, None, cut=False))
        assert (place.epoch, as_set(place.given), place.next_k, place.expect_shuffle) == (0, {0, 1}, 2, True)
        opening = Seen(0, 1)
        place = follow(place, Mark(3, 5, True, 1, False, opening, cut=True))
        assert (place.epoch, as_set(place.given), place.shuffled, place.next_k) == (3, {0, 5}, True, 1)
        assert as_set(opening) == {0}, "it belongs to somebody else"

    def test_a_stream_s_parts_by_themselves(self) -> None:
        position = StreamPlace()
        for part, place in (((0, 0), 0), ((0, 1), 0), ((0, 0), 1)):
            position = follow_stream(position, StreamMark(0, part, place, None))
        kept = position.copy()
        assert {part: as_set(seen) for part, seen in position.parts.items()} == {(0, 0): {0, 1}, (0, 1): {0}}
        position = follow_stream(position, StreamMark(1, (0, 1), 4, Mark(0, 0, False, 1, False, None, cut=True)))
        assert (position.run, list(position.parts), as_set(position.place.given)) == (1, [(0, 1)], {0})
        assert (kept.run, len(kept.parts), as_set(kept.place.given)) == (0, 2, set())
        assert StreamMark(0, (0, 0), 0, None).cut is False
