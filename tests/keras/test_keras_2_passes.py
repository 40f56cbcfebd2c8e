"""How a FeederSequence finds out that a pass begins under a Keras that doesn't say so: played through with a stand-in for Keras 2."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feeder_client import ConfigError, FeederSequence
from feeder_client.order import Key, Order
from feeder_client.position import Position
from feeder_client.skips import Missing


class Core:
    """As far as it is needed: the batch is its key."""

    def __init__(self, n: int) -> None:
        self.order = Order(n)
        self.num_batches = self.pass_length = n
        self.begun = 0

    def get(self, index: int, missing: Missing) -> Key:
        assert missing is Missing.STAND_IN
        return self.order.ask(index)

    def begin_pass(self, shuffle: bool | None, look: bool | None, anew: bool, parts: bool) -> None:
        assert (shuffle, look, anew, parts) == (None, None, False, False), "there is no Keras on the stack that could say so"
        self.begun += 1
        self.order.begin_pass(shuffle, look, anew, parts)

    def where(self, do: Callable[[Any], Any]) -> Any:
        assert do is Position.short
        return False

    def end_pass(self) -> None:
        self.order.end_pass()


def sequence(n: int, **base: Any) -> Any:
    """A FeederSequence of `n` batches over a class that has only what `base` says."""
    keras: Any = ModuleType("old_keras")
    keras.utils = SimpleNamespace(Sequence=type("Sequence", (), base))
    made: Any = FeederSequence.__new__(FeederSequence, keras=keras)
    made._init_keras()
    made._core = Core(n)
    return made


def elsewhere(function: Callable[[], None]) -> None:
    """Calls it in another thread, as tf.data does."""
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()


class Fit:
    """The calls of tf_keras' fit, as its data adapter makes them with workers <= 1."""

    def __init__(self, seq: Any) -> None:
        self.seq = seq
        seq[0]  # _peek_and_restore
        len(seq)  # get_size

    def epoch(self, order: list[int], stop: int | None = None) -> list[Key]:
        """One epoch; its last batch is `stop`, or it is a whole one and ends as such."""
        got: list[Key] = []

        def read() -> None:
            length = len(self.seq)
            assert length == len(order)
            got.extend(self.seq[i] for i in order[:stop])

        len(self.seq)  # _infer_steps
        elsewhere(read)
        if stop is None:
            self.seq.on_epoch_end()
        return got


@given(st.data())
@settings(deadline=None)
def test_every_batch_once_per_epoch(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 7))
    seq = sequence(n)
    for _ in range(data.draw(st.integers(1, 3))):
        fit = Fit(seq)
        for _ in range(data.draw(st.integers(1, 3))):
            order = data.draw(st.permutations(range(n)))
            stop = data.draw(st.none() | st.integers(1, n))
            got = [index for _, index in fit.epoch(order, stop)]
            assert sorted(set(got)) == sorted(got)
            if stop is None:
                assert sorted(got) == list(range(n))
            else:
                break  # stop_training: the epoch's end is not announced, and no other follows


@pytest.mark.parametrize("second", [([1, 0, 2, 3], 1), ([1, 0, 3, 2], 2)], ids=["one step", "two steps"])
def test_a_pass_may_begin_with_what_a_short_one_has_had(second: tuple[list[int], int]) -> None:
    seq = sequence(4)
    Fit(seq).epoch([0, 1, 2, 3], 1)
    Fit(seq).epoch(*second)
    # In sequence so far, and of so few batches that 0 might only be looked at; but Keras has said that a pass begins.
    assert sorted(index for _, index in Fit(seq).epoch([0, 2, 1, 3])) == [0, 1, 2, 3]


def test_in_sequence_it_is_in_sequence() -> None:
    fit = Fit(sequence(5))
    for e in range(3):
        assert fit.epoch([0, 1, 2, 3, 4]) == [(e, i) for i in range(5)]


def test_shuffled_the_order_is_ours() -> None:
    found = []
    for order in ([3, 1, 0, 4, 2], [4, 2, 1, 0, 3]):
        fit = Fit(sequence(5))
        found.append([fit.epoch(order), fit.epoch(order[::-1])])
    assert found[0] == found[1]
    assert [sorted(keys) for keys in found[0]] == [[(e, i) for i in range(5)] for e in range(2)]


def test_outside_of_a_pass_every_batch_is_the_one_asked_for() -> None:
    seq = sequence(5)
    assert [seq[i] for i in (3, 1)] == [(0, 3), (0, 1)]
    assert len(seq) == 5
    assert seq._core.begun == 0


def test_a_keras_that_announces_passes_is_believed() -> None:
    seq = sequence(5, on_epoch_begin=lambda self: None)
    elsewhere(lambda: [seq[i] for i in range(len(seq))] and None)
    assert seq._core.begun == 0
    seq.on_epoch_begin()
    assert seq._core.begun == 1


def test_another_process_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    seq = sequence(5)
    monkeypatch.setattr(seq, "_pid", -1)
    with pytest.raises(ConfigError, match=r"another process .* the workers are the server's"):
        seq[0]
