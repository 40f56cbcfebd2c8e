"""Batches on loan: a block goes home when the last view of it has died, in whatever thread, and never before."""

from __future__ import annotations

import gc
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from feeder_client.payload import Borrowed, Broken, Loan, Owned, small
from feeder_wire import codec
from feeder_wire.arena import ArenaReader, ArenaWriter
from feeder_wire.errors import ProtocolError, SourceError
from feeder_wire.messages import Lent

SESSION = b"s" * 16
BATCH = (np.arange(4096, dtype=np.float32).reshape(64, 64), {"label": np.arange(64)}, None)
SIZE = 20_480  # of the block that it takes


class Desk:
    """A worker's arena and one client's loan on it."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.writer = ArenaWriter([str(folder)], 0, 1, 1 << 30)
        self.wakes: list[str] = []
        self.loan = Loan(ArenaReader([str(folder)]), limit_bytes, lambda: self.wakes.append(threading.current_thread().name))

    def lend(self, batch: object = BATCH) -> Borrowed:
        encoded = codec.encode(batch)
        block = self.writer.take(encoded.nbytes)
        encoded.write_into(memoryview(block.view)[: encoded.nbytes])
        lent = Lent(SESSION, 0, 0, encoded.head, block.name, block.size, encoded.nbytes, 0.0)
        return Borrowed(encoded.head, self.loan.accept(lent), encoded.nbytes, block.name, self.loan)

    def close(self) -> None:
        self.loan.reader.close()
        self.writer.close()

    def home(self) -> list[str]:
        """What has come back since the last time."""
        names = list(self.loan.returned)
        self.loan.returned.clear()
        self.writer.give_back(names)
        return names


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path, limit_bytes=4 * SIZE)
    yield made
    made.close()


def in_block(array: Any, borrowed: Borrowed) -> bool:
    """Is it a view of the block, and no copy?"""
    return bool(np.shares_memory(array, np.frombuffer(borrowed.mapped, np.uint8)))


class TestBorrowed:
    def test_opens_as_aligned_writable_views(self, desk: Desk) -> None:
        borrowed = desk.lend()
        x, y, none = borrowed.open()  # type: ignore[misc]
        assert none is None
        assert (x == BATCH[0]).all()
        assert (y["label"] == BATCH[1]["label"]).all()
        for array in (x, y["label"]):
            assert in_block(array, borrowed)
            assert array.ctypes.data % 64 == 0
            assert array.flags.writeable

    def test_goes_home_with_the_last_view(self, desk: Desk) -> None:
        borrowed = desk.lend()
        x, y, _ = borrowed.open()  # type: ignore[misc]
        row, flat = x[3], x.reshape(-1)[::2]
        del x, flat
        assert not desk.home()
        label = y.pop("label")
        del row
        assert not desk.home(), "the other array of the batch is a view of the same block"
        del label
        assert desk.home() == [borrowed.block]
        assert desk.wakes == [threading.current_thread().name]

    def test_a_memoryview_or_another_library_keeps_it_too(self, desk: Desk) -> None:
        borrowed = desk.lend(np.arange(9000))
        view = memoryview(borrowed.open())  # type: ignore[arg-type]
        gc.collect()
        assert not desk.home()
        assert view[8999] == 8999
        view.release()
        del view
        assert desk.home() == [borrowed.block]

    def test_a_batch_in_a_cycle_goes_home_when_it_is_collected(self, desk: Desk) -> None:
        borrowed = desk.lend()
        held: list[Any] = [borrowed.open()]
        held.append(held)
        del held
        gc.collect()
        assert desk.home() == [borrowed.block]

    def test_the_last_view_may_die_in_any_thread(self, desk: Desk) -> None:
        borrowed = desk.lend()
        held = [borrowed.open()]
        thread = threading.Thread(target=held.clear, name="some tf.data thread")
        thread.start()
        thread.join()
        assert desk.wakes == ["some tf.data thread"]
        assert desk.home() == [borrowed.block]

    def test_many_threads_at_once_lose_none(self, desk: Desk) -> None:
        batches = [[desk.lend().open()] for _ in range(4)]
        barrier = threading.Barrier(4)

        def drop(held: list[Any]) -> None:
            barrier.wait(30)
            held.clear()

        threads = [threading.Thread(target=drop, args=(held,)) for held in batches]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(desk.home()) == 4
        assert desk.loan.held_bytes == 0
        assert desk.loan.holds == ()

    def test_opened_again_after_it_came_back_with_other_content(self, desk: Desk) -> None:
        first = desk.lend(np.full(9000, 1))
        block = first.block
        del first
        assert not desk.home(), "it was not opened: the receiver still has it to give"
        desk.loan.give_back(block)
        desk.home()
        second = desk.lend(np.full(9000, 2))
        assert second.block == block
        array = second.open()
        assert (array == 2).all()  # type: ignore[attr-defined]

    def test_a_batch_without_arrays_goes_home_at_once(self, desk: Desk) -> None:
        borrowed = desk.lend(("x" * 50_000, b"y" * 50_000))
        assert borrowed.open() == ("x" * 50_000, b"y" * 50_000)
        assert desk.home() == [borrowed.block]

    def test_a_head_that_cannot_be_read_loses_no_block(self, desk: Desk) -> None:
        borrowed = desk.lend()
        borrowed.head = b"\x00"
        with pytest.raises(ProtocolError):
            borrowed.open()
        gc.collect()
        assert desk.home() == [borrowed.block]

    def test_dropped_unseen(self, desk: Desk) -> None:
        borrowed = desk.lend()
        borrowed.drop()
        assert desk.home() == [borrowed.block]
        assert desk.loan.held_bytes == 0

    def test_views_outlive_the_loan_and_the_arena(self, desk: Desk) -> None:
        x = desk.lend().open()[0]  # type: ignore[index]
        desk.loan.reader.close()
        desk.writer.close()
        assert (x == BATCH[0]).all()


class TestTheLimit:
    def test_above_it_batches_are_copied_out_and_blocks_go_home(self, desk: Desk) -> None:
        kept = []
        for number in range(8):
            borrowed = desk.lend()
            batch = borrowed.open()
            kept.append(batch)
            assert in_block(batch[0], borrowed) == (number < 4), f"batch {number} with room for 4"  # type: ignore[index]
            assert desk.home() == ([] if number < 4 else [borrowed.block])
        assert desk.loan.held_bytes == 4 * SIZE
        assert all((batch[0] == BATCH[0]).all() for batch in kept)  # type: ignore[index]

    def test_a_copy_is_aligned_too(self, desk: Desk) -> None:
        kept = [desk.lend().open() for _ in range(5)]
        assert kept[4][0].ctypes.data % 64 == 0  # type: ignore[index]
        assert kept[4][0].flags.writeable  # type: ignore[index]

    def test_room_again_views_again(self, desk: Desk) -> None:
        kept = [desk.lend().open() for _ in range(6)]
        kept.clear()
        desk.home()
        borrowed = desk.lend()
        assert in_block(borrowed.open()[0], borrowed)  # type: ignore[index]

    def test_what_waits_in_the_window_does_not_count(self, desk: Desk) -> None:
        # Nine batches ready and a trainer that holds one at a time: none is copied. It was so at one time.
        waiting = [desk.lend() for _ in range(9)]
        assert desk.loan.held_bytes == 9 * SIZE
        for borrowed in waiting:
            assert in_block(borrowed.open()[0], borrowed)  # type: ignore[index]
        assert sorted(desk.home()) == sorted(b.block for b in waiting)

    def test_one_batch_is_always_lent(self, tmp_path: Path) -> None:
        desk = Desk(tmp_path, limit_bytes=1)
        first, second = desk.lend(), desk.lend()
        x, y = first.open(), second.open()
        assert in_block(x[0], first)  # type: ignore[index]
        assert not in_block(y[0], second)  # type: ignore[index]


class TestLoan:
    def test_says_what_it_holds(self, desk: Desk) -> None:
        borrowed = [desk.lend() for _ in range(3)]
        assert desk.loan.holds == tuple(b.block for b in borrowed)
        assert desk.loan.held_bytes == 3 * SIZE
        batch = borrowed[1].open()
        borrowed[0].drop()
        assert desk.loan.holds == (borrowed[1].block, borrowed[2].block)
        del batch
        assert desk.loan.holds == (borrowed[2].block,)

    def test_nobody_is_woken_for_little(self, tmp_path: Path) -> None:
        desk = Desk(tmp_path, limit_bytes=4 * 8 * SIZE)
        for count in range(1, 5):
            desk.lend().drop()
            assert len(desk.loan.returned) == count
            assert len(desk.wakes) == (count == 4)
        desk.home()
        desk.lend().drop()
        assert len(desk.wakes) == 1

    def test_a_block_that_is_not_there_is_not_accepted(self, desk: Desk) -> None:
        with pytest.raises(ProtocolError):
            desk.loan.accept(Lent(SESSION, 0, 0, b"", "0-7-7-7", 4096, 10, 0.0))
        assert desk.loan.holds == ()


def test_nothing_is_called_at_exit(tmp_path: Path) -> None:
    """The process ends with views alive: mappings go with it, and nobody is woken who is gone already."""
    code = """
        import os, sys
        sys.path.insert(0, os.getcwd())
        from pathlib import Path
        from tests.client.test_payload import Desk
        desk = Desk(Path(sys.argv[1]), 100_000)
        desk.loan._wake = lambda: print("woken", flush=True)
        first, second = desk.lend().open(), desk.lend().open()
        del first
        print("end", flush=True)
    """
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)], cwd=root, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["woken", "end"], "")


class TestTheOthers:
    def test_owned_is_decoded_where_it_lies(self) -> None:
        encoded = codec.encode(BATCH)
        data = small(bytes(encoded.to_bytes()))
        assert data.ctypes.data % 64 == 0
        x = Owned(encoded.head, data, encoded.nbytes).open()[0]  # type: ignore[index]
        assert (x == BATCH[0]).all()
        assert np.shares_memory(x, data)

    def test_small_copies_and_aligns_also_nothing(self) -> None:
        for nbytes in (0, 1, 63, 64, 10_000):
            source = bytes(range(256)) * 40
            made = small(source[:nbytes])
            assert made.tobytes() == source[:nbytes]
            assert made.ctypes.data % 64 == 0 or nbytes == 0

    def test_broken_raises_when_its_turn_comes(self) -> None:
        error = SourceError("no")
        with pytest.raises(SourceError) as caught:
            Broken(error).open()
        assert caught.value is error
        Broken(error).drop()
        Owned(b"", small(b""), 0).drop()
