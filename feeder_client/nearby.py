"""The position some batches before or after a known one. PURE.

What comes in sequence, or in our permutation, can be told without asking for it. So the position that belongs to some weights is
found although they were saved at another moment: see callbacks.py.
"""

from __future__ import annotations

from feeder_client.permutation import epoch_seed, permuted
from feeder_client.place import Place
from feeder_client.seen import Seen


def moved(place: Place, count: int, n: int, seed: int) -> Place | None:
    """The position `count` batches after `place`, or before it if that is negative.

    Args:
        place: in an indexed source.
        count: batches.
        n: batches of an epoch.
        seed: of the permutations.

    Returns:
        None where it can't be told: before the epoch began, or where its batches came neither in sequence nor in our permutation.
    """
    if count < 0:
        return _before(place, -count, n, seed)
    place = Place(place.epoch, place.given.copy(), place.shuffled, place.next_k, place.expect_shuffle)
    while count:
        if len(place.given) >= n:
            place = Place(place.epoch + 1, expect_shuffle=place.expect_shuffle)
        if not len(place.given):
            place.shuffled = place.expect_shuffle  # an epoch of which that is expected is shuffled from its first batch on
        step = min(count, n - len(place.given))
        _advance(place, step, n, seed)
        count -= step
    return place


def _advance(place: Place, count: int, n: int, seed: int) -> None:
    for _ in range(count):
        index = place.given.missing(0)
        if place.shuffled:
            while (index := permuted(place.next_k, n, epoch_seed(seed, place.epoch))) in place.given:
                place.next_k += 1
            place.next_k += 1
        place.given.add(index)


def _before(place: Place, count: int, n: int, seed: int) -> Place | None:
    left = len(place.given) - count
    regular = place.next_k == len(place.given) if place.shuffled else not place.given.rest and place.given.start == 0
    if left < 0 or not regular:
        return None
    if not left:
        return Place(place.epoch, Seen(), False, 0, place.shuffled)
    found = Place(place.epoch, Seen(), place.shuffled, 0, place.expect_shuffle)
    _advance(found, left, n, seed)
    return found
