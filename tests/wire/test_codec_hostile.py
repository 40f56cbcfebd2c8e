"""`decode` reads what a peer sent: whatever it is, a batch or one of two errors comes out, and no code of the peer runs."""

from __future__ import annotations

import contextlib
import os
import pickle
import sys
import time
import tracemalloc
from typing import Any

import msgpack
import msgpack_numpy
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from feeder_wire import plan, tree
from feeder_wire.codec import MAX_HEAD, aligned_empty, decode, encode, shape_of
from feeder_wire.dtypes import dtype_of
from feeder_wire.errors import ProtocolError, UnsupportedBatch

FUZZ = settings(deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
PAYLOAD = aligned_empty(4096)
PAYLOAD[:] = np.arange(4096) % 251


def raw(*tokens: object) -> bytes:
    return b"".join(msgpack.packb(token) for token in tokens)


def head(*tokens: object, nbytes: int = 4096) -> bytes:
    return raw(tree.VERSION, nbytes, *tokens)


def survives(data: bytes, payload: Any = PAYLOAD) -> None:
    """Either a batch whose every array can be read, or one of the two errors."""
    try:
        leaves: list[Any] = [decode(data, payload)]
    except (ProtocolError, UnsupportedBatch):
        return
    while leaves:
        leaf = leaves.pop()
        if isinstance(leaf, (tuple, list)):
            leaves += leaf
        elif isinstance(leaf, dict):
            leaves += leaf.values()
        elif isinstance(leaf, np.ndarray):
            assert not leaf.dtype.hasobject or leaf.dtype.kind == "T"
            if leaf.dtype.kind != "T" and leaf.size:
                assert np.shares_memory(leaf, payload) or not leaf.nbytes
                low, high = np.lib.array_utils.byte_bounds(leaf) if hasattr(np.lib, "array_utils") else np.byte_bounds(leaf)  # type: ignore[attr-defined]
                start = payload.__array_interface__["data"][0]
                assert start <= low
                assert high <= start + payload.nbytes
            leaf.copy()
    shape_of(data)


A = tree.ARRAY
BAD: dict[str, bytes] = {
    "nothing": b"",
    "no msgpack": b"\xc1",
    "only version": raw(1),
    "no root": raw(1, 0),
    "other version": raw(2, 0, None),
    "version is a bool": raw(True, 0, None),
    "negative size": raw(1, -1, None),
    "huge size": raw(1, (1 << 64) - 1, None),
    "size is a float": raw(1, 64.0, None),
    "more than the payload": raw(1, 4097, None),
    "something behind": head(None, None),
    "cut off behind": head(None) + b"\xc5",
    "cut off behind, none before": head(None, None) + b"\xd9",
    "unknown tag": head(99),
    "negative tag": head(-1),
    "root is a map": head({}),
    "root is an array": head([]),
    "root is a timestamp": head(msgpack.Timestamp(1, 2)),
    "root is an extension": head(msgpack.ExtType(5, b"x")),
    "empty extension": head(msgpack.ExtType(5, b"")),
    "tuple without count": head(tree.TUPLE),
    "tuple too short": head(tree.TUPLE, 2, None),
    "tuple of -1": head(tree.TUPLE, -1),
    "tuple of 2**63": head(tree.TUPLE, 1 << 63),
    "count is a bool": head(tree.TUPLE, True, None),
    "65 levels": head(*[tree.LIST, 1] * 64, tree.LIST, 0),
    "dict with half a pair": head(tree.DICT, 1, "a"),
    "dict with the same key twice": head(tree.DICT, 2, "a", None, "a", None),
    "dict with equal keys": head(tree.DICT, 2, True, None, 1.0, None),
    "key is a list": head(tree.DICT, 1, tree.LIST, 0, None),
    "key is an array": head(tree.DICT, 1, A, "|u1", [1], 0, None),
    "key is long": head(tree.DICT, 1, tree.LONG_STR, 0, 5, None),
    "key is a date": head(tree.DICT, 1, tree.GENERIC, "<M8[s]", bytes(8), None),
    "key tuple holds a dict": head(tree.DICT, 1, tree.TUPLE, 1, tree.DICT, 0, None),
    "int is a text": head(tree.INT, "1"),
    "int is a bool": head(tree.INT, True),
    "big int is an int": head(tree.BIGINT, 1),
    "complex of ints": head(tree.COMPLEX, 1, 2),
    "np.str_ of bytes": head(tree.NP_STR, b"x"),
    "np.bytes_ of text": head(tree.NP_BYTES, "x"),
    "array of objects": head(A, "|O", [1], 0),
    "array of Python's O": head(A, "O", [1], 0),
    "array of StringDType": head(A, "|T16", [1], 0),
    "array of T": head(A, "T", [1], 0),
    "dtype is bytes": head(A, b"<f4", [1], 0),
    "dtype is None": head(A, None, [1], 0),
    "dtype without order": head(A, "f4", [1], 0),
    "dtype with native order": head(A, "=f4", [1], 0),
    "dtype float": head(A, "float32", [1], 0),
    "dtype with comma": head(A, "<f4,<f4", [1], 0),
    "dtype with shape": head(A, "(2,)<f4", [1], 0),
    "dtype f3": head(A, "<f3", [1], 0),
    "dtype with line end": head(A, "<f4\n", [1], 0),
    "dtype with other digits": head(A, "|S\u0663", [1], 0),
    "dtype too large": head(A, "|V9999999999", [1], 0),
    "dtype text too large": head(A, "<U999999999", [1], 0),
    "dtype with unit from nowhere": head(A, "<M8[fortnight]", [1], 0),
    "dtype with zero unit": head(A, "<M8[0s]", [1], 0),
    "ml dtype unknown": head(A, "ml:float7", [1], 0),
    "ml dtype attribute": head(A, "ml:__version__", [1], 0),
    "ml dtype finfo": head(A, "ml:finfo", [1], 0),
    "json nonsense": head(A, "[", [1], 0),
    "json scalar": head(A, "[1]", [1], 0),
    "json deep": head(A, "[" * 100_000, [1], 0),
    "json deep subarrays": head(A, '["sub",' * 50_000 + '"<f4"' + ",[1]]" * 50_000, [1], 0),
    "struct of objects": head(A, '["struct",["a"],["|O"],[0],null,8,false]', [1], 0),
    "struct beyond its size": head(A, '["struct",["a"],["<f8"],[4],null,8,false]', [1], 0),
    "struct whose field wraps around": head(A, '["struct",["a"],["|V2147483647"],[2147483647],null,8,false]', [1], 0),
    "subarray that wraps around to 0": head(A, '["struct",["a"],[["sub","<f4",[65536,65536]]],[0],null,0,false]', [1], 0),
    "subarray that wraps around to less": head(A, '["struct",["a"],[["sub","|V3",[1431655766]]],[0],null,8,false]', [1], 0),
    "struct with negative offset": head(A, '["struct",["a"],["<f8"],[-4],null,8,false]', [1], 0),
    "struct with bool offset": head(A, '["struct",["a"],["<f8"],[false],null,8,false]', [1], 0),
    "struct with field twice": head(A, '["struct",["a","a"],["<f8","<f8"],[0,8],null,16,false]', [1], 0),
    "struct with too few formats": head(A, '["struct",["a","b"],["<f8"],[0,8],null,16,false]', [1], 0),
    "struct with names as text": head(A, '["struct","ab",["<f8","<f8"],[0,8],null,16,false]', [1], 0),
    "struct with a number as name": head(A, '["struct",[1],["<f8"],[0],null,8,false]', [1], 0),
    "struct with a list as title": head(A, '["struct",["a"],["<f8"],[0],[[]],8,false]', [1], 0),
    "struct misaligned": head(A, '["struct",["a"],["<f8"],[1],null,16,true]', [1], 0),
    "struct with aligned of 1": head(A, '["struct",["a"],["<f8"],[0],null,8,1]', [1], 0),
    "struct enormous": head(A, '["struct",["a"],["<f8"],[0],null,99999999999,false]', [1], 0),
    "struct of infinity": head(A, '["struct",["a"],["<f8"],[0],null,Infinity,false]', [1], 0),
    "subarray alone": head(A, '["sub","<f4",[2]]', [1], 0),
    "subarray enormous": head(A, '["struct",["a"],[["sub","<f4",[99999,99999]]],[0],null,8,false]', [1], 0),
    "subarray with negative shape": head(A, '["struct",["a"],[["sub","<f4",[-2]]],[0],null,8,false]', [1], 0),
    "long double of no machine": head(A, "long:<f99:63", [1], 0),
    "shape is a number": head(A, "<f4", 1, 0),
    "shape is a map": head(A, "<f4", {}, 0),
    "shape with a negative": head(A, "<f4", [-1], 0),
    "shape with a bool": head(A, "<f4", [True], 0),
    "shape with a float": head(A, "<f4", [1.0], 0),
    "shape with a list": head(A, "<f4", [[1]], 0),
    "shape of rank 65": head(A, "<f4", [1] * 65, 0),
    "shape of rank 1000": head(A, "<f4", [1] * 1000, 0),
    "shape overflows": head(A, "<f4", [1 << 32, 1 << 32], 0),
    "shape overflows to 0": head(A, "<f4", [1 << 62, 4], 0),
    "shape overflows beside a 0": head(A, "<f4", [0, 1 << 62, 1 << 62], 0),
    "shape overflows without bytes": head(A, "|V0", [1 << 62, 1 << 62], 0),
    "offset is negative": head(A, "<f4", [1], -64),
    "offset is a bool": head(A, "<f4", [1], False),
    "offset is odd": head(A, "<f4", [1], 32),
    "offset is behind the end": head(A, "<f4", [0], 8192),
    "array is longer than the payload": head(A, "<f4", [1025], 0),
    "array ends behind the end": head(A, "<f4", [17], 4032),
    "array ends behind what was announced": head(A, "<f4", [17], 0, nbytes=64),
    "array twice": head(tree.TUPLE, 2, A, "<f4", [4], 0, A, "<f4", [4], 0),
    "arrays overlap": head(tree.TUPLE, 2, A, "<f4", [4], 64, tree.FORTRAN, "|u1", [65], 0),
    "text over an array": head(tree.TUPLE, 2, A, "<f4", [32], 64, tree.LONG_STR, 128, 4),
    "long text ends behind the end": head(tree.LONG_STR, 4032, 65),
    "long text with negative length": head(tree.LONG_BYTES, 0, -1),
    "long text is no utf-8": head(tree.LONG_STR, 192, 64),
    "texts too few": head(tree.STRINGS, [2], False, True, False, "a"),
    "texts with a number": head(tree.STRINGS, [1], False, True, False, 1.5),
    "texts with a gap, but none may be missing": head(tree.STRINGS, [1], False, True, False, None),
    "texts missing True": head(tree.STRINGS, [1], False, True, True, "a"),
    "texts missing int": head(tree.STRINGS, [1], False, True, 5, "a"),
    "texts by the billion": head(tree.STRINGS, [1 << 40], False, True, False, "a"),
    "scalar of objects": head(tree.SCALAR, "|O", bytes(8)),
    "scalar too short": head(tree.SCALAR, "<f4", bytes(3)),
    "scalar too long": head(tree.SCALAR, "<f4", bytes(8)),
    "scalar is a text": head(tree.SCALAR, "<f4", "abcd"),
    "scalar of another kind": head(tree.SCALAR, "|S4", bytes(4)),
    "scalar of a date": head(tree.SCALAR, "<M8[s]", bytes(8)),
    "scalar of a struct": head(tree.SCALAR, '["struct",["a"],["<f8"],[0],null,8,false]', bytes(8)),
    "generic too long": head(tree.GENERIC, "<M8[s]", bytes(9)),
    "text is no utf-8": head() + b"\xa2\xff\xfe",
    "text cut off": head() + b"\xa9abc",
    "bytes of 4 GB announced": head() + b"\xc6\xff\xff\xff\xff",
    "array of 4 G items announced": head() + b"\xdd\xff\xff\xff\xff",
    "map of 4 G items announced": head() + b"\xdf\xff\xff\xff\xff",
    "too large": head(None) + b"\xc0" * MAX_HEAD,
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD.keys())
def test_malformed_heads(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(data, PAYLOAD)


def test_heads_of_other_types_are_refused() -> None:
    for data in (None, "text", 5, [1], bytearray(head(None))):
        with pytest.raises(ProtocolError):
            decode(data, PAYLOAD)  # type: ignore[arg-type]


def test_payloads_that_are_none() -> None:
    data = encode(np.arange(8)).head
    wrong: list[Any] = [
        None,
        b"x" * 64,
        bytearray(64),
        np.zeros(64, np.int8),
        np.zeros((8, 8), np.uint8),
        np.zeros(128, np.uint8)[::2],
        np.uint8(1),
    ]
    for payload in wrong:
        with pytest.raises(ProtocolError):
            decode(data, payload)
    for size in (0, 1, 63):
        with pytest.raises(ProtocolError, match="bytes where the head promises 64"):
            decode(data, aligned_empty(size))


class Executes:
    def __reduce__(self) -> Any:
        return os.putenv, ("FEEDER_CODEC_TEST", "executed")


def test_a_pickle_inside_is_never_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[object] = []
    monkeypatch.setattr(pickle, "loads", loaded.append)
    monkeypatch.setattr(msgpack_numpy.pickle, "loads", loaded.append)
    poison = pickle.dumps(Executes())
    as_map = {b"nd": True, b"type": "|O", b"kind": b"O", b"shape": [1], b"data": poison}
    assert msgpack_numpy.decode(dict(as_map)) is None
    assert len(loaded) == 1
    loaded.clear()
    packed = msgpack.packb(as_map)
    for data in (
        packed,
        head() + packed,
        head(tree.SCALAR) + packed,
        head(tree.SCALAR, "|O", poison),
        head(tree.GENERIC, "|O", poison),
        head(tree.SCALAR, f"|V{len(poison)}", poison),
        head(tree.TUPLE, 1) + packed,
        head(A) + packed + raw([1], 0),
        head(A, "<f4") + packed + raw(0),
        head(tree.DICT, 5, *[x for pair in as_map.items() for x in pair]),
        raw(1) + packed,
        msgpack.packb(np.array([Executes()], dtype=object), default=msgpack_numpy.encode),
    ):
        survives(data)
    assert not loaded


def test_announced_sizes_cost_nothing() -> None:
    """Nested arrays that each announce the most they may: a decoder that believed them would reserve gigabytes."""
    bombs = [
        head() + b"\xdc\xff\xff" * 1000,
        head() + b"\xdd\x00\x00\x00\x80" * 100_000,
        head() + b"\xdc\x00\x80" * 1_000_000,
        head(*[tree.LIST, 1 << 20] * 1000),
        head(A, "|V0", [1 << 60], 0),
        head(A, '["struct",[],[],[],null,0,false]', [1 << 60], 0),
        head(tree.STRINGS, [1 << 50, 0], False, True, False),
    ]
    tracemalloc.start()
    try:
        for bomb in bombs:
            tracemalloc.reset_peak()
            started = time.perf_counter()
            survives_without_reading(bomb)
            assert tracemalloc.get_traced_memory()[1] < 64 << 20
            assert time.perf_counter() - started < 5
    finally:
        tracemalloc.stop()


def survives_without_reading(data: bytes) -> None:
    try:
        decode(data, PAYLOAD)
    except (ProtocolError, UnsupportedBatch):
        return


def test_both_ends_know_the_same_limits() -> None:
    deep: Any = []
    for _ in range(tree.MAX_DEPTH - 1):
        deep = (deep,)
    assert decode(encode(deep).head, PAYLOAD) == deep
    many = [None] * tree.MAX_NODES
    assert decode(encode(many).head, PAYLOAD) == many
    with pytest.raises(ProtocolError, match="a container of 1000001 items"):
        decode(head(tree.LIST, tree.MAX_NODES + 1, *many, None), PAYLOAD)
    assert decode(encode({(1, (2, (3,))): None}).head, PAYLOAD) == {(1, (2, (3,))): None}


def test_empty_arrays_may_share_a_place() -> None:
    got: Any = decode(head(tree.TUPLE, 3, A, "<f4", [0, 3], 64, A, "<f4", [4], 64, A, "|V0", [3], 4096), PAYLOAD)
    assert [leaf.shape for leaf in got] == [(0, 3), (4,), (3,)]


GOOD = [
    encode(batch)
    for batch in (
        (np.arange(12, dtype=np.float32).reshape(3, 4), np.arange(3)),
        {"a": [np.ones((2, 3), order="F"), None, 1.5, True], b"k": (1, 1 << 70, 2j, "text"), (1, "x"): np.float32(2)},
        [
            np.zeros(3, [("a", "i4"), ("b", ">f8", (2,))]),
            np.array(["x", "yy"]),
            np.array(["2020"], "M8[D]"),
            "z" * 2000,
            np.datetime64(5, "s"),
        ],
        np.zeros((2, 0, 3)),
    )
]
if hasattr(getattr(np, "dtypes", None), "StringDType"):
    GOOD.append(encode(np.array(["a", None], dtype=np.dtypes.StringDType(na_object=None))))


@given(st.binary(max_size=200))
@example(b"\x01\x00\xc0")
@FUZZ
def test_random_bytes(data: bytes) -> None:
    survives(data)
    survives(raw(1, 4096) + data)


token = st.one_of(
    *(
        st.none(),
        st.booleans(),
        st.floats(),
        st.text(max_size=5),
        st.binary(max_size=9),
        st.integers(0, 15),
        st.integers(-(1 << 63), (1 << 64) - 1),
    ),
    st.sampled_from(
        ["<f4", "|O", "|u1", "<M8[s]", "ml:bfloat16", "|S3", "<U2", '["struct",["a"],["<f4"],[0],null,4,false]', 64, 128, 1 << 62]
    ),
    st.lists(st.integers(0, 5), max_size=4),
)


@given(st.lists(token, max_size=30))
@FUZZ
def test_random_tokens(tokens: list[object]) -> None:
    survives(head(*tokens))


@given(st.sampled_from(GOOD), st.data())
@settings(FUZZ, max_examples=300)
def test_mutated_heads(good: Any, data: st.DataObject) -> None:
    mutated = bytearray(good.head)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(mutated)))
        kind = data.draw(st.sampled_from(["set", "insert", "delete", "copy"]))
        if kind == "set" and at < len(mutated):
            mutated[at] = data.draw(st.integers(0, 255))
        elif kind == "insert":
            mutated[at:at] = data.draw(st.binary(min_size=1, max_size=6))
        elif kind == "delete":
            del mutated[at : at + data.draw(st.integers(1, 6))]
        else:
            mutated[at:at] = mutated[: data.draw(st.integers(1, 20))]
    survives(bytes(mutated))


@pytest.mark.parametrize("good", GOOD, ids=range(len(GOOD)))
def test_every_truncation_and_every_single_byte(good: Any) -> None:
    for end in range(len(good.head)):
        with pytest.raises(ProtocolError):
            decode(good.head[:end], PAYLOAD)
    for size in range(good.nbytes):
        with pytest.raises(ProtocolError):
            decode(good.head, PAYLOAD[:size])
    for at in range(len(good.head)):
        for value in (0, 1, 3, 0x7F, 0x80, 0x90, 0xA0, 0xC0, 0xC1, 0xC4, 0xCA, 0xCF, 0xD3, 0xDC, 0xDD, 0xDF, 0xFF):
            survives(good.head[:at] + bytes([value]) + good.head[at + 1 :])


@given(
    st.text(max_size=40)
    | st.recursive(st.sampled_from(["<f4", "|O", "ml:int4", 3, None, "a"]), lambda s: st.lists(s, max_size=7), max_leaves=20)
)
@FUZZ
def test_random_dtypes(form: Any) -> None:
    import json

    for text in (form if isinstance(form, str) else json.dumps(form), json.dumps(["struct", ["a"], [form], [0], None, 8, False])):
        with contextlib.suppress(ProtocolError, UnsupportedBatch):
            assert not dtype_of(text).hasobject


def test_parse_is_safe_with_tokens_msgpack_would_never_make() -> None:
    for tokens in (
        [],
        [1],
        [1, 0],
        [1, 0, object()],
        [1, 0, {}],
        [1, 0, [1]],
        [1, 0, 3, "<f4", [1], 0],
        [object()],
        [1, 64, 3, "<f4", (1 << 99,), 0],
    ):
        with pytest.raises(ProtocolError):
            plan.parse(tokens, lambda text, data: np.float32(0))


def test_deep_recursion_is_nowhere_near() -> None:
    """A caller deep in a framework must not find the codec running out of stack."""
    limit = sys.getrecursionlimit()
    frame, depth = sys._getframe(), 0
    while frame is not None:  # type: ignore[redundant-expr]
        frame, depth = frame.f_back, depth + 1  # type: ignore[assignment]
    sys.setrecursionlimit(depth + 350)
    try:
        value: Any = 1
        for _ in range(64):
            value = [value]
        assert decode(encode(value).head, PAYLOAD) == value
    finally:
        sys.setrecursionlimit(limit)
