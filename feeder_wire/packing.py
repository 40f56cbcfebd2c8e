"""Payloads made smaller for slow lines: both ends. What is packed travels as any batch does, under a head that says so.

    PACKED  method  length   the codec's head ...          |  packed bytes, then zeros
    1 byte  1 byte  8 bytes, little-endian                 |  `length` of them are packed

The codec's own heads begin with another byte (`tree.VERSION`). The methods come from the libraries zstandard and lz4, where they are
installed; a client says in `Open` which of them it takes.

**What is believed.** Nothing. How large the payload has to become is what the codec's head says, after all of its checks; a frame
that says otherwise is refused before it is unpacked, and one that turns out otherwise after it. And no payload grows to more than
`MOST_TIMES` the bytes that came: who packs better than that fills up with zeros. So a peer can't ask for more memory than a fixed
multiple of what it sends.

Importing this imports no NumPy: a node does.
"""

from __future__ import annotations

import importlib
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from feeder_wire.errors import FeederError, ProtocolError
from feeder_wire.fields import MAX_HEAD

if TYPE_CHECKING:
    import numpy as np

    Bytes = np.ndarray[Any, np.dtype[np.uint8]]

METHODS = ("lz4", "zstd")
"""The quicker one first; a method's number on the wire is its place."""
PACKED = b"\x02"
MOST_TIMES = 256
LZ4_MOST_BYTES = 0x7E000000
"""That a block of LZ4 can hold."""
_START = 10
_LIBRARIES = {"lz4": "lz4", "zstd": "zstandard"}
_LEVEL = 1
_WINDOW_BYTES = 8 << 20
"""Of memory that a frame of Zstandard may ask for besides its content."""


@cache
def available() -> tuple[str, ...]:
    """The methods whose libraries are installed here."""
    return tuple(method for method in METHODS if find_spec(_LIBRARIES[method]) is not None)


def pack(head: bytes, data: bytearray, method: str) -> tuple[bytes, bytes] | None:
    """Pack a payload.

    Args:
        head: the codec's.
        data: the payload.
        method: one of `available`.

    Returns:
        The head and the payload to send; None where that isn't smaller, or can't be.
    """
    if len(head) + _START > MAX_HEAD or (method == "lz4" and len(data) > LZ4_MOST_BYTES):
        return None
    packed: bytes
    if method == "lz4":
        packed = importlib.import_module("lz4.block").compress(data, store_size=False)
    else:
        packed = importlib.import_module("zstandard").ZstdCompressor(level=_LEVEL).compress(data)
    length = len(packed)
    least = -(-len(data) // MOST_TIMES)
    if length < least:
        packed += bytes(least - length)
    if len(packed) >= len(data):
        return None
    return PACKED + bytes([METHODS.index(method)]) + length.to_bytes(8, "little") + head, packed


def is_packed(head: bytes) -> bool:
    """Whether this head says that its payload is packed."""
    return head[:1] == PACKED


def unpack(head: bytes, data: Bytes) -> tuple[bytes, Bytes]:
    """The codec's head, and the payload as it was, at a 64-byte-aligned address.

    Args:
        head: of which `is_packed` says yes.
        data: what came, uint8.

    Raises:
        ProtocolError: they don't fit together, or this isn't what `pack` makes.
        UnsupportedBatch: see `codec.decode`.
    """
    codec = importlib.import_module("feeder_wire.codec")
    if len(head) <= _START or head[1] >= len(METHODS):
        raise ProtocolError("a packed batch has no head, or is packed in a way that nobody knows")
    method, length, inner = METHODS[head[1]], int.from_bytes(head[2:_START], "little"), bytes(head[_START:])
    if method not in available():
        raise ProtocolError(f"a batch is packed with {method}, which isn't installed here and was not asked for")
    nbytes = codec.payload_bytes(inner)
    if length > len(data) or nbytes > MOST_TIMES * len(data):
        raise ProtocolError(f"{len(data)} bytes came of a batch that is said to be {length} packed and {nbytes} unpacked")
    try:
        out = codec.aligned_empty(nbytes)
        (_unpack_lz4 if method == "lz4" else _unpack_zstd)(data[:length], out)
    except FeederError:
        raise
    except Exception as e:  # what these libraries raise for broken frames, and MemoryError
        raise ProtocolError(f"a batch packed with {method} can't be unpacked: {type(e).__name__}: {e}") from None
    return inner, out


def _unpack_lz4(data: Bytes, out: Bytes) -> None:
    # It is given room for so many bytes, and refuses what would need more.
    made = importlib.import_module("lz4.block").decompress(data.data, uncompressed_size=len(out))
    if len(made) != len(out):
        raise ProtocolError(f"a batch of {len(out)} bytes unpacks to {len(made)}")
    out.data[:] = made


def _unpack_zstd(data: Bytes, out: Bytes) -> None:
    library = importlib.import_module("zstandard")
    said = library.get_frame_parameters(data.data).content_size
    if said != len(out):
        raise ProtocolError(f"a batch of {len(out)} bytes would unpack to {said}")
    # Read piece by piece into the room that there is: what a frame says of itself may be a lie.
    with library.ZstdDecompressor(max_window_size=_WINDOW_BYTES).stream_reader(data.data) as reader:
        at = 0
        while at < len(out) and (count := reader.readinto(out.data[at:])):
            at += count
        if at != len(out) or reader.read(1):
            raise ProtocolError(f"a batch of {len(out)} bytes unpacks to {'more' if at == len(out) else at}")
