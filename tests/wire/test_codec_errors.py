"""What can't travel is refused where it is made, with the path of the leaf and what to do about it."""

from __future__ import annotations

import io
import math
import sys
from collections import UserDict
from typing import Any

import numpy as np
import pytest

from feeder_wire import codec
from feeder_wire.codec import decode, encode
from feeder_wire.errors import UnsupportedBatch

OBJECTS = np.array([[1, 2], [3]], dtype=object)
OK = np.zeros(3)


class Loud:
    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise RuntimeError("on another device")


class Silent:
    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return OBJECTS


class BadRepr:
    def __repr__(self) -> str:
        raise ValueError

    def __hash__(self) -> int:
        return 1


class AnswersToAll:
    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: self


def cyclic() -> list[Any]:
    loop: list[Any] = [OK]
    loop.append(loop)
    return loop


def doubling() -> list[Any]:
    """64 lists, and 2**63 paths through them."""
    value: list[Any] = []
    for _ in range(63):
        value = [value, value]
    return value


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


def missing_text() -> Any:
    return np.array(["a"], dtype=np.dtypes.StringDType(na_object=Ellipsis))


CASES: list[tuple[Any, str]] = [
    (OBJECTS, "batch: an object array can't be sent; make it plain (pad and np.stack, .astype(str) for texts) or send its items as a list"),
    ((OK, OBJECTS), "batch[1]: an object array"),
    (({"image": OK, "boxes": OBJECTS}, OK), "batch[0]['boxes']: an object array"),
    ([[{"a": (OK, OK, [OBJECTS])}]], "batch[0][0]['a'][2][0]: an object array"),
    ({("k", 1): {b"x": OBJECTS}}, "batch[('k', 1)][b'x']: an object array"),
    ({"k" * 200: OBJECTS}, "batch['" + "k" * 79 + "]: an object array"),
    ((OK, np.zeros(3, [("a", "i4"), ("b", [("c", "O")])])), "batch[1]: field 'b': field 'c': an object array"),
    ([np.zeros(1, [("a", "O")])[0]], "batch[0]: field 'a': an object array"),
    ([np.ma.masked_array([1, 2], mask=[0, 1])], "batch[0]: a masked array would lose its mask; send .filled(...)"),
    ((OK, np.ma.masked), "batch[1]: a masked array"),
    ((OK, {1, 2}), "batch[1]: a set can't be sent; make it an array, a number, a text, or a tuple, list or dict of these"),
    ((OK, iter([])), "batch[1]: a list_iterator can't be sent"),
    ((OK, bytearray(b"x")), "batch[1]: a bytearray can't be sent"),
    ((OK, memoryview(b"x")), "batch[1]: a memoryview can't be sent"),
    ((OK, lambda: 0), "batch[1]: a function can't be sent"),
    ((OK, io.BytesIO()), "batch[1]: a _io.BytesIO can't be sent"),
    ((OK, UserDict(a=1)), "batch[1]: a collections.UserDict can't be sent"),
    ((OK, AnswersToAll()), "can't be sent"),
    ((OK, np.float32), "batch[1]: a type can't be sent"),
    ((OK, np.dtype("f4")), "batch[1]: a numpy"),
    ((OK, range(3)), "batch[1]: a range can't be sent"),
    ({"x": Loud()}, "Loud can't be made a NumPy array: RuntimeError: on another device"),
    ({"x": [Silent()]}, "batch['x'][0]: an object array"),
    ({OK.tobytes: OK}, "can't be the key of a dict; use a str, bytes, a number, or a tuple of these"),
    ({frozenset({1}): OK}, "batch[frozenset({1})]: a frozenset can't be the key of a dict"),
    ({(1, (2, frozenset())): OK}, "batch[(1, (2, frozenset()))]: a frozenset can't be the key of a dict"),
    ({BadRepr(): OK}, "batch[<BadRepr>]: "),
    ({np.datetime64("2020-01-01"): OK}, "a numpy.datetime64 can't be the key of a dict; use key.item()"),
    (nested(65), "batch" + "[0]" * 64 + ": nested deeper than 64 levels; does it contain itself?"),
    (cyclic(), "batch" + "[1]" * 64 + ": nested deeper than 64 levels"),
    (doubling(), "more than 1000000 items in one batch"),
    ([0] * 1_000_001, "batch: more than 1000000 items in one batch; put numbers into arrays"),
    ([1 << 62] * 900_000, "batch: 9000008 bytes of scalars and structure, at most 4194304 can be sent; put them into arrays"),
]


@pytest.mark.parametrize(("batch", "message"), CASES, ids=[message[:50] for _, message in CASES])
def test_refused_with_path_and_cure(batch: Any, message: str) -> None:
    with pytest.raises(UnsupportedBatch) as caught:
        encode(batch)
    assert type(caught.value) is UnsupportedBatch
    assert message in str(caught.value)
    assert str(caught.value).startswith("batch")


def test_the_cause_of_a_failed_conversion_is_kept() -> None:
    with pytest.raises(UnsupportedBatch) as caught:
        encode([Loud()])
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_foreign_dtypes_are_refused() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    with pytest.raises(UnsupportedBatch, match=r"batch\['x'\]: dtype .* can't be sent: NumPy and ml_dtypes don't define it"):
        encode({"x": np.zeros(3, np.dtype(ml_dtypes.bfloat16).newbyteorder(">" if sys.byteorder == "little" else "<"))})


@pytest.mark.skipif(not hasattr(getattr(np, "dtypes", None), "StringDType"), reason="StringDType came with NumPy 2")
def test_strings_with_an_odd_missing_value_are_refused() -> None:
    with pytest.raises(UnsupportedBatch, match=r"batch\[0\]: a StringDType whose missing value is Ellipsis; use None, nan or a str"):
        encode([missing_text()])


def test_without_ml_dtypes_the_reader_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    from feeder_wire.dtypes import dtype_of

    encoded = encode((OK, np.zeros(3, ml_dtypes.bfloat16)))
    dtype_of.cache_clear()
    codec._parse_cached.cache_clear()
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(UnsupportedBatch, match="bfloat16 needs the package ml_dtypes here: pip install ml_dtypes"):
        decode(encoded.head, codec.aligned_empty(encoded.nbytes))
    monkeypatch.undo()
    decode(encoded.head, codec.aligned_empty(encoded.nbytes))  # no refusal is remembered


@pytest.mark.skipif(np.dtype("g").itemsize == 8, reason="longdouble is float64 here")
def test_longdouble_of_another_machine_is_refused_not_misread() -> None:
    encoded = encode(np.ones(2, "g"))
    mantissa = str(np.finfo("g").nmant).encode()
    foreign = encoded.head.replace(b":" + mantissa, b":" + (b"112" if len(mantissa) == 3 and mantissa != b"112" else b"52"))
    assert len(foreign) == len(encoded.head)
    with pytest.raises(UnsupportedBatch, match="another long double; send float64 instead"):
        decode(foreign, codec.aligned_empty(encoded.nbytes))


def test_an_old_numpy_says_that_strings_need_a_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(getattr(np, "dtypes", None), "StringDType"):
        pytest.skip("StringDType came with NumPy 2")
    head = encode(np.array(["a"], dtype=np.dtypes.StringDType())).head
    monkeypatch.delattr(np.dtypes, "StringDType")
    codec._parse_cached.cache_clear()
    with pytest.raises(UnsupportedBatch, match="needs NumPy 2 here"):
        decode(head, codec.aligned_empty(0))


def test_targets_that_do_not_fit() -> None:
    encoded = encode(np.arange(100.0))
    with pytest.raises(ValueError, match="a buffer of 799 bytes for a payload of 800"):
        encoded.write_into(bytearray(799))
    with pytest.raises(ValueError, match="read-only"):
        encoded.write_into(memoryview(bytes(800)))
    with pytest.raises(ValueError, match="contiguous"):
        encoded.write_into(np.zeros(1600, np.uint8)[::2])
    assert math.isclose(np.frombuffer(encoded.to_bytes()).sum(), 4950)
