"""`feeder_server.shared`: in a worker's store, and without a worker. With real workers: tests/system/test_shared.py."""

from __future__ import annotations

import json
import logging
import os
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import feeder_server
from feeder_server import draws, seeding, sharing
from feeder_server.sharing import Store
from feeder_wire import directories
from feeder_wire.directories import PrivateDirectory, try_lock
from feeder_wire.errors import UnsupportedBatch
from tests.serving import until

RNG = np.random.default_rng()
MB = 1 << 20


@pytest.fixture(autouse=True)
def left_as_it_was() -> Iterator[None]:
    """This process is no worker, before and after."""
    yield
    sharing.use(None)
    seeding._current = None
    draws._fed = None
    seeding._followers.clear()


@pytest.fixture
def places(tmp_path: Path) -> Iterator[list[PrivateDirectory]]:
    """Two directories of an arena."""
    made = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        made.append(PrivateDirectory(tmp_path / name))
    yield made
    for directory in made:
        directory.close()


@pytest.fixture
def store(places: list[PrivateDirectory]) -> Callable[..., Store]:
    """Makes the store of a worker, which may be one of several."""

    def make(worker: int = 0, seed: int = 7, reserve_bytes: int = 0) -> Store:
        return Store([str(place.path) for place in places], f"{worker}-1", seed, reserve_bytes)

    return make


def files(place: PrivateDirectory, ending: str = "bin") -> list[Path]:
    return sorted(place.path.glob(f"shared-*.{ending}"))


def same(a: Any, b: Any) -> None:
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert list(a) == list(b)
        for name in a:
            same(a[name], b[name])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            same(one, other)
    elif isinstance(a, np.ndarray):
        np.testing.assert_array_equal(a, b, strict=True)
        assert not a.flags.writeable and not b.flags.writeable
    else:
        assert a == b


RESULTS: dict[str, Callable[[], Any]] = {
    "array": lambda: np.arange(MB // 8, dtype="f4"),
    "nested": lambda: {"x": [np.arange(5), (np.ones((2, 3), ">i2"), None)], 3: "text", "n": 2.5, "b": b"x" * 2000},
    "fortran": lambda: np.asfortranarray(np.arange(12).reshape(3, 4)),
    "strided": lambda: np.arange(12).reshape(3, 4)[:, ::2],
    "empty": lambda: (np.zeros((0, 3)), []),
    "no dimension": lambda: np.array(3),
    "texts": lambda: np.array(["a", "bc"]),
    "scalar": lambda: np.float32(2),
}


@pytest.mark.parametrize("name", RESULTS)
def test_what_was_returned_comes_in_every_worker_and_without_one(name: str, store: Callable[..., Store]) -> None:
    expected = RESULTS[name]()
    one, other = (store(worker).get("f", "id", RESULTS[name]) for worker in (0, 1))
    plain = feeder_server.shared(RESULTS[name])
    same(one, other)
    same(one, plain)
    if isinstance(expected, np.ndarray):
        np.testing.assert_array_equal(one, expected, strict=True)


def test_it_is_computed_once(store: Callable[..., Store], places: list[PrivateDirectory]) -> None:
    calls = []

    def compute() -> Any:
        calls.append(1)
        return {"x": np.arange(1000)}

    stores = [store(worker) for worker in range(3)]
    found: list[Any] = [s.get("f", "id", compute) for s in stores for _ in range(2)]
    assert len(calls) == 1
    found[0]["x"] = None  # the dict is one's own
    assert all(f["x"].sum() == 499500 for f in found[1:])
    stores[0].get("f", "other", compute)
    assert len(calls) == 2
    assert len(files(places[0])) == 2 and not files(places[1])
    assert not files(places[0], "new")
    if hasattr(os, "getuid"):
        assert {path.stat().st_mode & 0o777 for path in files(places[0])} == {0o600}


def test_the_functions_arrays_stay_its_own() -> None:
    """Without a worker: whoever else has the array goes on writing to it."""
    kept = np.zeros(3)
    got = feeder_server.shared(lambda: kept)
    with pytest.raises(ValueError, match="read-only"):
        got[0] = 1
    kept[0] = 5
    assert got[0] == 5


def draw_all() -> Any:
    return [np.random.rand(3), random.random(), RNG.random(3), np.random.default_rng().random(3), feeder_server.rng().random(3)]


def test_what_is_drawn_there_is_nobody_elses_affair(store: Callable[..., Store]) -> None:
    """One worker computes, the other doesn't; after it both draw the same, and what was computed is a function of the seed alone."""
    drawn: list[Any] = []
    after: list[Any] = []
    for before in (0, 5):
        first, second = store(0), store(1)
        for worker in (first, second):
            draws._fed = None
            seeding._followers.clear()
            seeding.seed_globals(11)
            RNG.bit_generator.state = np.random.PCG64(3).state
            if worker is first:
                np.random.rand(before), RNG.random(before)
            drawn.append(worker.get(f"{__name__}.draw_all", f"id{before}", draw_all))
            if worker is first and before:
                continue  # it has drawn more before, and goes on from there
            after.append([part.tolist() if isinstance(part, np.ndarray) else part for part in draw_all()[:3]])
            after[-1].append(feeder_server.rng().random(3).tolist())
            assert seeding.current() == 11
    for other in drawn[1:]:
        same(drawn[0], other)
    assert after[0] == after[1] == after[2]
    third: Any = store(0, seed=8).get(f"{__name__}.draw_all", "third", draw_all)
    assert third[1] != drawn[0][1]


def test_what_it_raises_comes_out_and_the_next_one_tries(store: Callable[..., Store]) -> None:
    tries = []

    def compute() -> Any:
        tries.append(1)
        if len(tries) < 3:
            raise LookupError("no such data")
        return np.ones(3)

    first, second = store(0), store(1)
    seeding.seed_globals(3)
    for worker in (first, second):
        with pytest.raises(LookupError, match="no such data"):
            worker.get("f", "id", compute)
        assert np.random.rand() == np.random.RandomState([3, 0]).rand()
        seeding.seed_globals(3)
    assert first.get("f", "id", compute).tolist() == second.get("f", "id", compute).tolist() == [1, 1, 1]  # type: ignore[attr-defined]
    assert len(tries) == 3


def test_what_can_not_be_shared_is_told_with_and_without_a_worker(store: Callable[..., Store]) -> None:
    def compute() -> Any:
        return {"x": np.array([None])}

    with pytest.raises(UnsupportedBatch, match=r"shared\(.*compute\): in what it returned, here called a batch: batch\['x'\]"):
        feeder_server.shared(compute)
    sharing.use(store())
    with pytest.raises(UnsupportedBatch, match=r"batch\['x'\]"):
        feeder_server.shared(compute)


def test_a_key_is_asked_for() -> None:
    lock = threading.Lock()
    with pytest.raises(TypeError, match=r"can't tell whether another call is the same: args\[0\] is a _thread.lock. .*key="):
        feeder_server.shared(lambda _: np.ones(1), lock)
    assert feeder_server.shared(lambda _: np.ones(1), lock, key="a").tolist() == [1]


def test_one_that_calls_itself_is_an_error_and_one_that_calls_another_is_not(store: Callable[..., Store]) -> None:
    sharing.use(store())

    def inner() -> Any:
        return np.arange(3)

    def outer() -> Any:
        return feeder_server.shared(inner) + 1

    def itself() -> Any:
        return feeder_server.shared(itself)

    assert feeder_server.shared(outer).tolist() == [1, 2, 3]
    with pytest.raises(RecursionError, match="itself"):
        feeder_server.shared(itself)
    assert feeder_server.shared(outer).tolist() == [1, 2, 3]


def test_who_waits_says_so(
    store: Callable[..., Store], places: list[PrivateDirectory], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sharing, "FIRST_WORD_SECONDS", 0.0)
    caplog.set_level(logging.INFO)
    found: list[Any] = []
    lock = os.open(places[0].path / "shared-id.lock", os.O_RDWR | os.O_CREAT)
    assert try_lock(lock)
    waiting = threading.Thread(target=lambda: found.append(store().get("mine.load", "id", lambda: np.ones(2))))
    waiting.start()
    try:
        until(lambda: "waiting for another worker, which makes the shared data of mine.load" in caplog.text, lambda: caplog.text)
        assert not found
    finally:
        os.close(lock)
        waiting.join()
    assert found[0].tolist() == [1, 1]


def test_what_a_dead_worker_has_written_goes(store: Callable[..., Store], places: list[PrivateDirectory]) -> None:
    for place in places:
        (place.path / "shared-id-3-1-1.bin").write_bytes(b"half of it")
    (places[0].path / "shared-other-3-1-1.bin").write_bytes(b"another one's")
    (places[0].path / "shared-id-3-1.new").write_bytes(b"half of it")
    store().get("f", "id", lambda: np.ones(2))
    assert [path.name for path in files(places[0])] == ["shared-id-0-1-1.bin", "shared-other-3-1-1.bin"]
    assert not files(places[0], "new")


def test_a_file_that_was_taken_away_is_made_again(store: Callable[..., Store], places: list[PrivateDirectory]) -> None:
    store().get("f", "id", lambda: np.ones(2))
    files(places[0])[0].unlink()
    assert store(1).get("f", "id", lambda: np.zeros(2)).tolist() == [0, 0]  # type: ignore[attr-defined]
    assert [path.name for path in files(places[0])] == ["shared-id-1-1-1.bin"]


class TestRoom:
    """In shared memory batches come first; without any room each worker has its own, and says so."""

    def test_what_batches_need_stays_free(
        self, store: Callable[..., Store], places: list[PrivateDirectory], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sharing, "free_bytes", lambda folder: 10 * MB)
        store(reserve_bytes=10 * MB).get("f", "a", lambda: np.ones(2))
        assert not files(places[0]) and len(files(places[1])) == 1
        store(reserve_bytes=9 * MB).get("f", "b", lambda: np.ones(2))
        assert len(files(places[0])) == 1
        assert json.loads(files(places[0], "json")[0].read_text())["file"] == str(files(places[1])[0])

    def test_none_at_all(
        self, store: Callable[..., Store], places: list[PrivateDirectory], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def full(path: Path, size: int) -> Any:
            path.touch()
            raise OSError("no space left")

        monkeypatch.setattr(sharing, "map_new", full)
        for worker in (0, 1):
            found: Any = store(worker).get("mine.load", "id", lambda: np.ones(MB))
            assert found.sum() == MB and not found.flags.writeable
        assert "the shared data of mine.load, 8.4 MB, isn't shared, for there is no room: " in caplog.text
        assert not files(places[0]) and not files(places[1])

    def test_no_arena(self) -> None:
        found: Any = Store([], "0-1", 0, 0).get("f", "id", lambda: np.ones(3))
        assert found.sum() == 3 and not found.flags.writeable


def test_without_locks_everybody_computes(store: Callable[..., Store], monkeypatch: pytest.MonkeyPatch) -> None:
    """Some network file systems have none."""

    def none(lock: int) -> bool:
        raise OSError(95, "not supported")

    monkeypatch.setattr(sharing, "try_lock", none)
    assert store().get("f", "id", lambda: np.ones(3)).sum() == 3  # type: ignore[attr-defined]
    assert store(1).get("f", "id", lambda: np.zeros(3)).sum() == 3  # type: ignore[attr-defined]


def test_the_sweep_takes_it_with_the_rest(places: list[PrivateDirectory], store: Callable[..., Store]) -> None:
    """As after kill -9 of the node: nobody has the lock on ``alive`` any more."""
    store().get("f", "id", lambda: np.ones(3))
    place = places.pop(0)
    assert place._lock is not None
    os.close(place._lock)
    assert directories.sweep([place.path.parent]) == [place.path]
