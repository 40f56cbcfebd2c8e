"""The books notice each batch that is lost, doubled or wrong, and no other."""

from __future__ import annotations

import random

import pytest

from tests.chaos.books import Book

PASSES = 4
SIZE = 5


def digests(number: int) -> list[str]:
    return [f"{number}-{index}" for index in range(SIZE)]


ALL = [digest for number in range(PASSES) for digest in digests(number)]


def counts(came: list[str], ordered: bool) -> tuple[int, int, int]:
    """(lost, doubled, wrong) after these and the end."""
    book = Book("t", digests, ordered)
    for digest in came:
        book.came(digest)
    book.end()
    assert bool(book.notes) == bool(book.lost or book.doubled or book.wrong)
    return book.lost, book.doubled, book.wrong


@pytest.mark.parametrize("ordered", [True, False])
class TestBoth:
    def test_all_is_well(self, ordered: bool) -> None:
        assert counts(ALL, ordered) == (0, 0, 0)
        assert counts([], ordered) == (0, 0, 0)

    @pytest.mark.parametrize("at", range(len(ALL)))
    def test_one_is_lost(self, at: int, ordered: bool) -> None:
        assert counts(ALL[:at] + ALL[at + 1 :], ordered) == (1, 0, 0)

    @pytest.mark.parametrize("at", range(len(ALL)))
    def test_one_comes_twice(self, at: int, ordered: bool) -> None:
        assert counts([*ALL[: at + 1], ALL[at], *ALL[at + 1 :]], ordered) == (0, 1, 0)

    @pytest.mark.parametrize("at", range(len(ALL) + 1))
    def test_something_else_comes(self, at: int, ordered: bool) -> None:
        assert counts([*ALL[:at], "nobody's", *ALL[at:]], ordered) == (0, 0, 1)

    def test_one_comes_in_the_place_of_another(self, ordered: bool) -> None:
        assert counts([*ALL[:7], "nobody's", *ALL[8:]], ordered) == (1, 0, 1)
        assert counts([*ALL[:7], ALL[6], *ALL[8:]], ordered) == (1, 1, 0)

    def test_a_whole_pass_is_lost(self, ordered: bool) -> None:
        lost, doubled, wrong = counts(ALL[:SIZE] + ALL[2 * SIZE :], ordered)
        assert lost + doubled + wrong >= SIZE

    @pytest.mark.parametrize("kept", [0, 1, 4, 5, 9, 10])
    def test_a_restart(self, kept: int, ordered: bool) -> None:
        book = Book("t", digests, ordered)
        for digest in ALL[:12]:
            book.came(digest)
        book.back_to(kept)
        assert book.given == kept
        for digest in ALL[kept:]:
            book.came(digest)
        book.end()
        assert (book.lost, book.doubled, book.wrong) == (0, 0, 0)
        assert book.delivered == 12 + len(ALL) - kept

    def test_a_restart_that_forgets_or_repeats(self, ordered: bool) -> None:
        for begins, expected in ((8, (0, 1, 0)), (10, (1, 0, 0))):
            book = Book("t", digests, ordered)
            for digest in ALL[:12]:
                book.came(digest)
            book.back_to(9)
            for digest in ALL[begins:]:
                book.came(digest)
            book.end()
            assert (book.lost, book.doubled, book.wrong) == expected

    def test_a_position_that_lies_ahead_of_what_came(self, ordered: bool) -> None:
        book = Book("t", digests, ordered)
        for digest in ALL[:5]:
            book.came(digest)
        book.back_to(7)
        assert book.lost == 2

    def test_what_is_held_changes(self, ordered: bool) -> None:
        book = Book("t", digests, ordered)
        book.corrupted(ALL[0])
        assert book.wrong == 1
        assert book.notes


def test_two_in_the_wrong_order() -> None:
    swapped = [*ALL[:6], ALL[7], ALL[6], *ALL[8:]]
    assert counts(swapped, ordered=False) == (0, 0, 0)
    assert counts(swapped, ordered=True) == (1, 1, 0)


def test_any_order_within_a_pass() -> None:
    rng = random.Random(1)
    came = [digest for number in range(PASSES) for digest in rng.sample(digests(number), SIZE)]
    assert counts(came, ordered=False) == (0, 0, 0)


def test_the_same_batch_twice_in_a_pass() -> None:
    """Two nodes give the same parts."""
    book = Book("t", lambda number: digests(number) * 2, ordered=False)
    for digest in [*digests(0), *digests(0), *digests(1), *digests(1)]:
        book.came(digest)
    book.end()
    assert (book.lost, book.doubled, book.wrong) == (0, 0, 0)
    book.came(digests(1)[0])
    assert book.doubled == 1
