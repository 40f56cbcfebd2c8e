"""Any batch that can be built of what may travel comes back as it was: hypothesis looks for the one that does not."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from feeder_wire.codec import ALIGNMENT, aligned_empty, decode, encode, shape_of

SETTINGS = settings(
    deadline=None, database=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)

simple = st.one_of(
    *(
        hnp.boolean_dtypes(),
        hnp.integer_dtypes(endianness="?"),
        hnp.floating_dtypes(endianness="?"),
        hnp.complex_number_dtypes(endianness="?"),
    ),
    *(
        hnp.byte_string_dtypes(),
        hnp.unicode_string_dtypes(endianness="?"),
        hnp.datetime64_dtypes(endianness="?"),
        hnp.timedelta64_dtypes(endianness="?"),
    ),
)
dtypes = simple | hnp.nested_dtypes(simple, max_leaves=4, max_itemsize=400)


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray[Any, Any]:
    """Any dtype, any bits, any shape, and a layout made by transposing, striding and reversing."""
    dtype = draw(dtypes)
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
    count = int(np.prod(shape)) * dtype.itemsize
    bits = draw(st.binary(min_size=count, max_size=count)) if dtype.kind not in "UV" else bytes(count)  # not all bits are text
    array: np.ndarray[Any, Any] = np.ndarray(shape, dtype, bytearray(bits) or None)
    array = array.transpose(draw(st.permutations(range(array.ndim))))
    return array[tuple(slice(None, None, draw(st.sampled_from([1, 1, 2, -1, -2]))) for _ in range(array.ndim))] if array.ndim else array


scalars = st.one_of(
    *(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.complex_numbers(),
        st.text(st.characters(), max_size=20),
        st.binary(max_size=20),
    ),
    st.text(min_size=1020, max_size=1030),
)
keys = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5) | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=3).map(tuple),
    max_leaves=4,
)
batches = st.recursive(
    arrays() | scalars,
    lambda inner: st.lists(inner, max_size=4) | st.lists(inner, max_size=4).map(tuple) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=8,
)


def check(got: Any, sent: Any) -> None:
    assert type(got) is type(sent)
    if isinstance(sent, np.ndarray):
        assert got.dtype == sent.dtype
        assert got.shape == sent.shape
        if got.nbytes:
            assert got.__array_interface__["data"][0] % ALIGNMENT == 0
        if got.dtype.names is None:
            assert got.tobytes() == sent.tobytes()
        fortran = sent.flags.f_contiguous and not sent.flags.c_contiguous
        assert got.flags.f_contiguous if fortran else got.flags.c_contiguous
    elif isinstance(sent, dict):
        assert [(type(k), repr(k)) for k in got] == [(type(k), repr(k)) for k in sent]
        for a, b in zip(got.values(), sent.values(), strict=True):
            check(a, b)
    elif isinstance(sent, (tuple, list)):
        assert len(got) == len(sent)
        for a, b in zip(got, sent, strict=True):
            check(a, b)
    else:
        assert repr(got) == repr(sent)


@given(batches)
@SETTINGS
def test_round_trip(batch: Any) -> None:
    encoded = encode(batch)
    payload = aligned_empty(encoded.nbytes)
    payload[:] = 0x5A
    encoded.write_into(payload)
    check(decode(encoded.head, payload), batch)
    shape_of(encoded.head)


@given(arrays())
@SETTINGS
def test_round_trip_of_one_array_through_inline_bytes(array: np.ndarray[Any, Any]) -> None:
    encoded = encode(array)
    payload = aligned_empty(encoded.nbytes)
    payload[:] = np.frombuffer(encoded.to_bytes(), np.uint8)
    check(decode(encoded.head, payload), array)
