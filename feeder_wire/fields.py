"""The checks of the fields of messages, and their limits.

Each check raises a `ProtocolError` that names the message and shows a little of what was wrong, never more: the value may have come
from a hostile peer, and be a list a thousand levels deep, of which Python can't even make a repr.
"""

from __future__ import annotations

import re
from typing import NoReturn

from feeder_wire.errors import ProtocolError, RemoteError
from feeder_wire.leaves import DIGEST_BYTES, MOST_LEAVES, Leaf

MAX_BATCH_BYTES = 1 << 40
MAX_INDEX = (1 << 63) - 1
MAX_TEXT = 256 * 1024
MAX_HEAD = 16 * MAX_TEXT
MAX_ITEMS = 1 << 20
INLINE_BYTES = 32 * 1024
"""Batches up to this size travel inside the message; a block and its release would cost more than two small copies."""
BLOCK_NAME = re.compile(r"[01]-[0-9]{1,6}-[0-9]{1,9}-[0-9]{1,12}")
"""place (which of the arena's directories), worker slot, generation of the worker, number: and nothing a path could hide in."""


def fail(message: object, what: str) -> NoReturn:
    """Refuse `message`."""
    raise ProtocolError(f"{type(message).__name__}: {what}")


def shown(value: object) -> str:
    """A little of a value, for an error."""
    if isinstance(value, str):
        return repr(value[:80])
    if isinstance(value, float) or (isinstance(value, int) and abs(value) < 1 << 64):
        return repr(value)
    return f"a {type(value).__name__}"


def whole(message: object, value: object, high: int = MAX_INDEX, low: int = 0) -> None:
    """A whole number."""
    # `type(...) is int`, not isinstance: True is an int for isinstance, and numpy integers can't be packed.
    if type(value) is not int or not low <= value <= high:
        fail(message, f"{shown(value)} is not a whole number from {low} to {high}")


def wholes(message: object, *values: object) -> None:
    """Whole numbers. One call for all that a message has of them, for some messages come thousands of times a second."""
    for value in values:
        if type(value) is not int or not 0 <= value <= MAX_INDEX:
            whole(message, value)


def text(message: object, *values: object) -> None:
    """Texts."""
    for value in values:
        if type(value) is not str or len(value) > MAX_TEXT:
            fail(message, f"{shown(value)} is not a text of at most {MAX_TEXT} characters")


def blob(message: object, value: object, high: int) -> None:
    """Bytes."""
    if not isinstance(value, bytes) or len(value) > high:
        fail(message, f"{type(value).__name__} where at most {high} bytes were expected")


def session(message: object, value: object) -> None:
    """The id of a session, or of a client."""
    if type(value) is not bytes or len(value) != 16:
        fail(message, "a session is 16 bytes")


def seconds(message: object, value: object) -> None:
    """A duration."""
    if type(value) not in (float, int) or not 0 <= value < 1e9:  # type: ignore[operator]  # and nan is refused as well
        fail(message, f"{shown(value)} is not a duration in seconds")


def flag(message: object, value: object) -> None:
    """True or false."""
    if type(value) is not bool:
        fail(message, f"{shown(value)} is neither true nor false")


def kind(message: object, value: object) -> None:
    """The kind of a source."""
    if type(value) is not str or value not in ("indexed", "stream"):
        fail(message, f"{shown(value)} is no kind of source")


def texts(message: object, values: object, most: int) -> tuple[str, ...]:
    """A short list of texts."""
    if not isinstance(values, (tuple, list)) or len(values) > most:
        fail(message, f"a list of at most {most} texts was expected")
    text(message, *values)
    return tuple(values)


def leaves(message: object, values: object) -> tuple[Leaf, ...]:
    """Digests of the leaves of a batch."""
    if not isinstance(values, (tuple, list)) or len(values) > MOST_LEAVES:
        fail(message, f"a list of at most {MOST_LEAVES} leaves was expected")
    found = []
    for value in values:
        if not isinstance(value, (tuple, list)) or len(value) != 3:
            fail(message, "a leaf has three fields")
        path, digest, informative = value
        text(message, path)
        blob(message, digest, DIGEST_BYTES)
        flag(message, informative)
        found.append((path, digest, informative))
    return tuple(found)


def numbers(message: object, values: object) -> tuple[int, ...]:
    """A list of whole numbers."""
    if not isinstance(values, (tuple, list)) or len(values) > MAX_ITEMS:
        fail(message, f"a list of at most {MAX_ITEMS} numbers was expected")
    for value in values:
        whole(message, value)
    return tuple(values)


def block(message: object, name: object, size: object, nbytes: object) -> None:
    """A block of the arena, and how much of it is used."""
    _block_name(message, name)
    whole(message, size, MAX_BATCH_BYTES)
    whole(message, nbytes, size)  # type: ignore[arg-type]  # checked by the line above


def blocks(message: object, names: object) -> tuple[str, ...]:
    """A list of names of blocks."""
    if not isinstance(names, (tuple, list)) or len(names) > MAX_ITEMS:
        fail(message, f"a list of at most {MAX_ITEMS} names of blocks was expected")
    for name in names:
        _block_name(message, name)
    return tuple(names)


def _block_name(message: object, name: object) -> None:
    if type(name) is not str or not BLOCK_NAME.fullmatch(name):
        fail(message, f"{shown(name)} is not the name of a block")


def error(message: object, value: object) -> RemoteError:
    """An error, as itself or as the list of its fields."""
    if isinstance(value, RemoteError):
        value = (value.kind, value.type_name, value.builtins, value.message, value.traceback, value.where)
    if not isinstance(value, (list, tuple)) or len(value) != 6:
        fail(message, "an error has six fields")
    kind_, type_name, builtins, message_, traceback, where = value
    text(message, kind_, type_name, message_, traceback, where)
    return RemoteError(kind_, type_name, texts(message, builtins, 64), message_, traceback, where)
