"""Messages to frames and back, without NumPy: a node forwards batches and never looks into one.

One ZeroMQ message carries many messages: its first frame is a msgpack array of ``[code, field, field, ...]``, in order. Only a
`Part` has a second frame, its bytes, and is alone in its message. Small payloads travel inside the first frame, because a frame
of its own costs more than copying 32 kB.

What comes from a socket is hostile until proven otherwise: sizes are capped before anything is built, every message checks its
fields, and whatever does not fit is a `ProtocolError`, never another exception.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import astuple, fields
from operator import attrgetter
from typing import Any

import msgpack

from feeder_wire.errors import ProtocolError, RemoteError
from feeder_wire.fields import MAX_ITEMS

MAX_FRAME = 64 * 1024 * 1024
"""First frames above this size are refused unread."""
HEARTBEAT_SECONDS = 2.0
DEAD_SECONDS = 10.0
"""A connection is given up when no frame has come for so long, not even the answer to a heartbeat."""
_SHORT = 1 << 14  # items of a list that msgpack may read by itself
_LONG = 1 << 18  # bytes of a frame from which on its lists are counted, and how many there may be
_FIELDS = 64  # more than any message has, or an item of a list in it
_BEGINNING = 64  # bytes in which a code and a version stand

Registry = Mapping[int, type[Any]]
"""The messages that one end may receive, by code: those of clients are in client_frames.py, those of workers in worker_frames.py."""


def _row_of(message: type[Any]) -> Callable[[Any], tuple[Any, ...]]:
    names = tuple(field.name for field in fields(message))
    return attrgetter("CODE", *names) if names else lambda x: (x.CODE,)  # of one name attrgetter makes no tuple


class _Rows(dict[type[Any], Callable[[Any], tuple[Any, ...]]]):
    """How the row of a message is made, by its class; found when the first is packed, so that no end loads the messages of others."""

    def __missing__(self, message: type[Any]) -> Callable[[Any], tuple[Any, ...]]:
        self[message] = found = _row_of(message)
        return found


_ROWS = _Rows()


def _default(value: object) -> object:
    if isinstance(value, RemoteError):
        return astuple(value)
    raise TypeError(f"{type(value).__name__} can't be packed")  # pragma: no cover - messages hold nothing else


def pack(batch: Iterable[Any]) -> bytes:
    """Put messages into one first frame, in order. Safe to call from any thread."""
    rows = [_ROWS[type(x)](x) for x in batch]
    # Lone surrogates come from file names that are no text; a peer can read everything else as it was.
    return msgpack.packb(rows, default=_default, unicode_errors="backslashreplace")  # type: ignore[no-any-return]


def unpack(frame: bytes | memoryview, registry: Registry) -> list[Any]:
    """Read the messages of a first frame.

    Args:
        frame: what came from the socket.
        registry: the messages that this end may receive, for example `TO_NODE`.

    Raises:
        ProtocolError: anything about it is wrong.
    """
    if len(frame) > MAX_FRAME:
        raise ProtocolError(f"a message of {len(frame)} bytes, at most {MAX_FRAME} are allowed")
    try:
        # In a short frame no list can be long.
        rows = _long_frame(frame) if len(frame) > _SHORT else msgpack.unpackb(frame, strict_map_key=True, max_ext_len=0, max_map_len=0)
    except Exception as e:  # msgpack raises half a dozen kinds, of several bases, and RecursionError is not far
        raise ProtocolError(f"not a message: {type(e).__name__}") from None
    if not isinstance(rows, list):
        raise ProtocolError("not a list of messages")
    out = []
    for row in rows:
        if not isinstance(row, list) or not row or type(row[0]) is not int:
            raise ProtocolError("a message without a code")
        made = registry.get(row[0])
        if made is None:
            raise ProtocolError(f"message {row[0]} is unknown here")
        try:
            out.append(made(*row[1:]))
        except TypeError:
            raise ProtocolError(f"{made.__name__} with {len(row) - 1} fields") from None
    return out


def _long_frame(frame: bytes | memoryview) -> Any:
    """What msgpack makes of a longer frame, in time and memory that don't depend on what the frame only announces."""
    options: dict[str, Any] = {"strict_map_key": True, "max_ext_len": 0, "max_map_len": 0}
    if len(frame) > _LONG:
        options["list_hook"] = _Counting()
    try:
        return msgpack.unpackb(frame, max_array_len=_SHORT, **options)
    except ValueError as e:
        if "max_array_len" not in str(e):
            raise
    return _long_rows(frame)


class _Counting:
    """Refuses a frame that is full of lists: each takes fifty times what it takes on the wire."""

    def __init__(self) -> None:
        self._count = 0

    def __call__(self, found: list[Any]) -> list[Any]:
        self._count += 1
        if self._count > _LONG:
            raise ValueError("too many lists")
        return found


def _long_rows(frame: bytes | memoryview) -> list[list[Any]]:
    """The same for a frame with a long list in it, step by step: msgpack makes room for a list when it is announced, level by level."""
    unpacker = msgpack.Unpacker(
        max_buffer_size=len(frame) + 1, max_array_len=_FIELDS, strict_map_key=True, max_ext_len=0, max_map_len=0
    )  # fmt: skip
    unpacker.feed(frame)

    def header(most: int) -> int:
        found: int = unpacker.read_array_header()
        if found > most:
            raise ValueError("a list is too long")
        return found

    def field() -> Any:
        if not _is_list(frame[unpacker.tell()]):
            return unpacker.unpack()
        return [unpacker.unpack() for _ in range(header(MAX_ITEMS))]

    rows = [[field() for _ in range(header(_FIELDS))] for _ in range(header(MAX_ITEMS))]
    if unpacker.tell() != len(frame):
        raise ValueError("something behind it")
    return rows


def _is_list(byte: int) -> bool:
    return 0x90 <= byte <= 0x9F or byte in (0xDC, 0xDD)


def beginning(frame: bytes | memoryview) -> tuple[object, object]:
    """The code and the first field of the first message, also where the rest can't be read; None where there is none."""
    try:
        unpacker = msgpack.Unpacker(max_array_len=_FIELDS, strict_map_key=True)
        unpacker.feed(frame[:_BEGINNING])
        if not unpacker.read_array_header() or unpacker.read_array_header() < 2:
            return None, None
        return unpacker.unpack(), unpacker.unpack()
    except Exception:  # as above
        return None, None
