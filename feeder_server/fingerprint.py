"""What tells one batch from another, in a few bytes per leaf: for comparing the copies of a source (see probe.py)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from feeder_wire.codec import Encoded, aligned_empty, decode
from feeder_wire.leaves import DIGEST_BYTES, MOST_LEAVES, Leaf

_INFORMATIVE_BYTES = 8


_SIMPLE = (int, float, bool, str, bytes, type(None))


def attributes(subject: object) -> dict[str, object]:
    """What the source object holds now, for `changed`. Nothing of the user's runs."""
    try:
        return dict(object.__getattribute__(subject, "__dict__"))
    except AttributeError:  # __slots__, or no object at all
        return {}


def changed(before: dict[str, object], subject: object) -> tuple[str, ...]:
    """Names of attributes of the source that are others now than they were in `before`."""
    found = []
    for name, value in attributes(subject).items():
        old = before.get(name, changed)
        same = value is old or (type(value) is type(old) and isinstance(value, _SIMPLE) and value == old)
        if not same and name.isidentifier():
            found.append(name[:60])
    return tuple(found[:10])


def fingerprint(encoded: Encoded) -> tuple[Leaf, ...]:
    """Digest a batch that is about to be sent, as it will arrive.

    Takes about a millisecond per megabyte. Of more than `MOST_LEAVES` leaves the last ones are digested together.
    """
    payload = aligned_empty(encoded.nbytes)
    encoded.write_into(payload)
    batch = decode(encoded.head, payload)
    found: list[Leaf] = []
    rest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    more = 0
    for path, value in _walk("batch", batch):
        digest, informative = _digest(value)
        if len(found) < MOST_LEAVES - 1:
            found.append((path, digest, informative))
        else:
            more += 1
            rest.update(digest)
    if more:
        found.append((f"{more} more leaves", rest.digest(), True))
    return tuple(found)


def _walk(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, (tuple, list)):
        if not value:
            yield path, type(value).__name__
        for i, part in enumerate(value):
            yield from _walk(f"{path}[{i}]", part)
    elif isinstance(value, dict):
        if not value:
            yield path, "dict"
        for key, part in value.items():
            yield from _walk(f"{path}[{key!r:.60}]", part)
    else:
        yield path, value


def _digest(value: Any) -> tuple[bytes, bool]:
    state = hashlib.blake2b(digest_size=DIGEST_BYTES)
    if not isinstance(value, np.ndarray):
        text = f"{type(value).__name__} {value!r}"
        state.update(text.encode("utf-8", "backslashreplace"))
        return state.digest(), isinstance(value, (str, bytes)) and len(value) >= _INFORMATIVE_BYTES
    state.update(f"{value.dtype.str} {value.dtype.name} {value.shape}".encode())
    if value.dtype.kind == "T":  # StringDType: its bytes are pointers
        state.update("\0".join(map(str, value.ravel().tolist())).encode("utf-8", "backslashreplace"))
        return state.digest(), value.size > 1
    flat = np.ascontiguousarray(value).reshape(-1).view(np.uint8) if value.size else np.empty(0, np.uint8)
    state.update(flat.data)
    return state.digest(), flat.size >= _INFORMATIVE_BYTES and not _constant(flat, value.dtype.itemsize)


def _constant(flat: Any, itemsize: int) -> bool:
    if flat.size == itemsize:
        return False
    return bool((flat.reshape(-1, itemsize) == flat[:itemsize]).all())
