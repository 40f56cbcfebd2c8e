"""A position that is taken up again: whatever was read ahead, the rest is what an undisturbed training gets. Keras announces its passes."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feeder_client.order import Key, Order
from feeder_client.place import Mark, Place, follow

SETTINGS = settings(deadline=None, database=None, max_examples=300)
KINDS = ["tensorflow", "torch", "keras 2"]


class Training:
    """One process that trains: what it is given, batch by batch, and how far its position is when it is killed.

    Args:
        kind: who asks.
        order: the position.
        rng: of Keras' order and of how far it reads ahead.
        shuffle: of `fit`.
        announced: whether it is known that Keras shuffles.
    """

    def __init__(self, kind: str, order: Order, rng: random.Random, shuffle: bool, announced: bool = True) -> None:
        self.kind, self.order, self.rng, self.shuffle = kind, order, rng, shuffle
        self.told = shuffle if announced else None
        self.place = order.place()
        self.marks: list[Mark] = []
        self.trained: list[Key] = []

    def look(self) -> None:
        """Before it trains."""
        n = self.order.num_batches
        assert n is not None
        if self.kind == "torch":
            self.order.begin_pass(self.told, True)
            self.order.ask(self.rng.randrange(self.order.length or n) if self.shuffle else 0)
        else:
            for index in range(1 if self.kind == "keras 2" else min(2, n)):
                self.order.ask(index)
        self.order.end_pass()

    def passes(self, epochs: int) -> Iterator[list[int]]:
        for number in range(epochs):
            self.order.begin_pass(self.told, False, anew=number == 0)
            n = self.order.length
            assert n is not None
            yield self.rng.sample(range(n), n) if self.shuffle else list(range(n))
            self.order.end_pass()

    def train(self, epochs: int, kill: int | None = None) -> Place:
        """Returns the position, as far as it was trained on."""
        self.look()
        for indices in self.passes(epochs):
            ahead: list[Key] = []
            while indices or ahead:
                while indices and (not ahead or (self.kind != "torch" and self.rng.random() < 0.5)):
                    key = self.order.ask(indices.pop(0))
                    ahead.append(key)
                    mark = self.order.mark(key)
                    if mark.cut:
                        self.marks.clear()
                    self.marks.append(mark)
                self.trained.append(ahead.pop(0))
                self.place = follow(self.place, self.marks.pop(0))
                if len(self.trained) == kill:
                    return self.place
        return self.place


def killed(
    kind: str, n: int, seed: int, shuffle: bool, kills: list[int], rng: random.Random, announced: bool = True
) -> tuple[list[Key], list[Key]]:
    """What a training that is killed gets in all its processes, and one that isn't."""
    whole = Training(kind, Order(n, seed, kind == "keras 2"), rng, shuffle, announced)
    whole.train(5)
    got: list[Key] = []
    place = Place()
    for kill in [*kills, None]:
        order = Order(n, seed, kind == "keras 2")
        order.load(Place.from_json(json.loads(json.dumps(place.to_json()))))
        one = Training(kind, order, rng, shuffle, announced)
        place = one.train(5, kill)
        got += one.trained
    return got, whole.trained


@SETTINGS
@given(
    st.sampled_from(KINDS),
    st.integers(1, 12),
    st.integers(0, 1 << 64),
    st.booleans(),
    st.lists(st.integers(1, 14), min_size=1, max_size=3),
    st.integers(0, 1 << 32).map(random.Random),
)
def test_the_rest_is_what_it_would_have_been(kind: str, n: int, seed: int, shuffle: bool, kills: list[int], rng: random.Random) -> None:
    got, whole = killed(kind, n, seed, shuffle, [min(kill, 5 * n) for kill in kills], rng)
    assert got[: len(whole)] == whole[: len(got)]
    assert len(got) >= len(whole)


@SETTINGS
@given(st.sampled_from(KINDS[:2]), st.integers(1, 12), st.integers(1, 24), st.integers(0, 1 << 32).map(random.Random))
def test_in_sequence_nothing_has_to_be_announced(kind: str, n: int, kill: int, rng: random.Random) -> None:
    got, whole = killed(kind, n, 3, False, [min(kill, 5 * n)], rng, announced=False)
    assert got[: len(whole)] == whole


@pytest.mark.parametrize("kind", KINDS[:2])
@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("shuffle", [True, False])
def test_epochs_of_one_or_two_steps_get_no_batch_twice(kind: str, steps: int, shuffle: bool) -> None:
    """Also where the epoch was taken up again: then its pass goes on into the next one, for Keras has counted on a whole one."""
    for given_ in (0, 1, 4):
        order = Order(5, 7)
        first = Training(kind, order, random.Random(1), shuffle)
        if given_:
            order.load(Training(kind, Order(5, 7), random.Random(2), shuffle).train(1, given_))
        first.look()
        got: list[Key] = []
        indices: list[int] = []
        for number in range(24):
            order.begin_pass(shuffle, False, anew=number == 0, parts=True)
            indices = indices or (random.Random(number).sample(range(5), 5) if shuffle else list(range(5)))
            for _ in range(min(steps, len(indices))):  # an epoch of Keras' ends with the data
                got.append(order.ask(indices.pop(0)))
            order.end_pass()
        assert len(set(got)) == len(got), (given_, got)
        epochs = list(dict.fromkeys(epoch for epoch, _ in got))[:-1]
        assert [sum(epoch == e for epoch, _ in got) for e in epochs] == [5 - given_] + [5] * (len(epochs) - 1)


def test_what_is_evaluated_after_a_shuffled_fit_comes_in_sequence() -> None:
    order = Order(6, 1)
    Training("tensorflow", order, random.Random(4), True).train(2)
    for told in (False, None):
        order.begin_pass(told, None, anew=True)
        got = [order.ask(i) for i in range(6)]
        order.end_pass()
        assert [i for _, i in got] == list(range(6))


def test_keras_2_knows_how_much_is_left() -> None:
    """Beside BackupAndRestore its first pass ends with the epoch, whatever it has read ahead."""
    for ahead in (0, 1, 2, 3):
        order = Order(5, rolls=True)
        order.load(follow_all(Place(), [(0, 0), (0, 1), (0, 2)]))
        order.begin_pass(False, False)
        got = [order.ask(i) for i in range(2 + ahead)]
        assert got[:2] == [(0, 3), (0, 4)]
        order.known()
        order.end_pass()
        order.begin_pass(False, False)
        assert [order.ask(i) for i in range(5)] == [(1, i) for i in range(5)]


def follow_all(place: Place, keys: list[Key]) -> Place:
    for epoch, index in keys:
        place = follow(place, Mark(epoch, index, False, 0, False, None, False))
    return place


@pytest.mark.parametrize("asked", [(0,), (0, 1), (1, 0)])
def test_one_is_left_and_keras_looks_at_two(asked: tuple[int, ...]) -> None:
    order = Order(5)
    order.load(follow_all(Place(), [(0, i) for i in range(4)]))
    assert {order.ask(i) for i in asked} == {(0, 4)}
    order.end_pass()
    order.begin_pass(False, False, anew=True)
    assert order.length == 1
    assert order.ask(0) == (0, 4)
    with pytest.raises(IndexError, match="still owes"):
        Order(5).load(Place()) or order.ask(7)
