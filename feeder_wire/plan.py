"""What arrived, checked: tokens from a peer become a plan, and a plan becomes a batch on any payload that is large enough.

`parse` believes nothing; it checks every token before anything is built. A plan can't change, so threads may share it.
The tokens are described in tree.py.
"""

from __future__ import annotations

import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from feeder_wire import tree
from feeder_wire.dtypes import MAX_RANK, RANK_HERE, AnyArray, AnyDtype, dtype_of
from feeder_wire.errors import ProtocolError, UnsupportedBatch

Found: TypeAlias = "list[tuple[str, str, tuple[int, ...]]]"
MakeScalar: TypeAlias = Callable[[str, bytes], "np.generic"]


class Node(ABC):
    """One checked node of a batch."""

    __slots__ = ()

    @abstractmethod
    def make(self, payload: AnyArray) -> object:
        """The value, fresh; arrays are views of `payload` (uint8, 1-d)."""

    @abstractmethod
    def walk(self, path: str, found: Found) -> None:
        """Append path, dtype or type name, and shape of every leaf."""


@dataclass(frozen=True, slots=True)
class Const(Node):
    """A value that can't be changed, so that every batch may share it."""

    value: object

    def make(self, payload: AnyArray) -> object:
        return self.value

    def walk(self, path: str, found: Found) -> None:
        if self.value is not None:
            found.append((path, type(self.value).__name__, ()))


@dataclass(frozen=True, slots=True)
class Items(Node):
    """A tuple or a list."""

    items: tuple[Node, ...]
    is_tuple: bool

    def make(self, payload: AnyArray) -> object:
        made = [item.make(payload) for item in self.items]
        return tuple(made) if self.is_tuple else made

    def walk(self, path: str, found: Found) -> None:
        for i, item in enumerate(self.items):
            item.walk(f"{path}[{i}]", found)


@dataclass(frozen=True, slots=True)
class Mapping(Node):
    """A dict."""

    items: tuple[tuple[Any, Node], ...]

    def make(self, payload: AnyArray) -> object:
        return {key: item.make(payload) for key, item in self.items}

    def walk(self, path: str, found: Found) -> None:
        for key, item in self.items:
            item.walk(f"{path}[{tree.key_text(key)}]", found)


@dataclass(frozen=True, slots=True)
class Array(Node):
    """An array in the payload, `offset` bytes from its start."""

    shape: tuple[int, ...]
    dtype: AnyDtype
    offset: int
    order: Any  # "C" or "F"

    def make(self, payload: AnyArray) -> object:
        return np.ndarray(self.shape, self.dtype, payload, self.offset, None, self.order)

    def walk(self, path: str, found: Found) -> None:
        found.append((path, str(self.dtype), self.shape))


@dataclass(frozen=True, slots=True)
class Long(Node):
    """A long text or byte string in the payload."""

    offset: int
    length: int
    is_str: bool

    def make(self, payload: AnyArray) -> object:
        data = payload[self.offset : self.offset + self.length].tobytes()
        return data.decode("utf-8", "surrogatepass") if self.is_str else data

    def walk(self, path: str, found: Found) -> None:
        found.append((path, "str" if self.is_str else "bytes", ()))


@dataclass(frozen=True, slots=True)
class Strings(Node):
    """An array of StringDType; its texts are part of the head."""

    shape: tuple[int, ...]
    order: Any
    options: dict[str, Any]  # arguments of StringDType
    texts: tuple[str | None, ...]

    def make(self, payload: AnyArray) -> object:
        dtype = np.dtypes.StringDType(**self.options)
        missing = self.options.get("na_object")
        return np.array([missing if t is None else t for t in self.texts], dtype=dtype).reshape(self.shape, order=self.order)

    def walk(self, path: str, found: Found) -> None:
        found.append((path, "StringDType", self.shape))


@dataclass(frozen=True, slots=True)
class Generic(Node):
    """A NumPy scalar made from its bytes; one of its own each time, because structured scalars can be changed."""

    dtype: AnyDtype
    data: bytes

    def make(self, payload: AnyArray) -> object:
        return np.ndarray((), self.dtype, bytearray(self.data) or None)[()]

    def walk(self, path: str, found: Found) -> None:
        found.append((path, str(self.dtype), ()))


@dataclass(frozen=True, slots=True)
class Plan:
    """A checked head: what to build, and the bytes of payload that it needs."""

    root: Node
    nbytes: int


def parse(tokens: list[Any], scalar: MakeScalar) -> Plan:
    """Check a row of tokens and make a plan of it.

    Args:
        tokens: as a peer sent them; of any types that msgpack knows.
        scalar: makes a NumPy scalar of a dtype's text (checked by then) and bytes of the right length.

    Raises:
        ProtocolError: `encode` writes no such row.
        UnsupportedBatch: it does, but this machine lacks the dtype.
    """
    return _Parser(tokens, scalar).plan()


class _Parser:
    __slots__ = ("_at", "_nbytes", "_nodes", "_scalar", "_spans", "_tokens")

    def __init__(self, tokens: list[Any], scalar: MakeScalar) -> None:
        self._tokens = tokens
        self._scalar = scalar
        self._at = 0
        self._nodes = 0
        self._spans: list[tuple[int, int]] = []

    def plan(self) -> Plan:
        if self._take(int) != tree.VERSION:
            raise ProtocolError("the head of a batch is of another version, or is none")
        self._nbytes = self._size()
        root = self._node(0)
        if self._at != len(self._tokens):
            raise ProtocolError(f"the head of a batch goes on after its end, at token {self._at}")
        self._spans.sort()
        end = 0
        for start, stop in self._spans:
            if start < end:
                raise ProtocolError(f"two leaves of a batch share byte {start} of the payload")
            end = stop
        return Plan(root, self._nbytes)

    def _take(self, *kinds: type) -> Any:
        if self._at >= len(self._tokens):
            raise ProtocolError("the head of a batch ends early")
        token = self._tokens[self._at]
        if type(token) not in kinds:
            raise ProtocolError(f"token {self._at} of the head of a batch can't be {token!r:.60}")
        self._at += 1
        return token

    def _size(self) -> int:
        size: int = self._take(int)
        if not 0 <= size <= sys.maxsize:
            raise ProtocolError(f"{size} is no size or offset")
        return size

    def _node(self, depth: int) -> Node:
        token = self._take(int, str, bytes, float, bool, type(None))
        if type(token) is not int:
            return Const(token)
        if token in (tree.TUPLE, tree.LIST):
            items = range(self._open(depth, 1))
            return Items(tuple([self._node(depth + 1) for _ in items]), token == tree.TUPLE)
        if token == tree.DICT:
            pairs = [(self._key(depth + 1), self._node(depth + 1)) for _ in range(self._open(depth, 2))]
            if len(dict(pairs)) != len(pairs):
                raise ProtocolError("a dict of a batch has the same key twice")
            return Mapping(tuple(pairs))
        if token in (tree.ARRAY, tree.FORTRAN):
            return self._array("F" if token == tree.FORTRAN else "C")
        if token in (tree.LONG_STR, tree.LONG_BYTES):
            offset, length = self._size(), self._size()
            self._claim(offset, length)
            return Long(offset, length, token == tree.LONG_STR)
        return self._strings() if token == tree.STRINGS else self._number(token)

    def _open(self, depth: int, width: int) -> int:
        count: int = self._take(int)
        if depth >= tree.MAX_DEPTH:
            raise ProtocolError(f"a batch nested deeper than {tree.MAX_DEPTH} levels")
        self._nodes += count * width
        if not (0 <= count * width <= len(self._tokens) - self._at and self._nodes <= tree.MAX_NODES):
            raise ProtocolError(f"a container of {count} items, more than the head of the batch holds or may hold")
        return count

    def _key(self, depth: int) -> object:
        if self._at < len(self._tokens) and type(self._tokens[self._at]) is int and self._tokens[self._at] == tree.TUPLE:
            self._at += 1
            return tuple([self._key(depth + 1) for _ in range(self._open(depth, 1))])
        node = self._node(tree.MAX_DEPTH)  # so deep that no container may open
        if not isinstance(node, Const):
            raise ProtocolError(f"a {type(node).__name__} can't be the key of a dict")
        return node.value

    def _number(self, tag: int) -> Node:
        if tag == tree.INT:
            return Const(self._take(int))
        if tag == tree.BIGINT:
            return Const(int.from_bytes(self._take(bytes), "little", signed=True))
        if tag == tree.COMPLEX:
            return Const(complex(self._take(float), self._take(float)))
        if tag == tree.NP_STR:
            return Const(np.str_(self._take(str)))
        if tag == tree.NP_BYTES:
            return Const(np.bytes_(self._take(bytes)))
        if tag not in (tree.SCALAR, tree.GENERIC):
            raise ProtocolError(f"{tag} is no tag of a node")
        text, data = self._take(str), self._take(bytes)
        dtype = dtype_of(text)
        if len(data) != dtype.itemsize:
            raise ProtocolError(f"{len(data)} bytes for a scalar of {dtype.itemsize}")
        if tag == tree.GENERIC:
            return Generic(dtype, data)
        if dtype.kind not in "biufc" or text[0] not in "<>|":
            raise ProtocolError(f"a scalar of dtype {text!r:.60} does not travel in this way")
        return Const(self._scalar(text, data))

    def _shape(self, itemsize: int) -> tuple[int, ...]:
        shape: tuple[Any, ...] = self._take(tuple)
        if len(shape) > MAX_RANK or not all(type(n) is int and n >= 0 for n in shape):
            raise ProtocolError(f"{shape!r:.80} is no shape")
        if math.prod(n or 1 for n in shape) * max(itemsize, 1) > sys.maxsize:
            raise ProtocolError(f"no array can have the shape {shape!r:.80}")
        if len(shape) > RANK_HERE:
            raise UnsupportedBatch(f"an array of rank {len(shape)}; NumPy {np.__version__} has at most {RANK_HERE}")
        return shape

    def _array(self, order: str) -> Array:
        dtype = dtype_of(self._take(str))
        shape = self._shape(dtype.itemsize)
        offset = self._size()
        self._claim(offset, math.prod(shape) * dtype.itemsize)
        return Array(shape, dtype, offset, order)

    def _claim(self, offset: int, size: int) -> None:
        if offset % tree.ALIGNMENT or offset + size > self._nbytes:
            raise ProtocolError(f"a leaf of {size} bytes at offset {offset} of a payload of {self._nbytes}")
        if size:
            self._spans.append((offset, offset + size))

    def _strings(self) -> Strings:
        shape, fortran, coerce = self._shape(16), self._take(bool), self._take(bool)
        missing = self._take(bool, str, float, type(None))
        options: dict[str, Any] = {"coerce": coerce}
        if missing is not False:  # False: without a missing value; otherwise the missing value itself
            options["na_object"] = missing
        count = math.prod(shape)
        texts = tuple(self._tokens[self._at : self._at + count])
        if missing is True or len(texts) != count or not all(type(t) is str or (t is None and missing is not False) for t in texts):
            raise ProtocolError("an array of texts has too few of them, or others than texts")
        if not hasattr(np, "dtypes") or not hasattr(np.dtypes, "StringDType"):
            raise UnsupportedBatch('an array of StringDType needs NumPy 2 here: pip install "numpy>=2", or send .astype("U")')
        self._at += count
        return Strings(shape, "F" if fortran else "C", options, texts)
