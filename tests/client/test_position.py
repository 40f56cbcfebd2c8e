"""The position of a client: as handed out or as trained on, and what is refused when it is taken up again. The core alone, no server."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feeder_client import position
from feeder_client.core import Core
from feeder_client.position import Position
from feeder_wire.errors import ConfigError
from tests.client.test_core import Server, make


def state_of(core: Core) -> dict[str, Any]:
    return json.loads(json.dumps(core.where(Position.state)))  # type: ignore[no-any-return]


def read(core: Core, count: int, first: int = 0) -> list[Any]:
    return [core.get(first + i) for i in range(count)]


def resumed(state: object, num_batches: int = 6, kind: str = "indexed", **options: Any) -> tuple[Core, Server]:
    return make(num_batches, kind, resume=state, **options)


def test_counts_what_was_handed_out_until_somebody_says_what_is_trained_on() -> None:
    core, _ = make(6)
    core.begin_pass()
    assert read(core, 2) == [(0, 0), (0, 1)]
    assert state_of(core)["place"]["given"] == [0, 2, []]
    core.where(Position.track)
    assert read(core, 3, 2) == [(0, 2), (0, 3), (0, 4)]
    assert state_of(core)["place"]["given"] == [0, 2, []]
    core.where(lambda p: p.trained(2))
    assert state_of(core)["place"]["given"] == [0, 4, []]
    core.where(lambda p: p.trained(100))
    assert state_of(core)["place"]["given"] == [0, 5, []]
    core.where(Position.untrack)
    read(core, 1, 5)
    assert state_of(core)["place"]["given"] == [0, 6, []]
    with pytest.raises(ConfigError, match="call that before the training begins"):
        core.where(lambda p: p.trained(1))


def test_one_epoch_at_most() -> None:
    core, _ = make(3)
    core.where(Position.track)
    core.begin_pass()
    read(core, 3)
    core.begin_pass()
    read(core, 3)
    core.where(lambda p: p.trained(2))
    core.where(lambda p: p.trained(2, one_epoch=True))
    assert state_of(core)["place"]["given"] == [0, 3, []]
    core.where(lambda p: p.trained(2, one_epoch=True))
    assert (state_of(core)["place"]["epoch"], state_of(core)["place"]["given"]) == (1, [0, 2, []])


@settings(deadline=None, database=None, max_examples=60)
@given(st.integers(1, 8), st.integers(0, 30), st.integers(0, 5))
def test_the_rest_comes(n: int, trained: int, ahead: int) -> None:
    core, _ = make(n)
    core.where(Position.track)
    every = [(e, i) for e in range(8) for i in range(n)]
    for k in range(min(trained + ahead, len(every))):
        if k % n == 0:
            core.begin_pass()
        core.get(k % n)
    trained = min(trained, len(every))
    core.where(lambda p: p.trained(trained))
    other, server = resumed(state_of(core), n)
    rest = every[trained:][: n - trained % n]
    other.begin_pass()
    assert other.pass_length == max(len(rest), 1) or not rest
    assert read(other, len(rest)) == rest
    assert not set(every[:trained]).intersection((e, i) for _, e, i in server.asked), "nothing that was trained on is asked for"


def test_a_stream_as_ready() -> None:
    core, _ = make(-1, "stream")
    got = [core.get_in_run() for _ in range(5)]
    other, _ = resumed(state_of(core), -1, "stream")
    rest = [other.get_in_run() for _ in range(8)]
    assert not set(got) & set(rest)
    assert sorted(got + rest)[:9] == [(0, i) for i in range(9)]


WRONG: dict[str, tuple[Any, str]] = {
    "seed": (7, "start the server with --seed 7"),
    "num_batches": (8, "the data, or the batch size, is another one"),
    "source": ("val", "it belongs to another source"),
    "kind": ("stream", "it belongs to another source"),
    "ordered": (True, "--stream-order fixed"),
    "share": ([1, 2], "it belongs to another source"),
    "feeder_state": (2, "this is no position that state_dict"),
    "place": (None, "this is no position"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_refused(name: str) -> None:
    core, _ = make(6)
    core.begin_pass()
    read(core, 2)
    value, message = WRONG[name]
    before = state_of(core)
    with pytest.raises(ConfigError, match=message):
        core.load_state({**before, name: value})
    assert state_of(core) == before, "nothing has changed"
    assert core.get(2) == (0, 2)


@pytest.mark.parametrize("garbage", [None, 3, [], "text", {}, {"feeder_state": 1}])
def test_garbage(garbage: object) -> None:
    core, _ = make(6)
    with pytest.raises(ConfigError, match="this is no position that state_dict"):
        core.load_state(garbage)


PLACES = [
    *({"epoch": value} for value in (-1, 1.5, "0", None, True, 1 << 70)),
    *({"given": value} for value in ([0, 2], [3, 2, []], [0, "2", []], [0, 2, [-1]], [0, 7, []], [0, 2, [6]], None, 3)),
    *({"shuffled": value} for value in (1, None)),
    *({"next": value} for value in (-1, None, 7)),
]


@pytest.mark.parametrize("change", PLACES, ids=str)
def test_a_place_that_can_not_be(change: dict[str, Any]) -> None:
    core, _ = make(6)
    state = state_of(core)
    with pytest.raises(ConfigError, match="this is no position that state_dict"):
        core.load_state({**state, "place": {**state["place"], **change}})


def test_a_stream_with_other_workers() -> None:
    core, _ = make(-1, "stream")
    for _ in range(3):
        core.get_in_run()
    state = state_of(core)
    other, _ = make(-1, "stream", workers=3)
    before = state_of(other)
    with pytest.raises(ConfigError, match="--workers 2"):
        other.load_state(state)
    assert state_of(other) == before, "nothing has changed"
    for change in ({"run": -1}, {"run": "x"}, {"nodes": {"0": [[0, 1, [], -2], [0, 1, [], None]]}}, {"nodes": {"0": [3]}}, {"nodes": 3}):
        with pytest.raises(ConfigError, match="this is no position"):
            core.load_state({**copy.deepcopy(state), **change})


def test_nobody_says_what_is_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(position, "MOST_MARKS", 3)
    core, _ = make(6)
    core.where(Position.track)
    core.begin_pass()
    read(core, 3)
    with pytest.raises(ConfigError, match="call it after each training step"):
        core.get(3)
