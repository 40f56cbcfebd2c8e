"""Frames that are nearly right: made from good ones by a generator of numbers, so that a seed gives the same ones on every run."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

Change = Callable[[random.Random, bytes], bytes]


def flipped(rng: random.Random, frame: bytes) -> bytes:
    """With one to four bytes changed."""
    out = bytearray(frame or b"\x00")
    for _ in range(rng.randint(1, 4)):
        out[rng.randrange(len(out))] = rng.choice((rng.randrange(256), 0, 0x7F, 0x80, 0xC0, 0xC1, 0xFF))
    return bytes(out)


def cut(rng: random.Random, frame: bytes) -> bytes:
    """Ending early."""
    return frame[: rng.randrange(len(frame) + 1)]


def doubled(rng: random.Random, frame: bytes) -> bytes:
    """With a piece of it twice."""
    a, b = sorted(rng.randrange(len(frame) + 1) for _ in range(2))
    return frame[:b] + frame[a:]


def swallowed(rng: random.Random, frame: bytes) -> bytes:
    """Without a piece of it."""
    a, b = sorted(rng.randrange(len(frame) + 1) for _ in range(2))
    return frame[:a] + frame[b:]


def boasting(rng: random.Random, frame: bytes) -> bytes:
    """With a huge length announced somewhere: of an array, a map, a text, bytes or an extension."""
    at = rng.randrange(len(frame) + 1)
    size = rng.choice((0xFFFF, 1 << 20, 1 << 26, 0x7FFFFFFF, 0xFFFFFFFF))
    return frame[:at] + bytes([rng.choice((0xDD, 0xDF, 0xDB, 0xC6, 0xC9))]) + struct.pack(">I", size) + frame[at:]


def nested(rng: random.Random, frame: bytes) -> bytes:
    """With a nest of lists somewhere."""
    at = rng.randrange(len(frame) + 1)
    return frame[:at] + rng.choice((b"\x91", b"\xdc\xff\xff", b"\x81\x01")) * rng.choice((3, 70, 600, 1100)) + frame[at:]


def extreme(rng: random.Random, frame: bytes) -> bytes:
    """With a number at the edge of its type somewhere."""
    at = rng.randrange(len(frame) + 1)
    number = rng.choice((b"\xcf" + b"\xff" * 8, b"\xd3\x80" + b"\x00" * 7, b"\xcb\x7f\xf8" + b"\x00" * 6, b"\xcb\x7f\xf0" + b"\x00" * 6))
    return frame[:at] + number + frame[at + rng.randrange(3) :]


def noise(rng: random.Random, frame: bytes) -> bytes:
    """Nothing of it: random bytes."""
    return rng.randbytes(rng.choice((0, 1, 7, 60, 3000)))


CHANGES: tuple[Change, ...] = (flipped, cut, doubled, swallowed, boasting, nested, extreme, noise)


def mutated(rng: random.Random, frame: bytes) -> bytes:
    """One or two changes, the same for the same state of `rng`."""
    for _ in range(rng.choice((1, 1, 2))):
        frame = rng.choice(CHANGES)(rng, frame)
    return frame
