"""`as_torch_dataset`: run as a script, in a process of its own, for one check starts DataLoader's workers."""

from __future__ import annotations

import ctypes
import pickle
import sys
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from checking import SOURCES, check, refused, run
from torch.utils.data import DataLoader, IterableDataset

from feeder_client import FeederClient
from feeder_client.pinned import Pins

N, SAMPLES = 8, 30


def client(attr: str = "Samples", workers: int = 2, **options: Any) -> Any:
    args = options.pop("args", None)
    return FeederClient.local(f"{SOURCES}:{attr}", workers=workers, args=args, **options)


def epoch(e: int) -> list[int]:
    return [1000 * e + i for i in range(SAMPLES)]


def samples(batches: Any) -> list[int]:
    return [int(v) for _, y in batches for v in y.ravel()]


@check
def skips() -> None:
    """The length was promised, so another batch of the pass stands in."""
    with client(args={"broken": 2}, on_error="skip") as c:
        for e in range(2):
            assert samples(c.as_torch_dataset()) == epoch(e)[:8] + epoch(e)[4:8] + epoch(e)[12:]


@check
def each_iteration_is_one_pass() -> None:
    with client() as c:
        dataset = c.as_torch_dataset()
        assert isinstance(dataset, IterableDataset)
        assert "FeederClient" in repr(dataset)
        assert len(dataset) == N
        loader = DataLoader(dataset, batch_size=None)
        assert len(loader) == N
        for e in range(3):
            assert samples(loader) == epoch(e)
        assert samples(dataset) == epoch(3)
        assert c.stats().batches == 4 * N
        for _ in loader:
            break
        assert sorted(s % 1000 for s in samples(loader)) == epoch(0)


@check
def tensors_are_views() -> None:
    with client("Large", args={"n": 12}) as c:
        handed: list[int] = []
        form = c._form

        def noting(batch: Any) -> Any:
            handed.append(batch[0].ctypes.data)
            return form(batch)

        c._form = noting
        taken = []
        for x, _ in DataLoader(c.as_torch_dataset(), batch_size=None):
            assert x.dtype == torch.float32
            taken.append(x.data_ptr())
        assert taken == handed


@check
def tensors_keep_their_blocks() -> None:
    for memory in ("1GiB", "4MiB"):  # with the second, what is kept is too much: copies
        with client("Large", args={"n": 60}, memory=memory) as c:
            loader = DataLoader(c.as_torch_dataset(), batch_size=None)
            kept = [(x[2:], y) for i, (x, y) in enumerate(loader) if i % 7 == 0]
            assert c.stats().borrowed_bytes > 0
            for _ in range(2):
                for _ in loader:
                    pass
            for i, (x, y) in enumerate(kept):
                assert y.ravel().tolist() == [28 * i + k for k in range(4)]
                assert (x == y[2:]).all()
            c.close()  # also after that
            assert all((x == y[2:]).all() for x, y in kept)


class Device:
    """Something that stands for CUDA: it does what it is asked for late, and in that order."""

    def __init__(self) -> None:
        self.work: list[Callable[[], object]] = []
        self.registered: set[int] = set()
        self.times = 0

    def register(self, address: int, size_bytes: int) -> int:
        self.registered.add(address)
        self.times += 1
        return 0

    def unregister(self, address: int) -> int:
        self.registered.remove(address)
        return 0

    def mark(self) -> Any:
        over = threading.Event()
        self.work.append(over.set)
        return SimpleNamespace(done=over.is_set, wait=over.wait)

    def copy(self, tensor: Any, expected: list[int]) -> None:
        address, size = tensor.data_ptr(), tensor.nbytes

        def late() -> None:  # the tensor is gone by then
            found = np.frombuffer((ctypes.c_char * size).from_address(address), np.float32).reshape(tensor_shape)
            assert found[:, 0].tolist() == found[:, -1].tolist() == expected

        tensor_shape = tuple(tensor.shape)
        self.work.append(late)

    def run(self, behind: int) -> None:
        while len(self.work) > behind:
            self.work.pop(0)()


@check
def page_locked_blocks_wait_for_the_device() -> None:
    """Each is copied after its tensor was dropped: nobody may have written to it until then."""
    device = Device()
    with client("Large", args={"n": 60}, prefetch=6) as c:
        c._pins = Pins(device, least_bytes=1)
        for _ in range(3):
            seen = 0
            for x, y in DataLoader(c.as_torch_dataset(pin=True), batch_size=None):
                device.copy(x, y.ravel().tolist())
                assert x.data_ptr() - x.data_ptr() % 4096 in device.registered
                del x, y
                device.run(behind=12)
                seen += 1
            assert seen == 60
        blocks = len(device.registered)
        assert blocks < 90, "blocks come back"
        assert device.times == blocks, "a block is registered once"
        device.run(behind=0)
    assert not device.registered
    assert "feeder-pinned" not in [thread.name for thread in threading.enumerate()]


@check
def without_cuda_pin_changes_nothing() -> None:
    with client() as c:
        assert samples(DataLoader(c.as_torch_dataset(pin=True), batch_size=None)) == epoch(0)
        assert c._pins is None


@check
def errors_come_in_order() -> None:
    with client(args={"broken": 5}) as c:
        found = []

        def read() -> None:
            for _, y in DataLoader(c.as_torch_dataset(), batch_size=None):
                found.append(int(y[0]))

        refused(["SourceError", "no such image: 5.png", "sources.py"], read)
        assert found == [0, 4, 8, 12, 16]


@check
def streams() -> None:
    with client("stream", workers=1) as c:
        loader = DataLoader(c.as_torch_dataset(), batch_size=None)
        refused(["TypeError", "no len()"], len, loader)
        for _ in range(2):
            assert samples(loader) == [*range(32)]
    with client("stream", workers=1, args={"ends": False}, steps=5) as c:
        loader = DataLoader(c.as_torch_dataset(), batch_size=None)
        assert len(loader) == 5
        assert samples(loader) == [*range(20)]
        assert samples(loader) == [*range(20, 40)]


@check
def structures() -> None:
    with client("mixed", workers=1) as c:
        for i, (x, y, nothing) in enumerate(c.as_torch_dataset()):
            assert nothing is None
            assert isinstance(x["text"], np.ndarray)
            assert x["text"].tolist() == [f"é{i}", "longer" * (i + 1)]
            assert type(x["inner"]) is list
            assert x["inner"][0].dtype == torch.int16
            assert x["inner"][1] == [i / 2, "scalar"]
            assert x["big"].dtype == torch.float32
            assert x["big"].tolist() == [1, i]
            assert x["bool"].dtype == torch.bool
            assert y.shape == (2, 3 + i, 3)
    with client("dates", workers=1) as c:
        _, when = next(iter(c.as_torch_dataset()))
        assert when["when"].dtype == np.dtype("M8[D]")
    from feeder_client.forms import tensors

    for odd in (np.arange(12.0).reshape(3, 4).T, np.arange(6)[::-1], np.array(3.25), np.zeros((0, 3))):
        assert np.array_equal(tensors(odd).numpy(), odd)
    try:
        import ml_dtypes
    except ImportError:
        return
    found = tensors(np.array([1.5, -2.0], ml_dtypes.bfloat16))
    assert found.dtype == torch.bfloat16
    assert found.tolist() == [1.5, -2.0]


@check
def workers_of_torch_are_refused() -> None:
    with client() as c:
        dataset = c.as_torch_dataset()
        for context in ("fork", "spawn"):
            loader = DataLoader(dataset, batch_size=None, num_workers=1, multiprocessing_context=context)
            refused(["num_workers=0"], list, loader)
        refused(["num_workers=0"], pickle.dumps, dataset)
        assert samples(dataset) == epoch(0)


if __name__ == "__main__":
    run(sys.argv[1:])
