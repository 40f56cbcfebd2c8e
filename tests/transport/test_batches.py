"""What a batch looks like at the other end: structure, contents, addresses, and how long it stays so."""

from __future__ import annotations

import gc
import mmap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from feeder_client import FeederClient
from tests.serving import SOURCES, arena_bytes, serve, until
from tests.sources import SHAPES, pattern, rich_batch
from tests.transport.conftest import Connect, options_for

MB = 1 << 20


def same(one: Any, other: Any, path: str = "batch") -> None:
    """Asserts that two batches are alike in every type, dtype, layout and value."""
    assert type(one) is type(other), f"{path}: {type(one)} and {type(other)}"
    if isinstance(one, np.ndarray):
        assert (one.dtype, one.shape) == (other.dtype, other.shape), path
        fortran = not other.flags.c_contiguous and other.flags.f_contiguous
        assert one.flags.f_contiguous if fortran else one.flags.c_contiguous, path
        np.testing.assert_array_equal(one, other, err_msg=path)
    elif isinstance(one, dict):
        assert list(one) == list(other), path
        for key in one:
            same(one[key], other[key], f"{path}[{key!r}]")
    elif isinstance(one, (tuple, list)):
        assert len(one) == len(other), path
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            same(a, b, f"{path}[{i}]")
    else:
        assert one == other, path


def leaves(batch: Any) -> Iterator[np.ndarray[Any, Any]]:
    """Its arrays."""
    if isinstance(batch, np.ndarray):
        yield batch
    elif isinstance(batch, dict):
        for value in batch.values():
            yield from leaves(value)
    elif isinstance(batch, (tuple, list)):
        for value in batch:
            yield from leaves(value)


def root(array: Any) -> Any:
    """What owns the memory of an array."""
    while isinstance(array, (np.ndarray, memoryview)):
        array = array.obj if isinstance(array, memoryview) else array.base
        if array is None:
            return None
    return array


def test_structure_and_contents_are_exact(connect_any: Connect) -> None:
    client = connect_any("rich")
    for i, batch in enumerate(client):
        same(batch, rich_batch(i))
    assert i == 5


@pytest.mark.parametrize("source", ["shapes", "padded"])
def test_every_form_arrives_as_it_is(connect: Connect, source: str) -> None:
    """Small ones travel inside the message, padded ones in a block or in parts."""
    for i, batch in enumerate(connect(source)):
        same(batch, (SHAPES[i], np.zeros(50_000)) if source == "padded" else SHAPES[i])


@pytest.mark.parametrize("source", ["rich", "numbers", "blocks"])
def test_every_leaf_is_aligned_and_writable(connect_any: Connect, source: str) -> None:
    """TensorFlow and JAX take an array without a copy only at such an address."""
    client = connect_any(source, steps=5)
    seen = 0
    for batch in client:
        for array in leaves(batch):
            assert array.ctypes.data % 64 == 0 or array.size == 0
            assert array.flags.writeable
            seen += 1
    assert seen >= 5


def test_large_batches_are_views_of_the_block(connect_any: Connect, transport: str) -> None:
    batch = connect_any("rich")[0]
    roots = {id(root(array)): root(array) for array in leaves(batch) if array.size}
    assert len(roots) == 1  # one batch, one piece of memory
    assert isinstance(next(iter(roots.values())), mmap.mmap) == (transport == "shm")


def test_views_stay_valid_and_unchanged(connect_any: Connect) -> None:
    """Through many further batches, the end of the pass, and the end of the connection."""
    client = connect_any("blocks")
    held = {i: client[i] for i in range(5)}
    for i in range(5, len(client)):
        np.testing.assert_array_equal(client[i], pattern(i, 64 << 10))
    for i, array in held.items():
        np.testing.assert_array_equal(array, pattern(i, 64 << 10))
    client.close()
    for i, array in held.items():
        np.testing.assert_array_equal(array, pattern(i, 64 << 10))
        array[:] = 7  # still memory, and ours to write


def test_one_view_keeps_its_batch(connect: Connect) -> None:
    """A slice of one leaf is enough, and so is a memoryview."""
    client = connect("sharded_blocks")
    kept = []
    for number, array in client:
        kept.append((number, memoryview(array) if number % 2 else array[100:200:7]))
    for number, view in kept:
        assert set(np.asarray(view).tolist()) == {float(number)}


def test_recycling_never_reaches_what_is_held(connect_any: Connect) -> None:
    """Every seventh batch is held while three passes go by; all are checked as they come and again at the end."""
    client = connect_any("blocks")
    held = []
    for _ in range(3):
        for i, batch in enumerate(client):
            expected = pattern(i, 64 << 10)
            np.testing.assert_array_equal(batch, expected)
            if i % 7 == 0:
                held.append((expected, batch))
    for expected, batch in held:
        np.testing.assert_array_equal(batch, expected)


def test_writing_into_a_batch_changes_no_other(connect: Connect) -> None:
    """Blocks are shared memory: what the trainer does to its batch must not come back with the next one."""
    client = connect("rich")
    for _ in range(3):
        for i, batch in enumerate(client):
            same(batch, rich_batch(i))
            for array in leaves(batch):
                array[...] = np.zeros((), array.dtype)


def test_a_stream_may_use_its_array_again(connect: Connect) -> None:
    """The generator of this source yields one array with other contents each time; the two workers run a copy each."""
    values = [int(batch[0]) for batch in connect("reused") if (batch == batch[0]).all()]
    assert sorted(values) == sorted([*range(50), *range(50)])


class TestMemory:
    """Bounded on both sides, whatever the trainer does with its batches."""

    def test_holding_every_batch_does_not_stop_the_server(self, tmp_path: Path, transport: str) -> None:
        """300 batches of 1 MB from a node that may hold 64 MB: the client copies out, and nothing waits for ever."""
        arguments = (f"{SOURCES}:Blocks", "-a", "n=300", "-a", "kilobytes=1024", "--memory", "64MiB")
        before = arena_bytes()  # of the nodes that all tests share
        with serve(tmp_path, *arguments, workers=2) as node, FeederClient(node.endpoint, **options_for(transport)) as client:
            held = []
            for batch in client:
                held.append(batch)
                if len(held) % 10 == 0:  # it looks at each block, which takes long on some systems
                    assert arena_bytes() - before < 100 * MB
            assert len(held) == 300
            for i, batch in enumerate(held):
                np.testing.assert_array_equal(batch[::997], pattern(i, MB)[::997])
                assert batch.ctypes.data % 64 == 0

    def test_blocks_come_back(self, tmp_path: Path, transport: str) -> None:
        """Batches that are dropped at once: the arena stays as small as the window is."""
        arguments = (f"{SOURCES}:Blocks", "-a", "n=300", "-a", "kilobytes=256", "--memory", "256MiB")
        with serve(tmp_path, *arguments, workers=2) as node, FeederClient(node.endpoint, prefetch=6, **options_for(transport)) as client:
            before = arena_bytes()
            largest = 0
            for i, batch in enumerate(client):
                largest = max(largest, arena_bytes() - before)
                assert batch[0] == pattern(i, 1)[0]
                del batch
            # A window of six, one under way in each worker, one in the trainer's hand, each worker's free ones, and those on
            # their way home. Without recycling it would be 75 MB.
            assert largest < 8 * MB
            gc.collect()
            if transport == "shm":
                until(lambda: client.stats().borrowed_bytes <= 6 * (MB // 4 + 65536), lambda: f"blocks go home: {client.stats()}")

    def test_a_batch_larger_than_the_memory_is_served(self, tmp_path: Path, transport: str) -> None:
        arguments = (f"{SOURCES}:Blocks", "-a", "n=6", "-a", "kilobytes=8192", "--memory", "2MiB")
        with serve(tmp_path, *arguments, workers=2) as node:
            with FeederClient(node.endpoint, memory="1MiB", **options_for(transport)) as client:
                held = list(client)
            assert len(held) == 6
            for i, batch in enumerate(held):
                np.testing.assert_array_equal(batch, pattern(i, 8 * MB))

    def test_a_closed_client_holds_no_mapping(self, connect: Connect, transport: str, mapped: Callable[[], int]) -> None:
        """Also where its user keeps the closed object, as a variable of a notebook does."""
        client = connect("blocks")
        for batch in client:
            del batch
        assert (mapped() > 0) == (transport == "shm")
        client.close()
        gc.collect()
        until(lambda: mapped() == 0, lambda: f"{mapped()} blocks are still mapped")


@pytest.fixture
def mapped(private_folders: Any) -> Callable[[], int]:
    """Counts the files of feeder's that this process has mapped."""
    from tests.leaks import feeder_files

    return lambda: len(feeder_files(private_folders))
