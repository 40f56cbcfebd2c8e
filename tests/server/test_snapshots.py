"""The state of generators, taken, compared and put back; and what follows: those that were seeded alike stay alike."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from feeder_server import entropy, snapshots
from feeder_server.generators import Generators

BITS = (np.random.PCG64, np.random.PCG64DXSM, np.random.Philox, np.random.SFC64, np.random.MT19937)
KINDS: dict[str, tuple[Callable[[int], Any], Callable[[Any], float]]] = {
    "random": (random.Random, lambda g: g.random()),
    "RandomState": (np.random.RandomState, lambda g: float(g.normal())),
    **{cls.__name__: (cls, lambda g: float(np.random.Generator(g).random())) for cls in BITS},
}


@pytest.mark.parametrize("kind", KINDS)
def test_put_back(kind: str) -> None:
    make, draw = KINDS[kind]
    generator = make(3)
    draw(generator)
    state = snapshots.take(generator)
    want = [draw(generator) for _ in range(5)]
    assert [draw(generator) for _ in range(5)] != want
    snapshots.put(generator, state)
    assert [draw(generator) for _ in range(5)] == want


@pytest.mark.parametrize("kind", KINDS)
def test_marks(kind: str) -> None:
    """One for each state, and for each kind of generator."""
    make, draw = KINDS[kind]
    one, two, other = make(3), make(3), make(4)
    assert snapshots.mark(one) == snapshots.mark(two) != snapshots.mark(other)
    draw(one)
    assert snapshots.mark(one) != snapshots.mark(two)
    draw(two)
    assert snapshots.mark(one) == snapshots.mark(two)
    assert len({snapshots.mark(make(0)) for make, _ in KINDS.values()}) == len(KINDS)


def test_torch() -> None:
    torch = pytest.importorskip("torch")
    one, two = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    assert snapshots.mark(one) == snapshots.mark(two)
    state = snapshots.take(one)
    want = torch.rand(3, generator=one)
    assert snapshots.mark(one) != snapshots.mark(two)
    snapshots.put(one, state)
    assert torch.equal(torch.rand(3, generator=one), want)


def test_what_has_no_state() -> None:
    class Foreign(np.random.BitGenerator):  # type: ignore[misc]
        @property
        def state(self) -> Any:
            raise NotImplementedError

    foreign = Foreign(1)
    assert snapshots.take(foreign) is None and snapshots.mark(foreign) is None
    snapshots.put(foreign, None)


class Source:
    """Holds generators."""

    def __init__(self, **held: Any) -> None:
        self.__dict__.update(held)


def reseeded(source: Source, value: int = 5) -> Generators:
    found = Generators(source=source)
    found.walk()
    found.reseed(value)
    return found


def test_those_that_were_seeded_alike_stay_alike() -> None:
    source = Source(
        images=np.random.RandomState(1),
        masks=np.random.RandomState(1),
        other=np.random.RandomState(2),
        old=random.Random(1),
        copied=None,
    )
    source.copied = copy.deepcopy(source.old)
    found = reseeded(source)
    for _ in range(3):
        assert source.images.rand() == source.masks.rand() != source.other.rand()
        assert source.old.random() == source.copied.random()
    found.reseed(6)
    assert source.images.rand() == source.masks.rand()


def test_those_that_stand_elsewhere_do_not() -> None:
    """One has been drawn from since: they aren't in step in the user's own program either."""
    source = Source(images=np.random.RandomState(1), masks=np.random.RandomState(1))
    source.images.rand()
    reseeded(source)
    assert source.images.rand() != source.masks.rand()


def test_those_without_a_seed_are_never_alike() -> None:
    with entropy.derived_from(1):
        source = Source(a=np.random.default_rng(), b=np.random.default_rng(), c=random.Random(), d=random.Random())
    reseeded(source)
    assert source.a.random() != source.b.random()
    assert source.c.random() != source.d.random()


def test_one_that_comes_later_is_compared_with_what_the_first_was() -> None:
    """The first has been set meanwhile, so that they don't look alike any more."""
    source = Source(images=np.random.RandomState(1))
    found = reseeded(source)
    source.masks = np.random.RandomState(1)
    assert found.walk()
    found.reseed(7)
    assert source.images.rand() == source.masks.rand()
