"""Batches as bytes: a small head (msgpack) and one payload that holds every array at a 64-byte-aligned offset.

    worker   encode(batch) -> Encoded ── write_into(block) ──▶ payload     each array is copied once, into its place
                                  └───── head ───────────────▶ opaque to the node, which forwards it
    client   decode(head, payload) -> batch                                nothing is copied: leaves are views of the payload

**What arrives.** The structure, exactly: tuples, lists, dicts in order, None, empty containers, a bare array, nested up to 64 deep.
Only subclasses are levelled: a named tuple arrives as a tuple; a subclass of dict, list, str or int (IntEnum, ...) as its base.
Keys of dicts: str, bytes, int, float, complex, bool, None, NumPy numbers and texts, and tuples of these.
Arrays: every dtype of NumPy but object, byte order kept, those of ml_dtypes (bfloat16, float8, int4, ...), StringDType; 0-d and empty
ones. Fortran order is kept, any other layout arrives in C order. Subclasses (matrix, recarray, memmap) arrive as plain arrays; a masked
array is refused, because it would lose its mask. What has ``__array__`` (torch, TensorFlow, JAX tensors) arrives as a NumPy array.
Python scalars stay Python scalars (ints of any size), NumPy scalars stay NumPy scalars.
An array that stands twice in a batch arrives as two arrays.

**What the Keras adapter does with it** (measured with Keras 3.15.1): hand numbers and lists on as they come; never make arrays of them.
To Keras a list of numbers is structure, with one rank-0 leaf per number. On TensorFlow `fit` refuses every such leaf, be it a Python
scalar, a NumPy scalar or a 0-d array, in x, y or weights: "ValueError: When passing a dataset to a Keras model, the arrays must be at
least rank 1. Received: 1 of rank 0." On torch a scalar as target or weight becomes a rank-0 tensor and trains by broadcasting, and lists
of numbers are refused ("expects 1 input(s), but it received 3", "y_true and y_pred have different structures"). An adapter that made
arrays of lists would train where Keras does not, and would change what a custom train_step is given.

**What is believed.** Nothing. `decode` reads what came from a socket, and checks the whole head (plan.py, dtypes.py) before it builds
anything. msgpack-numpy unpickles object arrays, so its decoder sees one scalar at a time, of a dtype from a whitelist, and never a map
that a peer wrote. The values inside the payload are not checked: any bytes are some number.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import msgpack
import msgpack_numpy
import numpy as np

from feeder_wire.dtypes import AnyArray
from feeder_wire.errors import FeederError, ProtocolError, UnsupportedBatch
from feeder_wire.plan import Plan, parse
from feeder_wire.tree import ALIGNMENT, Leaf, Placed, flatten

__all__ = ["ALIGNMENT", "MAX_HEAD", "Encoded", "aligned_empty", "decode", "encode", "payload_bytes", "shape_of"]

MAX_HEAD = 4 * 1024 * 1024  # what messages.py accepts as a head
_CACHED = 2048  # heads up to this size are remembered: batches of one source have the same head, unless they carry scalars
_MAX_ARRAY = 128  # items of a msgpack array; the longest that is written is a shape
_ndarray = np.ndarray


class Encoded:
    """A batch, ready to be written. Holds the batch's own arrays, not copies: write before they change.

    Attributes:
        head: structure and descriptors of the leaves; opaque to everyone but `decode`.
        nbytes: size of the payload in bytes.
    """

    __slots__ = ("_leaves", "_there", "head", "nbytes")

    def __init__(self, head: bytes, nbytes: int, leaves: list[Leaf], there: list[Leaf]) -> None:
        self.head = head
        self.nbytes = nbytes
        self._leaves = leaves
        self._there = there

    def __repr__(self) -> str:
        return f"<Encoded {len(self._leaves) + len(self._there)} arrays, head {len(self.head)} bytes, payload {self.nbytes} bytes>"

    def write_into(self, target: bytearray | memoryview | AnyArray) -> None:
        """Copy every array to its place, also those that were placed already. The bytes between arrays are left as they are.

        Args:
            target: a writable, contiguous buffer of at least `nbytes` bytes.

        Raises:
            ValueError: the buffer is too small or read-only.
        """
        self._write(target, self._there)
        self.write_rest(target)

    @property
    def placed(self) -> bool:
        """Does any of its arrays lie where it was asked for?"""
        return bool(self._there)

    def write_rest(self, target: bytearray | memoryview | AnyArray) -> None:
        """The same without those arrays that lie there already. Raises as `write_into` does."""
        self._write(target, self._leaves)

    def drop(self) -> None:
        """Let go of the batch's arrays; it can't be written any more."""
        self._leaves, self._there = [], []

    def _write(self, target: bytearray | memoryview | AnyArray, leaves: list[Leaf]) -> None:
        if not self.nbytes:
            return
        flat = np.frombuffer(target, np.uint8)
        if flat.nbytes < self.nbytes:
            raise ValueError(f"a buffer of {flat.nbytes} bytes for a payload of {self.nbytes}")
        for array, offset, order in leaves:
            # One pass whatever the layout of the source, without the GIL; faster than np.copyto by its dispatch.
            _ndarray(array.shape, array.dtype, flat, offset, None, order)[...] = array

    def to_bytes(self) -> bytearray:
        """The payload as bytes of its own, with zeros between the arrays; for batches small enough to travel inside a message."""
        data = bytearray(self.nbytes)
        self.write_into(data)
        return data


def encode(batch: object, placed: Placed | None = None) -> Encoded:
    """Describe a batch, without copying its arrays.

    Args:
        batch: what the user's code returned.
        placed: a buffer in which some of its arrays lie already; they stay, and the others are given places behind `placed.end`.

    Raises:
        UnsupportedBatch: something in it can't travel; the message starts with its path, for example ``batch[0]['image']``.
    """
    tokens, leaves, nbytes, there = flatten(batch, _describe_scalar, placed)
    head = _pack(tokens)
    if len(head) > MAX_HEAD:
        raise UnsupportedBatch(f"batch: {len(head)} bytes of scalars and structure, at most {MAX_HEAD} can be sent; put them into arrays")
    return Encoded(head, nbytes, leaves, there)


def decode(head: bytes, payload: np.ndarray[Any, np.dtype[np.uint8]]) -> object:
    """Rebuild a batch around its payload.

    The arrays are views of `payload`, writable if it is. They keep it alive, as does every view of them, so
    ``weakref.finalize(payload, ...)`` fires when the last of them has died and the caller has dropped it.

    Args:
        head: as `encode` made it, from wherever it came.
        payload: uint8, shape (at least `Encoded.nbytes`,), contiguous; starts at a multiple of 64 bytes if the leaves shall.

    Raises:
        ProtocolError: head or payload is malformed.
        UnsupportedBatch: this machine has no such dtype; the message says what to install.
    """
    plan = _plan(head)
    if not isinstance(payload, _ndarray) or payload.dtype != np.uint8 or payload.ndim != 1 or not payload.flags.c_contiguous:
        raise ProtocolError("the payload of a batch must be a contiguous array of bytes")
    if payload.size < plan.nbytes:
        raise ProtocolError(f"a payload of {payload.size} bytes where the head promises {plan.nbytes}")
    if isinstance(payload.base, _ndarray):
        # NumPy gives a view of a view the base of the latter, so leaves would hold the base and not `payload`. A memoryview stops that.
        payload = np.frombuffer(payload.data, np.uint8)
    try:
        return plan.root.make(payload)
    except Exception as exc:  # what only shows while building: invalid utf-8, surrogates in a text for StringDType
        raise ProtocolError(f"a batch can't be built from what arrived: {type(exc).__name__}: {exc}") from exc


def payload_bytes(head: bytes) -> int:
    """How large the payload of a batch is, in bytes, as its head says. Raises as `shape_of` does."""
    return _plan(head).nbytes


def shape_of(head: bytes) -> list[tuple[str, str, tuple[int, ...]]]:
    """Path, dtype (or type of a scalar) and shape of every leaf but None, for logs.

    Raises:
        ProtocolError: the head is malformed.
        UnsupportedBatch: this machine has no such dtype.
    """
    found: list[tuple[str, str, tuple[int, ...]]] = []
    _plan(head).root.walk("batch", found)
    return found


def aligned_empty(nbytes: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Uninitialised bytes, uint8, shape (nbytes,), that start at a multiple of 64; np.empty promises 16 at most."""
    raw = np.empty(nbytes + ALIGNMENT, np.uint8)
    skip = -raw.__array_interface__["data"][0] % ALIGNMENT
    # Through a memoryview, so that views of the result end at the result and not at `raw` (see decode).
    return np.frombuffer(raw.data[skip : skip + nbytes], np.uint8)


# -- msgpack ------------------------------------------------------------------------------------------------------------


def _pack(tokens: list[object]) -> bytes:
    """The tokens one after the other: as one msgpack array, less its header of 1, 3 or 5 bytes."""
    try:
        packed: bytes = msgpack.packb(tokens)
    except UnicodeEncodeError:  # lone surrogates, as in names of files; rare, and slower for all other texts
        packed = msgpack.packb(tokens, unicode_errors="surrogatepass")
    return packed[1 if len(tokens) < 16 else 3 if len(tokens) < 1 << 16 else 5 :]


def _unpack(head: bytes) -> list[Any]:
    try:
        unpacker = msgpack.Unpacker(
            use_list=False,
            unicode_errors="surrogatepass",
            max_buffer_size=len(head) + 1,
            max_array_len=_MAX_ARRAY,
            max_map_len=0,
            max_ext_len=0,
        )
        unpacker.feed(head)
        tokens = list(unpacker)
        # A token that was cut off makes no error: it waits for the rest. Then one more None does not come out as None.
        unpacker.feed(b"\xc0")
        complete = list(unpacker) == [None]
    except Exception as exc:  # msgpack refuses in half a dozen ways; to the caller they are one
        raise ProtocolError(f"the head of a batch is no msgpack: {type(exc).__name__}: {exc}") from exc
    if not complete:
        raise ProtocolError("the head of a batch is cut off")
    return tokens


def _describe_scalar(value: np.generic) -> tuple[str, bytes]:
    described = msgpack_numpy.encode(value)
    return described[b"type"], bytes(described[b"data"])


def _make_scalar(text: str, data: bytes) -> np.generic:
    made: np.generic = msgpack_numpy.decode({b"nd": False, b"type": text, b"data": data})
    return made


def _parse(head: bytes) -> Plan:
    return parse(_unpack(head), _make_scalar)


_parse_cached = lru_cache(maxsize=256)(_parse)


def _plan(head: bytes) -> Plan:
    if type(head) is not bytes or len(head) > MAX_HEAD:
        raise ProtocolError(f"the head of a batch must be at most {MAX_HEAD} bytes")
    try:
        return _parse_cached(head) if len(head) <= _CACHED else _parse(head)
    except FeederError:
        raise
    except Exception as exc:
        raise ProtocolError(f"the head of a batch is malformed: {type(exc).__name__}") from exc
