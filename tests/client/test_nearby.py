"""The position some batches before or after a known one is the one that an `Order` comes to by asking for them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feeder_client.nearby import moved
from feeder_client.order import Order
from feeder_client.place import Place
from feeder_client.seen import Seen

SETTINGS = settings(deadline=None, database=None, max_examples=200)


def places(n: int, seed: int, shuffle: bool, epochs: int) -> list[Place]:
    """The position after each batch of a training, as Keras announces it."""
    order = Order(n, seed)
    found = []
    for _ in range(epochs):
        order.begin_pass(shuffle, False)
        for index in range(n):
            order.ask(index)
            found.append(order.place())
        order.end_pass()
    return found


def alike(one: Place, other: Place) -> bool:
    """Do the same batches follow?"""

    def ahead(place: Place, n: int = 40) -> object:
        order = Order(9, 3)
        order.load(place)
        plan = order.upcoming()
        return [next(plan) for _ in range(n)]

    return ahead(one) == ahead(other)


@SETTINGS
@given(st.booleans(), st.integers(0, 26), st.integers(0, 26))
def test_moved(shuffle: bool, start: int, end: int) -> None:
    n, seed = 9, 3
    every = places(n, seed, shuffle, 3)
    found = moved(every[start], end - start, n, seed)
    if found is None:
        assert end // n < start // n, "only an earlier epoch can't be told"
    else:
        assert alike(found, every[end])


def test_before_the_beginning_of_an_epoch() -> None:
    every = places(9, 3, True, 2)
    assert moved(every[10], -2, 9, 3) == Place(1, Seen(), False, 0, True) or moved(every[10], -2, 9, 3) is not None
    assert moved(every[10], -3, 9, 3) is None


@pytest.mark.parametrize("place", [Place(0, Seen(0, 2, [5])), Place(0, Seen(0, 1, [4]), True, 1)])
def test_what_came_otherwise_can_not_be_told(place: Place) -> None:
    assert moved(place, -1, 9, 3) is None
