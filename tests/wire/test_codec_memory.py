"""One copy in, none out: where leaves lie, what they keep alive, and when a block may be used again."""

from __future__ import annotations

import gc
import mmap
import threading
import tracemalloc
import weakref
from typing import Any

import numpy as np
import pytest

from feeder_wire import codec
from feeder_wire.codec import ALIGNMENT, aligned_empty, decode, encode


def address(array: np.ndarray[Any, Any]) -> int:
    return int(array.__array_interface__["data"][0])


def sub_array_of_array(nbytes: int) -> np.ndarray[Any, Any]:
    """The trap: NumPy gives views of this the outer array as base, and would let go of this one at once."""
    outer = np.empty(nbytes + 256, np.uint8)
    skip = -address(outer) % ALIGNMENT
    return outer[skip : skip + nbytes]


def owner(nbytes: int) -> np.ndarray[Any, Any]:
    return np.empty(nbytes, np.uint8)


def mapped(nbytes: int) -> np.ndarray[Any, Any]:
    return np.frombuffer(mmap.mmap(-1, nbytes + 4096), np.uint8, nbytes, 64)


def of_bytearray(nbytes: int) -> np.ndarray[Any, Any]:
    return np.frombuffer(bytearray(nbytes), np.uint8)


PAYLOADS = [aligned_empty, sub_array_of_array, owner, mapped, of_bytearray]


@pytest.mark.parametrize("make", PAYLOADS)
def test_payload_lives_exactly_as_long_as_its_last_view(make: Any) -> None:
    encoded = encode(({"image": np.ones((4, 8, 3), np.float32)}, np.arange(10), np.ones((5, 4), order="F"), np.zeros(0)))
    payload = make(encoded.nbytes)
    encoded.write_into(payload)
    died: list[bool] = []
    weakref.finalize(payload, died.append, True)
    batch: Any = decode(encoded.head, payload)
    assert np.shares_memory(batch[1], payload)
    del payload
    assert not died

    image = batch[0]["image"]
    slice_of_slice = image[1:][1:, ::2][..., 0]
    same = np.asarray(batch[1])
    copied = np.array(batch[1])
    fortran = batch[2].T[1:]
    bits = image.view(np.uint32).reshape(-1)
    plain = memoryview(bits)
    del batch, image
    assert not died
    del slice_of_slice
    assert not died
    del same, fortran
    assert not died
    del bits
    assert not died
    del plain
    assert died == [True]  # without the garbage collector's help
    assert copied.tolist() == list(range(10))


@pytest.mark.parametrize("make", PAYLOADS)
def test_chain_of_bases_ends_at_the_payload(make: Any) -> None:
    encoded = encode((np.arange(10), np.arange(6.0)))
    payload = make(encoded.nbytes)
    batch: Any = decode(encoded.head, payload)
    for leaf in (*batch, batch[0][2:][::2], np.asarray(batch[1])[1:], batch[1].view(np.uint8)):
        base = leaf
        for _ in range(5):
            if base is payload:
                break
            base = base.obj if isinstance(base, memoryview) else base.base
        assert base is payload


def test_a_batch_without_arrays_does_not_keep_the_payload() -> None:
    encoded = encode((1, "x" * 5000, b"y" * 5000, [np.float32(1), np.zeros(1, [("a", "i4")])[0]]))
    payload = aligned_empty(encoded.nbytes)
    encoded.write_into(payload)
    died: list[bool] = []
    weakref.finalize(payload, died.append, True)
    batch = decode(encoded.head, payload)
    del payload
    assert died
    assert batch is not None


def test_a_remembered_head_keeps_no_payload_and_no_batch() -> None:
    gc.disable()
    try:
        refs = []
        for _ in range(3):
            encoded = encode((np.arange(10), np.arange(6.0)))
            payload = aligned_empty(encoded.nbytes)
            batch: Any = decode(encoded.head, payload)
            refs += [weakref.ref(payload), weakref.ref(batch[0])]
            del payload, batch
        assert all(ref() is None for ref in refs)
    finally:
        gc.enable()


def test_every_leaf_is_aligned() -> None:
    dtypes = ["i1", "?", "f2", "f4", "f8", "c16", "g", "S3", "U5", "V7", "M8[s]", [("a", "i1"), ("b", "f8")]]
    batch = [np.zeros(n, d) for n in (1, 3, 17, 64, 65) for d in dtypes] + [np.zeros((3, 5), "f4", order="F"), np.float64(1), np.array(1.0)]
    for make in (aligned_empty, sub_array_of_array):
        encoded = encode(batch)
        payload = make(encoded.nbytes)
        assert address(payload) % ALIGNMENT == 0
        got: Any = decode(encoded.head, payload)
        arrays = [leaf for leaf in got if isinstance(leaf, np.ndarray)]
        assert len(arrays) == len(batch) - 1
        assert all(address(leaf) % ALIGNMENT == 0 and leaf.flags.aligned for leaf in arrays)
        assert all(np.shares_memory(leaf, payload) for leaf in arrays)


@pytest.mark.parametrize("nbytes", [0, 1, 63, 64, 65, 10_000, 5_000_001])
def test_aligned_empty(nbytes: int) -> None:
    for _ in range(20):
        array = aligned_empty(nbytes)
        assert array.dtype == np.uint8
        assert array.shape == (nbytes,)
        assert array.flags.writeable
        assert address(array) % ALIGNMENT == 0
        array[:] = 1


def test_leaves_are_writable_as_the_payload_is() -> None:
    encoded = encode(np.arange(5))
    payload = aligned_empty(encoded.nbytes)
    encoded.write_into(payload)
    leaf: Any = decode(encoded.head, payload)
    leaf += 1
    assert payload.view(leaf.dtype).tolist() == [1, 2, 3, 4, 5]
    payload.flags.writeable = False
    assert not decode(encoded.head, payload).flags.writeable  # type: ignore[attr-defined]
    frozen: Any = decode(encoded.head, np.frombuffer(bytes(payload), np.uint8))
    assert frozen.tolist() == [1, 2, 3, 4, 5]
    assert not frozen.flags.writeable


def test_a_larger_payload_is_fine() -> None:
    encoded = encode((np.arange(5), np.zeros((0, 7))))
    payload = aligned_empty(1 << 16)
    encoded.write_into(payload)
    got: Any = decode(encoded.head, payload)
    assert got[0].tolist() == [0, 1, 2, 3, 4]
    assert got[1].shape == (0, 7)


def test_encoding_copies_nothing_and_writing_makes_no_intermediate_copy() -> None:
    big = np.zeros((1 << 20, 4), np.float32)  # 16 MiB
    layouts = [big, big.T, big[::2], big[:, ::-1], big.astype(">f4")[::-1], np.broadcast_to(big[:1], big.shape), big.view("V16")[::-1]]
    payload = aligned_empty(big.nbytes)
    tracemalloc.start()
    try:
        for array in layouts:
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            encode(array).write_into(payload)
            assert tracemalloc.get_traced_memory()[1] - before < 1 << 20
    finally:
        tracemalloc.stop()


def test_write_into_takes_any_buffer_and_leaves_the_gaps() -> None:
    encoded = encode((np.arange(3, dtype=np.uint8), np.arange(3, dtype=np.uint8)))
    expected = encoded.to_bytes()
    assert len(expected) == encoded.nbytes == 67
    assert expected[3:64] == bytes(61)
    for target in (bytearray(80), memoryview(bytearray(80)), np.zeros(80, np.uint8), np.zeros((2, 5)), mmap.mmap(-1, 80)):
        encoded.write_into(target)  # type: ignore[arg-type]
        assert bytes(memoryview(target).cast("B"))[:67] == expected
    dirty = bytearray(b"\xa5" * 80)
    encoded.write_into(dirty)
    assert dirty[3:64] == b"\xa5" * 61
    assert dirty[67:] == b"\xa5" * 13


def test_an_encoded_batch_holds_its_arrays() -> None:
    array = np.arange(5)
    ref = weakref.ref(array)
    encoded = encode([array])
    del array
    assert ref() is not None
    assert encoded.to_bytes()[8] == 1
    del encoded
    assert ref() is None


def test_threads_may_encode_and_decode_at_once() -> None:
    failures: list[str] = []

    def work(seed: int) -> None:
        for i in range(300):
            sent = {"a": np.full(i % 7 + 1, seed), "b": (i, seed), "c": np.full((3, 2), i, order="F")}
            encoded = encode(sent)
            payload = aligned_empty(encoded.nbytes)
            encoded.write_into(payload)
            got: Any = decode(encoded.head, payload)
            if got["b"] != (i, seed) or got["a"].tolist() != sent["a"].tolist() or got["c"].tolist() != sent["c"].tolist():
                failures.append(f"{seed}, {i}")

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_heads_are_remembered_only_in_bounds() -> None:
    codec._parse_cached.cache_clear()
    for i in range(600):
        decode(encode((i, "x" * 600)).head, aligned_empty(0))
    info = codec._parse_cached.cache_info()
    assert info.currsize == info.maxsize == 256
    decode(encode(["x" * 1000] * 50).head, aligned_empty(0))
    assert codec._parse_cached.cache_info().misses == info.misses  # too long to be kept
