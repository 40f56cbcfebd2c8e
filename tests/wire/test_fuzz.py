"""Random and mutated bytes against everything that reads a socket: a value or one of the known errors comes out, soon and in little memory.

Seeds are fixed: the same frames on every run. FEEDER_FUZZ_SEED in the environment tries others.
"""

from __future__ import annotations

import os
import random
import time
import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, seed, settings

from feeder_wire import client_frames, codec, frames, tree
from feeder_wire import messages as m
from feeder_wire.errors import ProtocolError, UnsupportedBatch
from tests.sources import rich_batch
from tests.wire.mutating import CHANGES, mutated
from tests.wire.test_frames import MESSAGES, REGISTRIES, SETTINGS

SEED = int(os.environ.get("FEEDER_FUZZ_SEED", "20261125"))
FRAMES = 1500  # for each kind
SLOW_SECONDS = 5.0  # for one frame on a machine under load; they take about 20 us
PEAK_BYTES = 64 << 20


def some_of(kind: type[Any], count: int) -> list[Any]:
    """Messages of one kind, the same ones on every run."""
    found: list[Any] = []

    @seed(SEED)
    @settings(SETTINGS, max_examples=count, derandomize=False)
    @given(MESSAGES[kind])
    def gather(message: Any) -> None:
        found.append(message)

    gather()
    return found


@pytest.fixture
def bounded() -> Iterator[None]:
    """Fails where the test takes much memory at any one moment, or keeps some."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        yield
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - before < PEAK_BYTES
    assert after - before < PEAK_BYTES / 2, "heads are remembered, and no more"


def read(frame: bytes, registry: frames.Registry) -> str:
    """Read a frame as a node, client or worker does; says how that went."""
    started = time.perf_counter()
    try:
        found = frames.unpack(frame, registry)
    except ProtocolError as e:
        long = len(str(e)) > 1000
        assert not long, "what goes into a log stays short"
        version = client_frames.first_version([frame])
        assert version is None or type(version) is int
        return "refused"
    finally:
        assert time.perf_counter() - started < SLOW_SECONDS, frame[:200]
    assert all(type(message) in registry.values() for message in found)
    assert frames.unpack(frames.pack(found), registry) == found, "what was let in can be sent on"
    return "read"


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize("name", REGISTRIES)
def test_frames(name: str) -> None:
    registry = REGISTRIES[name]
    rng = random.Random(f"{SEED} {name}")
    good = [message for kind in registry.values() for message in some_of(kind, 8)]
    went = {"read": 0, "refused": 0}
    for _ in range(FRAMES):
        frame = frames.pack(rng.choices(good, k=rng.choice((1, 1, 2, 5))))
        went[read(mutated(rng, frame), registry)] += 1
    assert went["refused"] > FRAMES / 3
    assert went["read"] > FRAMES / 100, "or the changes are too coarse to get anywhere"


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_each_change_changes_something(change: Any) -> None:
    rng = random.Random(SEED)
    frame = frames.pack([m.Ask(bytes(16), 3, tuple(range(10)))])
    assert sum(change(rng, frame) != frame for _ in range(50)) > 25
    assert change(random.Random(1), frame) == change(random.Random(1), frame)


@pytest.mark.parametrize("header", [b"\xdd", b"\xdc"], ids=["32 bits", "16 bits"])
@pytest.mark.parametrize("nbytes", [1 << 10, 1 << 16, 1 << 20, 16 << 20])
def test_room_for_what_is_only_announced(header: bytes, nbytes: int) -> None:
    """Lists in lists, each as long as the frame would allow. msgpack makes room for each before it has read it."""
    size = min(nbytes, 0xFFFF).to_bytes(2, "big") if header == b"\xdc" else nbytes.to_bytes(4, "big")
    nest = (header + size) * 1000
    frame = nest + b"\x90" * max(0, nbytes - len(nest))
    assert read(frame, client_frames.TO_NODE) == "refused"
    assert client_frames.first_version([frame]) is None


def test_a_frame_full_of_nothing() -> None:
    """A list of sixteen million empty lists: refused by its length, not built."""
    count = 16 << 20
    frame = b"\xdd" + count.to_bytes(4, "big") + b"\x90" * count
    tracemalloc.start()
    try:
        assert read(frame, client_frames.TO_NODE) == "refused"
        assert tracemalloc.get_traced_memory()[1] < PEAK_BYTES
    finally:
        tracemalloc.stop()


BATCHES: list[Any] = [
    rich_batch(1),
    (np.zeros((4, 8), np.float32), np.arange(4)),
    {"x": [np.ones(3, np.uint8), None, 2.5, "text"], "y": ({}, [], ())},
    [np.array(["a", "bc"]), np.array(7, "M8[s]"), np.float16(1), 1 << 80],
]


@pytest.mark.usefixtures("bounded")
def test_heads_and_payloads() -> None:
    """A batch whose every array lies within the payload, or one of two errors."""
    rng = random.Random(SEED)
    good = []
    for batch in BATCHES:
        encoded = codec.encode(batch)
        payload = codec.aligned_empty(encoded.nbytes)
        encoded.write_into(payload.data)
        good.append((encoded.head, payload))
    went = {"read": 0, "refused": 0}
    for _ in range(FRAMES):
        head, payload = rng.choice(good)
        if rng.random() < 0.2:
            payload = payload[: rng.randrange(len(payload) + 1)]
        started = time.perf_counter()
        try:
            batch = codec.decode(mutated(rng, head), payload)
        except (ProtocolError, UnsupportedBatch):
            went["refused"] += 1
        else:
            went["read"] += 1
            codec.encode(batch) if _sendable(batch) else None
        assert time.perf_counter() - started < SLOW_SECONDS
    assert min(went.values()) >= FRAMES / 200, went


def _sendable(batch: Any) -> bool:
    """Whether `encode` takes it: a decoder may let through what no encoder writes, such as a text with surrogates."""
    try:
        tree.flatten(batch, lambda value: ("", b""))
    except UnsupportedBatch:
        return False
    return True
