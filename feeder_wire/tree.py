"""A batch as a flat row of tokens that msgpack knows: the language that `flatten` writes and plan.py reads.

A row is ``version, nbytes, node``, and a node is one of these (the first token of all but the first is a tag, an int):
    None | bool | float | str | bytes           itself
    INT value | BIGINT bytes | COMPLEX re im    Python numbers
    TUPLE n node* | LIST n node* | DICT n (key node)*
    ARRAY or FORTRAN  dtype shape offset        an array in the payload, C or Fortran order
    LONG_STR or LONG_BYTES  offset length       a long text (utf-8) or byte string in the payload
    STRINGS  shape fortran coerce missing text* an array of NumPy's StringDType; a missing text is None; `missing` False: there are none
    SCALAR dtype bytes | GENERIC dtype bytes    a NumPy scalar; by msgpack-numpy, or what that can't do
    NP_STR str | NP_BYTES bytes                 np.str_, np.bytes_
A key is a node without arrays, long texts and containers other than tuples.

The row is flat, not nested like the batch, for safety: msgpack sets aside the announced length of each array before it has read
it, level by level, so nested rows of a few MB could ask for gigabytes. Here it never reads an array longer than a shape.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

import numpy as np

from feeder_wire.dtypes import AnyArray, Refused, as_array, is_foreign_array, text_of, type_name
from feeder_wire.errors import UnsupportedBatch

VERSION = 1
ALIGNMENT = 64
MAX_DEPTH = 64
MAX_NODES = 1_000_000
TUPLE, LIST, DICT, ARRAY, FORTRAN, INT, BIGINT, COMPLEX, SCALAR, GENERIC, NP_STR, NP_BYTES, STRINGS, LONG_STR, LONG_BYTES = range(15)

_LONG = 1024  # longer texts and byte strings go into the payload, so that a list of JPEGs does not fill the head
_ndarray = np.ndarray
_NONE_GIVEN = object()
_AS_IS = frozenset({float, bool, type(None)})

Leaf: TypeAlias = "tuple[AnyArray, int, Any]"  # what to copy, its offset in the payload, "C" or "F"
DescribeScalar: TypeAlias = Callable[["np.generic"], "tuple[str, bytes]"]


class Placed(Protocol):
    """A buffer in which some arrays of a batch may lie already, where they are to be."""

    end: int
    """Where it is free."""

    def offset_of(self, array: AnyArray) -> int | None:
        """Where an array lies in it; None: elsewhere."""


def flatten(batch: object, scalar: DescribeScalar, placed: Placed | None = None) -> tuple[list[object], list[Leaf], int, list[Leaf]]:
    """Walk a batch once.

    Args:
        batch: what the user's code returned.
        scalar: gives the text of the dtype and the bytes of a NumPy bool or number.
        placed: where some arrays lie already.

    Returns:
        The tokens, the arrays with their places, the size of the payload in bytes, and the arrays that lie there already.

    Raises:
        UnsupportedBatch: something in it can't travel; the message starts with its path, for example ``batch[0]['image']``.
    """
    writer = _Writer(scalar, placed)
    try:
        writer.put(batch, 0)
    except Refused as refused:
        raise UnsupportedBatch(f"batch{''.join(reversed(refused.steps))}: {refused}") from refused.__cause__
    return [VERSION, writer.end, *writer.tokens], writer.leaves, writer.end, writer.there


def key_text(key: object) -> str:
    """A key of a dict as it stands in the path of a leaf, at most 80 characters."""
    try:
        return f"{key!r:.80}"
    except Exception:  # an int of thousands of digits, a key with a repr of its own: the path is only for people
        return f"<{type(key).__name__}>"


class _Writer:
    __slots__ = ("_placed", "_scalar", "end", "leaves", "nodes", "there", "tokens")

    def __init__(self, scalar: DescribeScalar, placed: Placed | None) -> None:
        self._scalar = scalar
        self._placed = placed
        self.there: list[Leaf] = []
        self.tokens: list[object] = []
        self.leaves: list[Leaf] = []
        self.end = placed.end if placed is not None else 0
        self.nodes = 0

    def put(self, value: Any, depth: int) -> None:
        kind = type(value)
        if kind is _ndarray:
            self._array(value)
        elif kind is tuple:
            self._items(TUPLE, value, depth)
        elif kind is dict:
            self._dict(value, depth)
        elif kind is list:
            self._items(LIST, value, depth)
        elif kind in _AS_IS:
            self.tokens.append(value)
        elif kind is str or kind is bytes:
            self._text(value)
        elif not (self._number(value) or self._numpy_scalar(value)):
            self._other(value, depth)

    def _open(self, tag: int, count: int, nodes: int, depth: int) -> None:
        self.nodes += nodes
        if depth >= MAX_DEPTH:
            raise Refused(f"nested deeper than {MAX_DEPTH} levels; does it contain itself?")
        if self.nodes > MAX_NODES:
            raise Refused(f"more than {MAX_NODES} items in one batch; put numbers into arrays (or does it contain itself?)")
        self.tokens += (tag, count)

    def _items(self, tag: int, items: Any, depth: int) -> None:
        self._open(tag, len(items), len(items), depth)
        i = 0
        try:
            for item in items:
                self.put(item, depth + 1)
                i += 1
        except Refused as refused:
            refused.steps.append(f"[{i}]")
            raise

    def _dict(self, items: Any, depth: int) -> None:
        self._open(DICT, len(items), 2 * len(items), depth)
        key: object = None
        try:
            for key, item in items.items():
                self._key(key, depth + 1)
                self.put(item, depth + 1)
        except Refused as refused:
            refused.steps.append(f"[{key_text(key)}]")
            raise

    def _key(self, key: Any, depth: int) -> None:
        if isinstance(key, tuple):
            self._open(TUPLE, len(key), len(key), depth)
            for item in key:
                self._key(item, depth + 1)
        elif type(key) in _AS_IS or type(key) is str or type(key) is bytes:
            self.tokens.append(key)
        elif isinstance(key, np.generic):
            before = len(self.tokens)
            self._numpy_scalar(key)
            if self.tokens[before] == GENERIC:
                raise Refused(f"a {type_name(key)} can't be the key of a dict; use key.item()")
        elif isinstance(key, (int, float, complex, str, bytes)):
            key = _levelled(key)
            if not self._number(key):
                self.tokens.append(key)
        else:
            raise Refused(f"a {type_name(key)} can't be the key of a dict; use a str, bytes, a number, or a tuple of these")

    def _array(self, array: AnyArray) -> None:
        flags = array.flags
        dtype = array.dtype
        if dtype.kind == "T":
            return self._strings(array)
        text = text_of(dtype)
        in_fortran = not flags.c_contiguous and flags.f_contiguous
        offset = self._place(array, "F" if in_fortran else "C")
        self.tokens += (FORTRAN if in_fortran else ARRAY, text, array.shape, offset)
        return None

    def _place(self, array: AnyArray, order: str) -> int:
        if self._placed is not None and (found := self._placed.offset_of(array)) is not None:
            self.there.append((array, found, order))
            return found
        offset = (self.end + ALIGNMENT - 1) & -ALIGNMENT
        self.leaves.append((array, offset, order))
        self.end = offset + array.nbytes
        return offset

    def _text(self, value: str | bytes) -> None:
        if len(value) <= _LONG:
            self.tokens.append(value)
            return
        data = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
        offset = self._place(np.frombuffer(data, np.uint8), "C")
        self.tokens += (LONG_STR if isinstance(value, str) else LONG_BYTES, offset, len(data))

    def _number(self, value: Any) -> bool:
        if type(value) is int:
            if -(1 << 63) <= value < 1 << 64:
                self.tokens += (INT, value)
            else:
                self.tokens += (BIGINT, value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True))
        elif type(value) is complex:
            self.tokens += (COMPLEX, value.real, value.imag)
        else:
            return False
        return True

    def _numpy_scalar(self, value: Any) -> bool:
        if not isinstance(value, np.generic):
            return False
        if isinstance(value, np.str_):  # not by its array, which would cut off NULs at the end
            self.tokens += (NP_STR, str.__str__(value))
        elif isinstance(value, np.bytes_):
            self.tokens += (NP_BYTES, bytes(memoryview(value)))
        else:
            text = text_of(value.dtype)
            if isinstance(value, (np.bool_, np.number)) and value.dtype.kind in "biufc" and text[0] in "<>|":
                self.tokens += (SCALAR, *self._scalar(value))
            else:
                self.tokens += (GENERIC, text, np.asarray(value).tobytes())
        return True

    def _strings(self, array: AnyArray) -> None:
        dtype: Any = array.dtype
        missing = getattr(dtype, "na_object", _NONE_GIVEN)
        if not (missing is None or missing is _NONE_GIVEN or type(missing) is str or (type(missing) is float and missing != missing)):
            raise Refused(f"a StringDType whose missing value is {missing!r}; use None, nan or a str")
        is_fortran = array.ndim > 1 and array.flags.f_contiguous and not array.flags.c_contiguous
        texts = array.ravel("F" if is_fortran else "C").tolist()
        self.tokens += (STRINGS, array.shape, is_fortran, bool(dtype.coerce), False if missing is _NONE_GIVEN else missing)
        self.tokens += [text if type(text) is str else None for text in texts]

    def _other(self, value: Any, depth: int) -> None:
        if isinstance(value, np.ma.MaskedArray):
            raise Refused("a masked array would lose its mask; send .filled(...), or data and mask as two arrays")
        if isinstance(value, _ndarray):
            self._array(np.asarray(value))
        elif isinstance(value, (tuple, list)):
            self._items(TUPLE if isinstance(value, tuple) else LIST, list(value), depth)
        elif isinstance(value, dict):
            self._dict(dict(value.items()), depth)
        elif isinstance(value, (int, float, complex, str, bytes)):
            self.put(_levelled(value), depth)
        elif is_foreign_array(value):
            self._array(as_array(value))
        else:
            raise Refused(f"a {type_name(value)} can't be sent; make it an array, a number, a text, or a tuple, list or dict of these")


def _levelled(value: Any) -> object:
    """An instance of a subclass of a scalar type as its base; not by str() or int(), which the subclass may have changed."""
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, str):
        return str.__str__(value)
    return complex(value.real, value.imag) if isinstance(value, complex) else bytes(memoryview(value))
