"""What Keras and TensorFlow draw from, by stand-ins with their names; the real ones are in tests/zoo."""

from __future__ import annotations

import sys
import types
from typing import Any

import numpy as np
import pytest

from feeder_server import snapshots
from feeder_server.generators import Generators
from feeder_server.library_states import library_state_of, set_count, set_keras, set_tensorflow


@pytest.fixture(autouse=True)
def keras_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "keras", types.ModuleType("keras"))


class Variable:
    """As those of Keras."""

    def __init__(self, value: Any) -> None:
        self.value = np.asarray(value)

    def assign(self, value: Any) -> None:
        self.value = np.asarray(value)

    def __array__(self, *_: Any, **__: Any) -> Any:
        return self.value


class SeedGenerator:
    """keras.random.SeedGenerator."""

    __module__ = "keras.src.random.seed_generator"

    def __init__(self, seed: int) -> None:
        self.state = Variable([seed, 0])

    def next(self) -> list[int]:
        seed, count = self.state.value.tolist()
        self.state.assign([seed, count + 1])
        return [seed, count]


class Generator:
    """tf.random.Generator."""

    __module__ = "tensorflow.python.ops.stateful_random_ops"

    def __init__(self, seed: int) -> None:
        self.state = np.array([seed])

    def reset_from_seed(self, seed: int) -> None:
        self.state = np.array([seed])


class Iterator:
    """Of an ImageDataGenerator."""

    __module__ = "keras.src.legacy.preprocessing.image"

    def __init__(self, seed: int | None, function: Any = None) -> None:
        self.seed, self.total_batches_seen, self.function = seed, 0, function


class NumpyArrayIterator(Iterator):
    """One of its kinds."""


class Pair:
    """Holds two of something."""

    def __init__(self, one: Any, two: Any) -> None:
        self.one, self.two = one, two


def test_what_is_what() -> None:
    assert library_state_of(SeedGenerator(1)) is set_keras
    assert library_state_of(Generator(1)) is set_tensorflow
    assert library_state_of(NumpyArrayIterator(1)) is set_count
    assert library_state_of(NumpyArrayIterator(None)) is None  # it draws from NumPy's global generator, and sets no seed
    assert library_state_of(Pair(1, 2)) is None


def test_nothing_is_looked_for_before_keras_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("keras", "tf_keras", "keras_preprocessing", "tensorflow"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert library_state_of(SeedGenerator(1)) is None


def test_set_and_in_step() -> None:
    """Each by its own path, and those that were seeded alike alike."""
    layers = Pair(Pair(SeedGenerator(1), SeedGenerator(1)), SeedGenerator(2))
    generators = Pair(Generator(1), Generator(2))
    found = Generators(layers=layers, generators=generators)
    found.walk()
    assert len(found.names) == 5
    seen = []
    for value in (5, 6, 5):
        found.reseed(value)
        assert layers.one.one.next() == layers.one.two.next() != layers.two.next()
        assert layers.one.one.state.value[0] < 2**31
        assert generators.one.state != generators.two.state
        seen.append((layers.two.next(), int(generators.one.state[0])))
    assert seen[0] == seen[2] != seen[1]


def test_a_count_of_batches_does_not_count() -> None:
    """It depends on the seed that is set, stays within what numpy.random.seed takes, and is one for pictures and masks of one seed."""
    rng = np.random.default_rng(1)
    pair = Pair(NumpyArrayIterator(1, rng), NumpyArrayIterator(1))
    found = Generators(source=pair)
    found.walk()
    assert found.names == ["source.one", "source.two", "source.one.function"]  # what the user put into it is found, too
    counts = []
    for value in (5, 6, 5):
        pair.one.total_batches_seen += 3
        found.reseed(value)
        assert pair.one.total_batches_seen == pair.two.total_batches_seen < 2**31
        counts.append(pair.one.total_batches_seen)
    assert counts[0] == counts[2] != counts[1]
    assert snapshots.mark(NumpyArrayIterator(1)) == snapshots.mark(NumpyArrayIterator(1)) != snapshots.mark(NumpyArrayIterator(2))
