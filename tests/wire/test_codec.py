"""The codec gives back what it was given: structures, scalars, dtypes and layouts, each by name."""

from __future__ import annotations

import collections
import enum
import importlib.util
import math
import os
import subprocess
import sys
from typing import Any, NamedTuple

import numpy as np
import pytest

from feeder_wire.codec import aligned_empty, decode, encode, shape_of

NUMPY_2 = int(np.__version__.split(".")[0]) >= 2
HAS_ML = importlib.util.find_spec("ml_dtypes") is not None
ML_NAMES = ["bfloat16", "float8_e4m3fn", "float8_e5m2", "int4", "uint4"]


def round_trip(batch: object) -> Any:
    encoded = encode(batch)
    payload = aligned_empty(encoded.nbytes)
    payload[:] = 0xA5  # what was in the block before must not show through
    encoded.write_into(memoryview(payload))
    return decode(encoded.head, payload)


def assert_same(got: Any, sent: Any, path: str = "batch") -> None:
    """Same types, structure, dtypes, shapes and bits (NaNs included)."""
    if isinstance(sent, np.generic):  # where two C types are one dtype (long and long long), NumPy itself names one of them
        assert isinstance(got, np.generic), path
        assert (got.dtype, repr(got)) == (sent.dtype, repr(sent)), path
        return
    assert type(got) is type(sent), path
    if isinstance(sent, np.ndarray):
        assert (got.dtype, got.dtype.str, got.shape) == (sent.dtype, sent.dtype.str, sent.shape), path
        assert got.dtype.isalignedstruct == sent.dtype.isalignedstruct, path
        if sent.dtype.kind == "T" or sent.dtype.names is not None:
            assert repr(got.tolist()) == repr(sent.tolist()), path
        else:
            assert got.tobytes() == sent.tobytes(), path
    elif isinstance(sent, (tuple, list)):
        assert len(got) == len(sent), path
        for i, (a, b) in enumerate(zip(got, sent, strict=True)):
            assert_same(a, b, f"{path}[{i}]")
    elif isinstance(sent, dict):
        assert len(got) == len(sent), path
        for (ka, a), (kb, b) in zip(got.items(), sent.items(), strict=True):
            assert_same(ka, kb, f"{path} key {kb!r}")
            assert_same(a, b, f"{path}[{kb!r}]")
    else:
        assert repr(got) == repr(sent), path  # repr tells -0.0 from 0.0 and equals for NaN


X = np.arange(2496, dtype=np.float32).reshape(32, 26, 3)
Y = np.arange(32)

STRUCTURES: dict[str, object] = {
    "pair": (X, Y),
    "list of arrays": [X, Y, Y],
    "bare array": X,
    "bare none": None,
    "bare scalar": 3,
    "dict": {"image": X, "label": Y},
    "dict order": {"z": Y, "a": X, "m": Y},
    "none inside": (X, None, Y),
    "one-tuple": (X,),
    "empty containers": ((), [], {}, ({}, [()])),
    "lists in tuple": ([X, Y], [Y, X]),
    "tuples in list": [(X, Y), (Y,)],
    "deep mix": ({"a": [X, (Y, {"b": None, "c": {"d": [Y]}})]}, [[[[X]]]]),
    "keys": {"s": 0, b"b": 1, 3: 2, 2.5: 3, True: 4, None: 5, (1, "x", (None, b"y")): 6, 1 << 80: 7, -7: 8, 9.0: 9, 1j: 10, (): 11},
    "numpy keys": {np.int64(3): Y, np.str_("a"): Y, np.bytes_(b"b"): Y, np.float32(0.5): Y, np.bool_(True): Y},
    "long key": {"k" * 5000: Y},
    "list of numbers": ([1, 2, 3], [0.5, 1.5], (True, False)),
    "same array twice": (X, X),
    "64 levels": eval("[" * 64 + "]" * 64),
    "many leaves": [{"a": X[i], "b": i} for i in range(32)],
}


@pytest.mark.parametrize("batch", STRUCTURES.values(), ids=STRUCTURES.keys())
def test_structure_is_exact(batch: object) -> None:
    assert_same(round_trip(batch), batch)


def test_dict_keys_keep_their_types() -> None:
    got = round_trip({1: "int"}), round_trip({1.0: "float"}), round_trip({True: "bool"})
    assert [type(next(iter(d))) for d in got] == [int, float, bool]


class Point(NamedTuple):
    x: Any
    y: Any


class Colour(enum.IntEnum):
    RED = 9


class Name(str, enum.Enum):
    A = "a"


class Text(str):
    def __str__(self) -> str:
        return "not this"


class Real(float):
    pass


class Imaginary(complex):
    pass


class Raw(bytes):
    pass


def test_subclasses_are_levelled() -> None:
    assert_same(round_trip(Point(X, 1)), (X, 1))
    assert_same(round_trip(collections.OrderedDict(b=X, a=Y)), {"b": X, "a": Y})
    assert_same(round_trip(collections.defaultdict(list, a=X)), {"a": X})
    sent = [Colour.RED, Name.A, Text("t"), Real(2.5), Imaginary(1j), Raw(b"r"), Text("t" * 5000), Raw(b"r" * 5000)]
    assert_same(round_trip(sent), [9, "a", "t", 2.5, 1j, b"r", "t" * 5000, b"r" * 5000])
    assert_same(round_trip({Colour.RED: 1, Text("t"): 2, Real(9.0 + 0.5): 3, Point(1, 2): 4}), {9: 1, "t": 2, 9.5: 3, (1, 2): 4})


SCALARS: list[object] = [
    *(True, False, None, 0, -1, 127, 255, (1 << 63) - 1, -(1 << 63), (1 << 64) - 1, 1 << 64, -(1 << 63) - 1, 1 << 5000, -(1 << 5000)),
    *(0.0, -0.0, 1.5, math.inf, -math.inf, math.nan, 5e-324, 1 + 2j, complex(-0.0, math.nan)),
    *(
        "",
        "text",
        "naïve \u20ac \U0001f600",
        "nul\0end\0",
        "lone \udc80 surrogate",
        "x" * 1024,
        "x" * 1025,
        "\u20ac" * 3000,
        "\udc80" * 3000,
    ),
    *(b"", b"bytes\0\xff\0", b"x" * 1025, bytes(100_000)),
]
NUMPY_SCALARS: list[np.generic] = [
    *(
        np.bool_(True),
        np.int8(-3),
        np.uint8(200),
        np.int16(-3),
        np.uint16(3),
        np.int32(-3),
        np.uint32(3),
        np.int64(-3),
        np.uint64((1 << 64) - 1),
    ),
    *(
        np.float16(0.5),
        np.float32(-0.0),
        np.float64(math.nan),
        np.complex64(1j),
        np.complex128(2 + 3j),
        np.longdouble("1.1"),
        np.clongdouble(1j),
    ),
    *(
        np.longlong(5),
        np.ulonglong(5),
        np.intc(5),
        np.datetime64("2024-02-29T12", "ns"),
        np.datetime64("NaT"),
        np.timedelta64(5, "D"),
        np.timedelta64(7),
    ),
    *(np.str_("text"), np.str_(""), np.str_("nul\0"), np.bytes_(b"bytes\0"), np.bytes_(b""), np.void(b"raw\0")),
    np.array([(1, 2.5)], dtype=[("a", "i4"), ("b", "f8")])[0],
]


@pytest.mark.parametrize("value", SCALARS, ids=lambda v: repr(v)[:24].encode("ascii", "backslashreplace").decode())
def test_python_scalars_stay_python_scalars(value: object) -> None:
    assert_same(round_trip(value), value)
    assert_same(round_trip((X, {"meta": [value]})), (X, {"meta": [value]}))


@pytest.mark.parametrize("value", NUMPY_SCALARS, ids=lambda v: f"{type(v).__name__} {v!r}"[:40])
def test_numpy_scalars_stay_numpy_scalars(value: np.generic) -> None:
    if value.dtype.char in "gG" and np.dtype(value.dtype.str).char != value.dtype.char:
        value = np.dtype(value.dtype.str).type(value)  # on Windows a long double is a double, by another name
    assert_same(round_trip([value]), [value])


def test_a_structured_scalar_is_fresh_each_time() -> None:
    value = np.zeros(1, dtype=[("a", "i4")])[0]
    encoded = encode(value)
    first: Any = decode(encoded.head, aligned_empty(0))
    first["a"] = 7
    second: Any = decode(encoded.head, aligned_empty(0))
    assert second["a"] == 0


def test_containers_are_fresh_each_time() -> None:
    encoded = encode(([1], {"a": []}))
    first: Any = decode(encoded.head, aligned_empty(0))
    first[0].append(2)
    first[1]["a"].append(3)
    assert decode(encoded.head, aligned_empty(0)) == ([1], {"a": []})


SIMPLE = [
    *("?", "i1", "u1", "<i2", ">i2", "<u2", ">u2", "<i4", ">i4", "<u4", ">u4", "<i8", ">i8", "<u8", ">u8"),
    *("<f2", ">f2", "<f4", ">f4", "<f8", ">f8", "<c8", ">c8", "<c16", ">c16", "g", ">g", "G", ">G", "p", "P", "l", "q"),
    *("S1", "S7", "S0", "<U1", "<U7", ">U7", "U0", "V1", "V8", "V0"),
    *("<M8", "<M8[ns]", ">M8[ns]", "<M8[D]", "<M8[25s]", "<M8[1000ms]", "<M8[as]", "<m8", "<m8[us]", ">m8[W]", "<m8[Y]"),
]
STRUCTURED: dict[str, Any] = {
    "record": [("x", "<f4"), ("y", ">i8"), ("name", "S5")],
    "nested": [("p", [("x", "f8"), ("q", [("u", "u1"), ("t", "M8[ms]")])]), ("flag", "?")],
    "subarray": [("m", "f4", (2, 3)), ("n", "i2", 4)],
    "nested subarray": [("m", [("a", "i1"), ("b", "<U3", 2)], (2, 2))],
    "aligned": np.dtype([("a", "i1"), ("b", "f8"), ("c", "i2")], align=True),
    "packed": np.dtype([("a", "i1"), ("b", "f8"), ("c", "i2")], align=False),
    "gaps": {"names": ["a", "b"], "formats": ["i4", "i1"], "offsets": [4, 16], "itemsize": 32},
    "out of order": {"names": ["a", "b"], "formats": ["i4", "i4"], "offsets": [4, 0], "itemsize": 8},
    "union": {"names": ["word", "low"], "formats": ["<u4", "<u2"], "offsets": [0, 0], "itemsize": 4},
    "titles": [(("A title", "a"), "i4"), ("b", "f4")],
    "no fields": [],
    "one empty text": [("a", "S0"), ("b", "U0"), ("c", "V0")],
    "200 fields": [(f"column {i}", "f4") for i in range(200)],
    "odd names": [("naïve \u20ac", "f4"), ('with "quotes" and \\', "i1"), ("lone \udc80", "i1")],
}


def filled(dtype: Any, shape: tuple[int, ...] = (3, 4)) -> np.ndarray[Any, Any]:
    """An array of varied, valid values of any dtype."""
    dtype = np.dtype(dtype)
    count = math.prod(shape)
    if dtype.names is not None:
        array = np.zeros(shape, dtype)
        for name in dtype.names:
            sub = dtype.fields[name][0]
            array[name] = filled(sub.base, shape + sub.shape)
        return array
    if dtype.kind in "SU" and dtype.itemsize == 0:
        return np.zeros(shape, [("a", dtype)])["a"]  # np.zeros would make it S1
    if dtype.kind == "V" and issubclass(dtype.type, np.void):
        return (
            np.frombuffer(np.arange(count * dtype.itemsize, dtype=np.uint8).tobytes(), dtype, count).reshape(shape)
            if dtype.itemsize
            else np.zeros(shape, dtype)
        )
    base = np.arange(count) % 7 - (0 if dtype.kind in "uSU" or "int1" in dtype.name or "uint" in dtype.name else 3)
    if dtype.kind in "Mm":
        return base.astype("<i8").view(dtype.str.replace(">", "<")).astype(dtype).reshape(shape)
    return base.astype(dtype).reshape(shape)


ALL_DTYPES = {**{text: np.dtype(text) for text in SIMPLE}, **{name: np.dtype(form) for name, form in STRUCTURED.items()}}
SHAPES: list[tuple[int, ...]] = [(), (1,), (3, 4), (0,), (0, 3), (2, 0, 5), (2, 1, 3, 2)]


@pytest.mark.parametrize("name", ALL_DTYPES)
def test_every_dtype_in_every_shape(name: str) -> None:
    for shape in SHAPES:
        array = filled(ALL_DTYPES[name], shape)
        assert array.shape == shape
        assert array.dtype == ALL_DTYPES[name]
        assert_same(round_trip({"a": array, "b": Y}), {"a": array, "b": Y})


@pytest.mark.parametrize("name", ["<f4", ">i2", "<U7", "V8", "<M8[ns]", "record", "aligned", "union"])
def test_layouts(name: str) -> None:
    a = filled(ALL_DTYPES[name], (4, 3, 2))
    f = np.asfortranarray(a)
    read_only = a.copy()
    read_only.flags.writeable = False
    unaligned = np.zeros(a.nbytes + 1, np.uint8)[1:].view(a.dtype).reshape(a.shape)
    unaligned[...] = a
    layouts = [a, f, a[::2], a[:, ::-1], a[..., 1], a.T, f[1:], a[::-1, ::-1, ::-1], np.broadcast_to(a[0], (5, 3, 2)), read_only, unaligned]
    for array in layouts:
        got = round_trip(array)
        assert_same(got, array)
        fortran = array.flags.f_contiguous and not array.flags.c_contiguous
        assert got.flags.f_contiguous if fortran else got.flags.c_contiguous
    assert round_trip(f).strides == f.strides


def test_bits_of_nan_and_signalling_values_survive() -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    assert round_trip(bits.view(np.float16)).tobytes() == bits.tobytes()


def test_rank_as_high_as_numpy_goes() -> None:
    array = np.zeros((1,) * (64 if NUMPY_2 else 32), np.int8)
    assert_same(round_trip(array), array)


def test_bytes_of_structs_keep_byte_order_and_alignment_flag() -> None:
    assert round_trip(filled(STRUCTURED["aligned"])).dtype.isalignedstruct
    assert round_trip(filled(STRUCTURED["record"])).dtype["y"].str == ">i8"
    assert round_trip(filled(STRUCTURED["titles"])).dtype.fields["A title"][2] == "A title"


def test_metadata_of_a_dtype_is_dropped() -> None:
    got = round_trip(np.zeros(3, np.dtype("f4", metadata={"unit": "m"})))
    assert got.dtype == np.float32
    assert got.dtype.metadata is None


@pytest.mark.parametrize("name", ML_NAMES)
@pytest.mark.skipif(not HAS_ML, reason="needs ml_dtypes")
def test_types_of_ml_dtypes(name: str) -> None:
    import ml_dtypes

    scalar = getattr(ml_dtypes, name)
    for shape in SHAPES:
        assert_same(round_trip(filled(scalar, shape)), filled(scalar, shape))
    array = filled(scalar, (4, 6))
    assert_same(round_trip(array[::2, ::-1]), np.ascontiguousarray(array[::2, ::-1]))
    assert round_trip(array.T).flags.f_contiguous
    assert_same(round_trip([array[0, 1]]), [array[0, 1]])
    inside = np.zeros(3, [("a", scalar), ("b", "i4")])
    inside["a"] = array[0, :3]
    got = round_trip(inside)
    assert got.dtype == inside.dtype
    assert got["a"].tolist() == inside["a"].tolist()


@pytest.mark.skipif(not HAS_ML, reason="needs ml_dtypes")
def test_every_ml_dtype_of_this_version_travels() -> None:
    import ml_dtypes

    scalars = [t for t in vars(ml_dtypes).values() if isinstance(t, type) and issubclass(t, np.generic)]
    assert scalars
    for scalar in scalars:
        array = np.zeros(3, scalar)
        assert_same(round_trip(array), array)


@pytest.mark.skipif(not NUMPY_2, reason="StringDType came with NumPy 2")
def test_string_dtype() -> None:
    values = np.array([["a", "naïve \u20ac"], ["", "x" * 3000]], dtype=np.dtypes.StringDType())
    for array in (values, values.T, values[:, ::-1], values[:0], values[0, 0:1].reshape(()), np.broadcast_to(values, (2, 2, 2))):
        got = round_trip((array, Y))[0]
        assert_same(got, array)
        assert got.flags.f_contiguous == array.flags.f_contiguous or not array.flags.f_contiguous
    for missing in (None, math.nan, "absent"):
        array = np.array(["a", missing, ""], dtype=np.dtypes.StringDType(na_object=missing, coerce=False))
        got = round_trip(array)
        assert repr(got.tolist()) == repr(array.tolist())
        assert not got.dtype.coerce
        assert repr(got.dtype.na_object) == repr(missing)
    assert not hasattr(round_trip(values).dtype, "na_object")
    assert shape_of(encode(values).head) == [("batch", "StringDType", (2, 2))]


def test_subclasses_of_arrays_become_plain(tmp_path: Any) -> None:
    with pytest.warns(PendingDeprecationWarning):
        matrix = np.matrix([[1, 2], [3, 4]])
    assert_same(round_trip(matrix), np.array([[1, 2], [3, 4]]))
    records = np.rec.fromarrays([[1, 2], [1.5, 2.5]], names="a,b")
    got = round_trip(records)
    assert type(got) is np.ndarray
    assert got.dtype.type is np.void
    assert got.tolist() == records.tolist()
    assert type(round_trip(records[0])) is np.void
    mapped = np.memmap(tmp_path / "m.bin", np.float32, "w+", shape=(3, 2))
    mapped[:] = 5
    assert_same(round_trip(mapped), np.full((3, 2), 5, np.float32))


class HasArray:
    def __init__(self, value: Any) -> None:
        self.value = value

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return self.value


class HasInterface:
    def __init__(self, value: Any) -> None:
        self.value = value

    @property
    def __array_interface__(self) -> Any:
        return self.value.__array_interface__


def test_array_likes_become_arrays() -> None:
    assert_same(round_trip((HasArray(X), HasInterface(X))), (X, X))


TENSORS = """
import os, sys, warnings
warnings.simplefilter("ignore")
import numpy as np
from feeder_wire.codec import aligned_empty, decode, encode
from feeder_wire.errors import UnsupportedBatch

def trip(batch):
    encoded = encode(batch)
    payload = aligned_empty(encoded.nbytes)
    encoded.write_into(payload)
    return decode(encoded.head, payload)

def refused(batch):
    try:
        encode(batch)
    except UnsupportedBatch as exc:
        return str(exc)
    raise AssertionError("was not refused")

assert "torch" not in sys.modules and "tensorflow" not in sys.modules and "ml_dtypes" not in sys.modules
if "torch" in sys.argv:
    import torch
    for tensor in (torch.arange(6.0).reshape(2, 3), torch.arange(6).reshape(2, 3).T, torch.tensor(3), torch.tensor([True]),
                   torch.ones(2, 0), torch.ones(3, requires_grad=True), torch.nn.Parameter(torch.ones(3)),
                   torch.ones(2, dtype=torch.complex64).conj()):
        got = trip((tensor, [tensor]))
        assert type(got[0]) is np.ndarray and got[0].tolist() == got[1][0].tolist() == tensor.tolist(), tensor
    assert "ml_dtypes" not in sys.modules
    for dtype in (torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2):
        tensor = torch.tensor([[1.5, -2.0], [0.5, 4.0]]).to(dtype)
        for t in (tensor, tensor.T, tensor[0, 1], tensor.detach().to(torch.float32).requires_grad_().to(dtype)):
            got = trip(t)
            assert got.dtype.name == str(dtype)[6:] and got.astype("f4").tolist() == t.float().tolist(), t
    assert trip(torch.Size([2, 3])) == (2, 3)
    assert refused({"x": torch.ones(2, 2).to_sparse()}).startswith("batch['x']: torch.Tensor can't be made")
    assert refused([torch.float32]).startswith("batch[0]: a torch.dtype can't be sent")
if "tensorflow" in sys.argv:
    import tensorflow as tf
    for tensor in (tf.ones((2, 3)), tf.constant([1, 2], tf.int64), tf.constant(True), tf.Variable([1.0, 2.0])):
        assert trip(tensor).tolist() == tensor.numpy().tolist()
    assert trip(tf.constant([1.5], tf.bfloat16)).dtype.name == "bfloat16"
    assert "object array" in refused((tf.constant(["a", "b"]), 1)) and refused((tf.constant(["a"]), 1)).startswith("batch[0]: ")
    assert refused([tf.ragged.constant([[1], [2, 3]])]).startswith("batch[0]: ")
    tf.function(lambda t: refused([t]))(tf.ones(2))
print("fine")
"""


@pytest.mark.parametrize("library", ["torch", "tensorflow"])
def test_tensors_become_arrays(library: str) -> None:
    """In a process of its own: these libraries leave threads and warnings behind."""
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"needs {library}")
    env = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run([sys.executable, "-c", TENSORS, library], capture_output=True, text=True, timeout=120, env=env)
    assert done.stdout.endswith("fine\n"), done.stderr


def test_shape_of_lists_every_leaf() -> None:
    batch = ({"image": X, "meta": [None, 3, "a", np.float32(1)]}, filled(">i2", (2, 0)), "t" * 5000, b"b" * 5000, filled("S3"))
    assert shape_of(encode(batch).head) == [
        ("batch[0]['image']", "float32", (32, 26, 3)),
        ("batch[0]['meta'][1]", "int", ()),
        ("batch[0]['meta'][2]", "str", ()),
        ("batch[0]['meta'][3]", "float32", ()),
        ("batch[1]", ">i2", (2, 0)),
        ("batch[2]", "str", ()),
        ("batch[3]", "bytes", ()),
        ("batch[4]", "|S3", (3, 4)),
    ]
    assert shape_of(encode(None).head) == []
    assert shape_of(encode(X).head) == [("batch", "float32", (32, 26, 3))]
    assert shape_of(encode({1 << 20_000: X}).head) == [("batch[<int>]", "float32", (32, 26, 3))]


def test_same_batch_same_bytes() -> None:
    batch = ({"a": X, "b": [1, "x", np.float32(2)]}, Y)
    first, second = encode(batch), encode(batch)
    assert first.head == second.head
    assert first.to_bytes() == second.to_bytes()


def test_repr_tells_sizes() -> None:
    assert repr(encode((X, Y))) == f"<Encoded 2 arrays, head {len(encode((X, Y)).head)} bytes, payload {9984 + 256} bytes>"
