"""Page-locked blocks, with something that stands for CUDA: when what is registered, and when a block goes home.

What only a device can show (how fast it is, that a copy overlaps) is not here.
"""

from __future__ import annotations

import gc
import logging
import mmap
import sys
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from feeder_client import pinned
from feeder_client.cuda import Cuda, pins_where_cuda_is_used
from feeder_client.pinned import ALREADY_REGISTERED, Mark, Pins, asked
from tests.client.test_payload import SIZE, Desk
from tests.serving import until


class Moment:
    """Is over when the test says so."""

    def __init__(self, over: bool) -> None:
        self.over = threading.Event()
        if over:
            self.over.set()

    def done(self) -> bool:
        return self.over.is_set()

    def wait(self) -> None:
        assert self.over.wait(60)


class Noting:
    """A CUDA that notes what it is asked for. Memory is read when it is registered and let go: it has to be mapped then."""

    def __init__(self, code: int = 0) -> None:
        self.code = code
        self.asked: list[int] = []
        self.registered: dict[int, int] = {}
        self.let_go: list[int] = []
        self.busy = self.capturing = self.lost = False
        self.moments: list[Moment] = []

    def register(self, address: int, size_bytes: int) -> int:
        self.asked.append(address)
        if self.code == 0:
            assert address not in self.registered
            self.registered[address] = size_bytes
        return self.code

    def unregister(self, address: int) -> int:
        assert in_maps(address, self.registered.pop(address))
        self.let_go.append(address)
        return 0

    def mark(self) -> Mark | None:
        if self.lost:
            raise RuntimeError("CUDA error: unspecified launch failure")
        if self.capturing:
            return None
        self.moments.append(Moment(not self.busy))
        return self.moments[-1]


def in_maps(address: int, size: int) -> bool:
    """Is this memory mapped? True where the system doesn't tell."""
    if sys.platform != "linux":
        return True
    for line in Path("/proc/self/maps").read_text().splitlines():
        low, high = (int(part, 16) for part in line.split()[0].split("-"))
        if low <= address < high:
            return address + size <= high
    return False


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path, limit_bytes=8 * SIZE)
    yield made
    made.close()


@pytest.fixture
def cuda() -> Noting:
    return Noting()


@pytest.fixture
def pins(cuda: Noting) -> Iterator[Pins]:
    made = Pins(cuda, least_bytes=1)
    yield made
    for moment in cuda.moments:
        moment.over.set()
    made.close()


def opened(desk: Desk, pins: Pins, number: int = 0) -> Any:
    """A batch of an array of this number."""
    batch = desk.lend((np.full(5000, number, np.float32),))
    cuda: Any = pins._runtime
    before = len(cuda.moments)
    with pins.asking():
        found: Any = batch.open()
    del cuda.moments[before:]  # with the first registering it is tried whether there are any
    return found[0]


class TestRegistering:
    def test_a_block_once_and_let_go_before_it_is_unmapped(self, desk: Desk, pins: Pins, cuda: Noting) -> None:
        for number in range(4):  # one after the other in one block
            array = opened(desk, pins, number)
            assert array[-1] == number
            assert array.ctypes.data % 64 == 0
            del array
            (name,) = desk.home()
        assert len(cuda.asked) == 1
        assert cuda.registered == {cuda.asked[0]: SIZE}
        assert pins.held_bytes == SIZE
        desk.loan.forget([name, "0-7-7-7"])
        gc.collect()
        assert cuda.let_go == cuda.asked  # `unregister` has looked whether it was still mapped
        assert pins.held_bytes == 0
        if sys.platform == "linux":
            assert not in_maps(cuda.asked[0], SIZE)

    def test_a_view_holds_it(self, desk: Desk, pins: Pins, cuda: Noting) -> None:
        array = opened(desk, pins, 7)[3:]
        name = next(iter(desk.loan.holds))
        desk.loan.forget([name])
        pins.close()
        gc.collect()
        assert not cuda.let_go
        assert (array == 7).all()
        del array
        assert cuda.let_go == cuda.asked
        assert desk.home() == [name]

    def test_closing_lets_go_what_nobody_looks_at(self, desk: Desk, pins: Pins, cuda: Noting) -> None:
        first, second = opened(desk, pins, 1), opened(desk, pins, 2)
        del second
        pins.close()
        assert cuda.let_go == cuda.asked[1:]
        assert first[0] == 1
        assert opened(desk, pins, 3)[0] == 3
        assert len(cuda.asked) == 2
        del first
        assert sorted(cuda.let_go) == sorted(cuda.asked)

    def test_what_a_lost_node_had_goes_with_it(self, desk: Desk, pins: Pins, cuda: Noting, tmp_path: Path) -> None:
        (tmp_path / "other").mkdir()
        other = Desk(tmp_path / "other", 8 * SIZE)
        opened(other, pins)
        opened(desk, pins)
        assert len(cuda.registered) == 2
        other.writer.close()
        other.wakes.clear()
        del other
        gc.collect()
        assert cuda.let_go == cuda.asked[:1]

    def test_only_who_asks(self, desk: Desk, pins: Pins, cuda: Noting) -> None:
        desk.lend().open()
        assert not cuda.asked
        with pins.asking():
            assert asked() is pins
            thread = threading.Thread(target=lambda: desk.lend().open())
            thread.start()
            thread.join()
        assert asked() is None
        assert not cuda.asked

    def test_sizes(self, desk: Desk, cuda: Noting) -> None:
        small = Pins(cuda, least_bytes=SIZE + 1)
        opened(desk, small)
        assert not cuda.asked
        two = Pins(cuda, least_bytes=SIZE, most_bytes=2 * SIZE)
        kept = [opened(desk, two, number) for number in range(4)]
        assert len(cuda.asked) == 2
        assert two.held_bytes == 2 * SIZE
        assert [array[0] for array in kept] == [0, 1, 2, 3]
        two.close()

    def test_what_cuda_refuses_is_tried_once(self, desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
        refusing = Noting(code=2)
        pins = Pins(refusing, least_bytes=1)
        arrays = [opened(desk, pins, number) for number in range(3)]
        assert [array[0] for array in arrays] == [0, 1, 2]
        assert len(refusing.asked) == 1
        assert [record.levelno for record in caplog.records if "can't be page-locked" in record.message] == [logging.WARNING]
        assert "CUDA error 2" in caplog.text
        del arrays
        assert len(desk.home()) == 3
        assert not refusing.moments
        pins.close()

    def test_a_torch_that_cannot_is_left_alone(self, desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
        cuda = Noting()
        cuda.lost = True
        pins = Pins(cuda, least_bytes=1)
        assert [opened(desk, pins, number)[0] for number in range(2)] == [0, 1]
        assert not cuda.asked
        assert caplog.text.count("can't be page-locked") == 1
        assert "unspecified launch failure" in caplog.text
        pins.close()

    def test_what_is_registered_already_is_not_ours_to_let_go(self, desk: Desk) -> None:
        done_before = Noting(code=ALREADY_REGISTERED)
        pins = Pins(done_before, least_bytes=1)
        array = opened(desk, pins)
        del array
        assert len(done_before.moments) == 1  # it is page-locked all the same, and waits for the device
        desk.loan.forget(desk.home())
        pins.close()
        assert not done_before.let_go
        assert pins.held_bytes == 0

    def test_a_copy_is_no_block(self, tmp_path: Path, cuda: Noting) -> None:
        """Who holds too much gets copies, whose block goes home at once."""
        desk, pins = Desk(tmp_path, limit_bytes=SIZE), Pins(cuda, least_bytes=1)
        cuda.busy = True
        first, second = opened(desk, pins, 1), opened(desk, pins, 2)
        assert len(desk.home()) == 1
        assert second[0] == 2
        assert first[0] == 1
        cuda.busy = False
        del first
        desk.writer.close()
        pins.close()


class TestGoingHome:
    def test_when_the_device_is_done_with_it(self, desk: Desk, pins: Pins, cuda: Noting) -> None:
        array, other = opened(desk, pins, 1), opened(desk, pins, 2)
        cuda.busy = True
        del array
        del other
        assert not desk.home()
        assert len(cuda.moments) == 2
        cuda.moments[0].over.set()
        until(lambda: len(desk.loan.returned) == 1, "the first block goes home")
        cuda.moments[1].over.set()
        until(lambda: len(desk.loan.returned) == 2, "the second block goes home")
        assert len(set(desk.home())) == 2

    def test_it_stays_registered_until_then(self, desk: Desk, pins: Pins, cuda: Noting) -> None:
        array = opened(desk, pins)
        cuda.busy = True
        del array
        desk.loan.forget(desk.loan.holds)
        gc.collect()
        assert not cuda.let_go
        cuda.moments[0].over.set()
        until(lambda: cuda.let_go == cuda.asked, "it is let go")

    def test_also_what_is_opened_without_asking(self, desk: Desk, pins: Pins, cuda: Noting) -> None:
        """It lies in pages that are locked, and whoever makes a tensor of it may copy it without waiting."""
        del_me = opened(desk, pins, 1)
        del del_me
        desk.home()
        batch: Any = desk.lend((np.full(5000, 2, np.float32),)).open()
        cuda.busy = True
        del batch
        assert not desk.home()
        cuda.moments[-1].over.set()
        until(lambda: len(desk.loan.returned) == 1, "the block goes home")

    def test_while_a_graph_is_captured_it_waits_for_the_next_mark(self, desk: Desk, pins: Pins, cuda: Noting) -> None:
        arrays = [opened(desk, pins, number) for number in range(3)]
        cuda.capturing = True
        arrays.pop()
        arrays.pop()
        assert not desk.home()
        cuda.capturing = False
        arrays.pop()
        assert len(desk.home()) == 3

    def test_a_lost_device_ends_nothing(self, desk: Desk, pins: Pins, cuda: Noting) -> None:
        arrays = [opened(desk, pins, number) for number in range(2)]
        cuda.lost = True
        arrays.pop()
        cuda.lost = False
        arrays.pop()
        assert len(desk.home()) == 2

    def test_a_device_lost_while_somebody_waits(self, desk: Desk, pins: Pins, cuda: Noting, monkeypatch: pytest.MonkeyPatch) -> None:
        def failing(self: Moment) -> None:
            raise RuntimeError("CUDA error: unspecified launch failure")

        array, other = opened(desk, pins, 1), opened(desk, pins, 2)
        cuda.busy = True
        monkeypatch.setattr(Moment, "wait", failing)
        del array
        until(lambda: len(desk.loan.returned) == 1, "the block goes home")
        del other
        until(lambda: len(desk.loan.returned) == 2, "and the next one")

    def test_closing_waits_for_it(self, desk: Desk, pins: Pins, cuda: Noting) -> None:
        array, other = opened(desk, pins, 1), opened(desk, pins, 2)
        cuda.busy = True
        del array
        threading.Timer(0.05, cuda.moments[0].over.set).start()
        pins.close()
        assert len(desk.home()) == 1
        assert not [thread for thread in threading.enumerate() if thread.name == "feeder-pinned"]
        cuda.busy = False
        del other
        assert len(desk.home()) == 1

    def test_what_is_released_while_it_closes(self, desk: Desk, pins: Pins, cuda: Noting, monkeypatch: pytest.MonkeyPatch) -> None:
        """Another thread has found it open, and puts its block behind the last word."""
        arrays, put = [opened(desk, pins, 1)], pins._later.put

        class Later:
            empty, get = pins._later.empty, pins._later.get

            def put(self, item: object) -> None:
                if item is None and arrays:
                    put(None)
                    pins._closed = False
                    cuda.busy = True
                    arrays.clear()
                    cuda.moments[-1].over.set()
                else:
                    put(item)  # type: ignore[arg-type]

        monkeypatch.setattr(pins, "_later", Later())
        pins.close()
        assert len(desk.home()) == 1

    def test_a_thread_only_where_something_is_locked(self, pins: Pins) -> None:
        with pins.asking():
            pass
        assert not [thread for thread in threading.enumerate() if thread.name == "feeder-pinned"]


class FakeTorch:
    """As much of torch as `Cuda` uses."""

    def __init__(self, code: int = 0, initialized: bool = True) -> None:
        self.calls: list[Any] = []
        self.code = code
        self.capturing = False
        self._C = SimpleNamespace(_cuda_hasPrimaryContext=lambda index: index != 1)
        cudart = SimpleNamespace(cudaHostRegister=self._called("register"), cudaHostUnregister=self._called("unregister"))
        self.cuda = SimpleNamespace(
            cudart=lambda: cudart,
            current_device=lambda: 2,
            device=self.device,
            device_count=lambda: 3,
            is_initialized=lambda: initialized,
            is_current_stream_capturing=lambda: self.capturing,
            current_stream=lambda index: f"stream of {index}" if index == 2 else f"default of {index}",
            default_stream=lambda index: f"default of {index}",
            Event=self.event,
        )

    def _called(self, name: str) -> Any:
        def call(*args: int) -> int:
            self.calls.append((name, *args))
            return self.code

        return call

    def device(self, index: int) -> Any:
        calls = self.calls

        class Guard:
            def __enter__(self) -> None:
                calls.append(("device", index))

            def __exit__(self, *error: object) -> None:
                calls.append(("device back",))

        return Guard()

    def event(self, blocking: bool) -> Any:
        assert blocking
        return SimpleNamespace(
            record=lambda stream: self.calls.append(("record", stream)),
            query=lambda: True,
            synchronize=lambda: self.calls.append(("synchronize",)),
        )

    def zeros(self, size: int, device: str) -> None:
        self.calls.append(("zeros", device))
        raise RuntimeError("CUDA error: the one that was left over")


class TestCuda:
    def test_portable_and_on_the_device_of_the_training(self) -> None:
        torch = FakeTorch()
        cuda = Cuda(torch)
        assert cuda.register(4096, 8192) == 0
        assert cuda.unregister(4096) == 0
        assert torch.calls == [("register", 4096, 8192, 1), ("device", 2), ("unregister", 4096), ("device back",)]

    @pytest.mark.parametrize("code", [2, ALREADY_REGISTERED])
    def test_an_error_is_not_left_for_torch_to_find(self, code: int) -> None:
        torch = FakeTorch(code)
        cuda = Cuda(torch)
        assert cuda.register(4096, 8192) == code
        assert cuda.unregister(4096) == code
        assert torch.calls.count(("zeros", "cuda:2")) == 2

    def test_a_mark_is_on_every_stream_that_may_copy(self) -> None:
        torch = FakeTorch()
        cuda = Cuda(torch)
        mark = cuda.mark()
        assert mark is not None
        assert sorted(torch.calls) == [("record", "default of 0"), ("record", "default of 2"), ("record", "stream of 2")]  # 1 isn't in use
        assert mark.done()
        torch.calls.clear()
        mark.wait()
        assert torch.calls == [call for index in (0, 2, 2) for call in (("device", index), ("synchronize",), ("device back",))]
        torch.capturing = True
        assert cuda.mark() is None

    def test_where_cuda_is_used(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "torch", FakeTorch())
        assert isinstance(pins_where_cuda_is_used(), Pins)
        monkeypatch.setitem(sys.modules, "torch", FakeTorch(initialized=False))
        assert pins_where_cuda_is_used() is None
        monkeypatch.delitem(sys.modules, "torch")
        assert pins_where_cuda_is_used() is None


def test_an_array_tells_before_its_mapping_goes(tmp_path: Path) -> None:
    """What `Pages` is for: a mapping itself unmaps first."""
    file = tmp_path / "block"
    file.write_bytes(bytes(1 << 16))
    found: list[bool] = []
    with open(file, "r+b") as f:
        pages = pinned.Pages(mmap.mmap(f.fileno(), 1 << 16), Pins(Noting()))
    address = pages.address
    weakref.finalize(pages.array, lambda: found.append(in_maps(address, 1 << 16)))
    del pages
    assert found == [True]
    if sys.platform == "linux":
        assert not in_maps(address, 1 << 16)
