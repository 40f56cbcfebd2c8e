"""Arrays that are made where the batch has to be: no copy that needn't be, and nothing is lent that somebody could still change."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import feeder_server
from feeder_server import inplace
from feeder_server.inplace import FIRST_TAIL, Scratch
from feeder_wire import codec
from feeder_wire.arena import ArenaWriter, Block
from feeder_wire.messages import INLINE_BYTES

BIG = (100, 1000)  # float32: 400 kB
Array = np.ndarray[Any, Any]


class Bench:
    """A worker's way with one item, and its arena."""

    def __init__(self, folder: Path) -> None:
        self.arena = ArenaWriter([str(folder)], 0, 0, 1 << 30)
        self.scratch = Scratch(self.arena)

    @contextmanager
    def item(self) -> Iterator[None]:
        self.scratch.begin()
        try:
            yield
        finally:
            self.scratch.finish()

    def lend(self, made: list[object]) -> tuple[Block | None, object, int]:
        """Take the batch out of `made`, so that nobody here holds it; returns its block, what arrives, and the bytes of the payload."""
        encoded = codec.encode(made[0], self.scratch if self.scratch.used else None)
        head, nbytes = encoded.head, encoded.nbytes
        made.clear()
        block = self.scratch.lend(encoded)
        return block, codec.decode(head, np.frombuffer(block.view, np.uint8)) if block is not None else None, nbytes


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    inplace.use(made.scratch)
    yield made
    inplace.use(None)
    made.arena.close()


def address(array: object) -> int:
    return int(array.__array_interface__["data"][0])  # type: ignore[attr-defined]


def filled(value: float, shape: tuple[int, ...] = BIG) -> Array:
    made = feeder_server.empty(shape, np.float32)
    made[...] = value
    return made


def test_elsewhere_it_is_numpy_s_own() -> None:
    made = feeder_server.empty((2, 3), "int16", order="F")
    assert (made.shape, made.dtype, made.flags.f_contiguous, made.flags.owndata) == ((2, 3), np.int16, True, True)
    assert feeder_server.empty(5).dtype == float


def test_the_array_that_was_made_is_the_one_that_is_lent(bench: Bench) -> None:
    with bench.item():
        made: list[object] = [(filled(7), np.arange(100))]
        where = address(made[0][0])  # type: ignore[index]
        block, batch, _ = bench.lend(made)
        assert block is not None
        x, y = batch  # type: ignore[misc]
        assert address(x) == where, "it was copied"
        assert np.all(x == 7) and list(y) == list(range(100))
        assert address(x) % 64 == address(y) % 64 == 0


@pytest.mark.parametrize("swapped", [False, True], ids=["in order", "not in order"])
def test_several_arrays_in_any_order(bench: Bench, swapped: bool) -> None:
    for known in (False, True):  # the first time it isn't known yet how much room they need
        with bench.item():
            x, y = filled(1), filled(2)
            where = address(x), address(y)
            made: list[object] = [{"y": y, "n": np.zeros(9), "x": x} if swapped else {"x": x, "n": np.zeros(9), "y": y}]
            del x, y
            block, batch, _ = bench.lend(made)
            assert (block is not None) == known
            if block is None:
                continue
            assert np.all(batch["x"] == 1) and np.all(batch["y"] == 2) and not batch["n"].any()  # type: ignore[index]
            there = address(batch["x"]), address(batch["y"])  # type: ignore[index]
            bench.arena.give_back([block.name])
    assert there == where


def test_what_somebody_can_still_write_to_is_copied(bench: Bench) -> None:
    kept: list[Array] = []
    with bench.item():
        x = filled(1)
        kept.append(x[3:4])  # a view is enough
        where = address(x)
        made: list[object] = [x]
        del x
        block, batch, _ = bench.lend(made)
        assert block is not None
        assert address(batch) != where
        kept[0][...] = 99
        assert np.all(batch == 1)
    owned = bench.arena.owned_bytes()
    for _ in range(3):  # its block is not used again while that view is alive
        with bench.item():
            made = [filled(2)]
            block, _, _ = bench.lend(made)
            assert block is not None
            bench.arena.give_back([block.name])
        assert np.all(kept[0] == 99)
    kept.clear()
    for _ in range(3):
        with bench.item():
            made = [filled(3)]
            block, _, _ = bench.lend(made)
            assert block is not None
            bench.arena.give_back([block.name])
    assert bench.arena.owned_bytes() <= 2 * owned
    assert not bench.scratch._kept


def test_the_same_array_for_every_item(bench: Bench) -> None:
    """An array that was made in another item is as any other: it is copied."""
    with bench.item():
        mine = filled(1)
        block, batch, _ = bench.lend([mine])
        assert block is not None and np.all(batch == 1)
    for value in (2, 3):
        with bench.item():
            mine[...] = value
            encoded = codec.encode(mine, bench.scratch if bench.scratch.used else None)
            assert not encoded.placed
            block, _, _ = bench.lend([mine])
            assert block is None
        assert np.all(batch == 1), "what was lent has changed"


def test_twice_in_a_batch_and_overlapping_views(bench: Bench) -> None:
    """Only one of them can stay where it is. The first time there is no room for the others, then it has been learnt."""
    for known in (False, True):
        with bench.item():
            x = filled(1)
            x[50:] = 2
            made: list[object] = [(x, x, x[16:], x[:8])]
            del x
            block, batch, _ = bench.lend(made)
            assert (block is not None) == known
    a, b, c, d = batch  # type: ignore[misc]
    assert len({address(array) for array in (a, b, c, d)}) == 4
    assert np.array_equal(a, b) and np.array_equal(a[16:], c) and np.array_equal(a[:8], d)


def test_small_ones_and_objects_are_numpy_s_own(bench: Bench) -> None:
    with bench.item():
        assert feeder_server.empty(INLINE_BYTES, np.uint8).flags.owndata
        assert feeder_server.empty((1000, 1000), object).flags.owndata
        assert feeder_server.empty((0, 10**9)).flags.owndata
        assert not bench.scratch.used
        big = filled(0)
        assert not big.flags.owndata
        assert not feeder_server.empty(8, np.uint8).flags.owndata, "there is a block now"


def test_other_threads_get_numpy_s_own(bench: Bench) -> None:
    found: list[Array] = []
    with bench.item():
        thread = threading.Thread(target=lambda: found.append(feeder_server.empty(BIG, np.float32)))
        thread.start()
        thread.join()
    assert found[0].flags.owndata


def test_between_items_it_is_numpy_s_own(bench: Bench) -> None:
    assert feeder_server.empty(BIG).flags.owndata
    with bench.item():
        pass
    assert feeder_server.empty(BIG).flags.owndata


def test_room_is_learnt(bench: Bench) -> None:
    """The first item's second array doesn't fit in; from the next one on it does."""
    with bench.item():
        filled(1)
        assert feeder_server.empty(FIRST_TAIL * 4, np.uint8).flags.owndata
    with bench.item():
        filled(1)
        assert not feeder_server.empty(FIRST_TAIL * 4, np.uint8).flags.owndata


def test_no_room_at_all(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(nbytes: int) -> Block:
        raise inplace.ArenaFullError("no room")

    monkeypatch.setattr(bench.arena, "take", full)
    with bench.item():
        assert feeder_server.empty(BIG).flags.owndata


def test_an_item_that_fails(bench: Bench) -> None:
    """Its traceback holds the array for a while; then the block is used again."""
    names = set()
    for _ in range(6):
        try:
            with bench.item():
                x = filled(1)
                assert bench.scratch._piece is not None
                names.add(bench.scratch._piece.block.name)
                del x
                raise ValueError("bad")
        except ValueError:
            pass
    assert len(names) <= 2


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    parts=st.lists(
        st.tuples(st.sampled_from(["made", "own", "part", "turned"]), st.integers(0, 3), st.sampled_from([10, 9000, 40000])), max_size=6
    ),
    keeps=st.booleans(),
)
def test_whatever_is_returned_arrives(bench: Bench, parts: list[tuple[str, int, int]], keeps: bool) -> None:
    """Two items, so that room has been learnt; each array with its own values, also where the user keeps one."""
    for number in (1, 2):
        kept = []
        with bench.item():
            batch, expected = [], []
            for i, (how, drop, size) in enumerate(parts):
                value = 100 * number + i
                array = np.full((size, 2), value, np.int32) if how == "own" else feeder_server.empty((size, 2), np.int32)
                array[...] = value
                array[drop:, 1] += np.arange(size - drop)
                if how == "part":
                    array = array[drop:]
                if how == "turned":
                    array = array.T
                expected.append(array.copy())
                if keeps and i == 1:
                    kept.append(array)
                batch.append(array)
                del array
            encoded = codec.encode(batch, bench.scratch if bench.scratch.used else None)
            head, nbytes = encoded.head, encoded.nbytes
            batch.clear()
            block = bench.scratch.lend(encoded) if encoded.placed else None
            if block is None:
                payload = codec.aligned_empty(nbytes)
                encoded.write_into(payload)
            else:
                payload = np.frombuffer(block.view, np.uint8)
        for array in kept:
            array[...] = -1
        arrived = codec.decode(head, payload)
        for got, wanted in zip(arrived, expected, strict=True):  # type: ignore[call-overload]
            assert np.array_equal(got, wanted)
        if block is not None:
            del arrived, payload, got
            bench.arena.give_back([block.name])
