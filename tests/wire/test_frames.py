"""Messages to bytes and back; and whatever else comes out of a socket is a ProtocolError, never another exception."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feeder_wire import client_frames, frames, worker_frames
from feeder_wire import messages as m
from feeder_wire import worker_messages as w
from feeder_wire.errors import ProtocolError, RemoteError

SETTINGS = settings(
    deadline=None, database=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
REGISTRIES = {
    "node": client_frames.TO_NODE,
    "client": client_frames.TO_CLIENT,
    "worker": worker_frames.TO_WORKER,
    "from worker": worker_frames.FROM_WORKER,
}

ids = st.binary(min_size=16, max_size=16)
whole = st.integers(0, m.MAX_INDEX) | st.integers(0, 300)
texts = st.text(max_size=40)
heads = st.binary(max_size=60)
seconds = st.floats(0, 1e9, exclude_max=True) | st.integers(0, 10**6)
names = st.from_regex(m.BLOCK_NAME, fullmatch=True).filter(str.isascii)
blocks = st.lists(names, max_size=4).map(tuple)
errors = st.builds(RemoteError, texts, texts, st.lists(texts, max_size=4).map(tuple), texts, texts, texts)
kinds = st.sampled_from(["indexed", "stream"])
leaves = st.lists(st.tuples(texts, st.binary(max_size=16), st.booleans()), max_size=3).map(tuple)
length = st.integers(-1, m.MAX_INDEX)
sizes = st.tuples(st.integers(0, m.MAX_BATCH_BYTES), st.integers(0, m.MAX_BATCH_BYTES)).map(sorted)

MESSAGES: dict[type[Any], st.SearchStrategy[Any]] = {
    m.Hello: st.builds(m.Hello, st.integers(0, 1 << 31), ids, texts, blocks),
    m.Open: st.builds(m.Open, ids, texts, st.booleans()),
    m.Ask: st.builds(m.Ask, ids, whole, st.lists(whole, max_size=20).map(tuple)),
    m.Cancel: st.builds(m.Cancel, ids, whole),
    m.Release: st.builds(m.Release, blocks),
    m.Close: st.builds(m.Close, ids),
    m.Ping: st.builds(m.Ping, whole, whole),
    m.Leave: st.just(m.Leave()),
    m.Look: st.just(m.Look()),
    m.Welcome: st.builds(
        m.Welcome,
        st.integers(0, 1 << 31),
        texts,
        st.integers(0, 1 << 20),
        st.lists(texts, max_size=2).map(tuple),
        texts,
        st.integers(0, 1 << 40),
    ),
    m.Refuse: st.builds(m.Refuse, texts, texts),
    m.Opened: st.builds(
        m.Opened,
        *(ids, kinds, length, st.integers(0, 1 << 16), st.integers(0, (1 << 64) - 1), st.lists(texts, max_size=3).map(tuple)),
        *(st.binary(max_size=64), st.booleans()),
    ),
    m.Inline: st.builds(m.Inline, ids, whole, whole, heads, st.binary(max_size=200), seconds),
    m.Lent: st.builds(lambda s, e, i, h, b, z, t: m.Lent(s, e, i, h, b, z[1], z[0], t), ids, whole, whole, heads, names, sizes, seconds),
    m.Part: st.builds(lambda s, e, i, h, z, t: m.Part(s, e, i, h, z[0], z[1], t), ids, whole, whole, heads, sizes, seconds),
    m.Failed: st.builds(m.Failed, ids, whole, whole, errors),
    m.Ended: st.builds(m.Ended, ids, whole, whole),
    m.HandedBack: st.builds(m.HandedBack, ids, whole, st.lists(whole, max_size=5).map(tuple)),
    m.Unknown: st.builds(m.Unknown, ids),
    m.Progress: st.builds(m.Progress, ids, texts),
    m.Retired: st.builds(m.Retired, blocks),
    m.Pong: st.builds(m.Pong, whole),
    m.Verdict: st.builds(m.Verdict, ids, texts, texts, st.booleans(), st.booleans(), leaves),
    m.Status: st.builds(m.Status, texts),
    m.Workers: st.builds(m.Workers, ids, st.integers(0, 1 << 16)),
    m.Goodbye: st.builds(m.Goodbye, texts, texts, st.lists(texts, max_size=4).map(tuple)),
    w.Task: st.builds(w.Task, whole, whole, ids, whole, whole, st.booleans()),
    w.Free: st.builds(w.Free, blocks),
    w.Drop: st.builds(w.Drop, ids),
    w.Retire: st.builds(w.Retire, blocks),
    w.Stop: st.just(w.Stop()),
    w.Joined: st.builds(w.Joined, whole, whole, st.binary(max_size=64)),
    w.Loaded: st.builds(w.Loaded, whole, kinds, length, st.booleans()),
    w.LoadFailed: st.builds(w.LoadFailed, whole, errors),
    w.Made: st.builds(w.Made, whole, heads, st.binary(max_size=200), seconds),
    w.MadeBlock: st.builds(lambda n, h, b, z, t: w.MadeBlock(n, h, b, z[1], z[0], t), whole, heads, names, sizes, seconds),
    w.TaskFailed: st.builds(w.TaskFailed, whole, errors),
    w.TaskEnded: st.builds(w.TaskEnded, whole),
    w.Dropped: st.builds(w.Dropped, blocks),
    w.Mode: st.builds(w.Mode, whole, st.booleans(), st.booleans(), st.booleans()),
    w.Looked: st.builds(w.Looked, whole, leaves, texts, st.lists(texts, max_size=3).map(tuple)),
}

traffic = st.sampled_from(sorted(REGISTRIES)).flatmap(
    lambda name: st.tuples(st.just(REGISTRIES[name]), st.lists(st.one_of([MESSAGES[c] for c in REGISTRIES[name].values()]), max_size=6))
)


def refused(frame: bytes, registry: frames.Registry = client_frames.TO_NODE) -> str:
    with pytest.raises(ProtocolError) as caught:
        frames.unpack(frame, registry)
    return str(caught.value)


# ---------------------------------------------------------------------------------------------------------- round trip


def test_every_message_is_tried() -> None:
    assert set(MESSAGES) == {c for registry in REGISTRIES.values() for c in registry.values()}


@SETTINGS
@given(traffic)
def test_round_trip(sent: tuple[frames.Registry, list[Any]]) -> None:
    registry, batch = sent
    frame = frames.pack(batch)
    back = frames.unpack(frame, registry)
    assert back == batch
    assert [type(x) for x in back] == [type(x) for x in batch]
    assert frames.unpack(memoryview(frame), registry) == batch
    assert frames.pack(back) == frame


@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.__name__)
def test_every_field_arrives(kind: type[Any]) -> None:
    """Each in its place, also where two have one type: a hundred random ones of every message."""

    @settings(SETTINGS, max_examples=30)
    @given(MESSAGES[kind])
    def check(message: Any) -> None:
        registry = next(r for r in REGISTRIES.values() if kind in r.values())
        (back,) = frames.unpack(frames.pack([message]), registry)
        for field in dataclasses.fields(kind):
            assert getattr(back, field.name) == getattr(message, field.name)

    check()


def test_a_text_that_is_no_text_arrives_escaped() -> None:
    """File names with bytes that are no UTF-8 get into tracebacks; a worker must not die of reporting them."""
    message = m.Progress(bytes(16), "/data/caf\udce9.png")
    assert frames.unpack(frames.pack([message]), client_frames.TO_CLIENT) == [m.Progress(bytes(16), "/data/caf\\udce9.png")]


def test_nothing_is_nothing() -> None:
    assert frames.unpack(frames.pack([]), client_frames.TO_NODE) == []


def test_a_full_inline_batch_fits() -> None:
    batch = [m.Inline(bytes(16), 0, i, bytes(m.MAX_TEXT), bytes(m.INLINE_BYTES), 0.1) for i in range(20)]
    assert frames.unpack(frames.pack(batch), client_frames.TO_CLIENT) == batch


# --------------------------------------------------------------------------------------------------------- who may what


@pytest.mark.parametrize("name", REGISTRIES)
def test_each_end_hears_only_what_it_may(name: str) -> None:
    registry = REGISTRIES[name]
    rng = random.Random(0)
    for kind, strategy in MESSAGES.items():
        message = minimal(strategy, rng)
        frame = frames.pack([message])
        if kind in registry.values():
            assert frames.unpack(frame, registry) == [message]
        else:
            assert "unknown here" in refused(frame, registry)


def minimal(strategy: st.SearchStrategy[Any], rng: random.Random) -> Any:
    found: list[Any] = []

    @settings(SETTINGS, max_examples=1)
    @given(strategy)
    def draw(value: Any) -> None:
        found.append(value)

    draw()
    return found[0]


# ------------------------------------------------------------------------------------------------------------- nonsense


@SETTINGS
@given(st.binary(max_size=300), st.sampled_from(sorted(REGISTRIES)))
def test_random_bytes(frame: bytes, name: str) -> None:
    only_protocol_errors(frame, REGISTRIES[name])


@SETTINGS
@given(traffic, st.data())
def test_damaged_frames(sent: tuple[frames.Registry, list[Any]], data: st.DataObject) -> None:
    frame = bytearray(frames.pack(sent[1]))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(frame) - 1)) if frame else 0
        match data.draw(st.sampled_from(["flip", "cut", "insert", "remove"])):
            case "flip" if frame:
                frame[place] = data.draw(st.integers(0, 255))
            case "cut":
                del frame[place:]
            case "insert":
                frame[place:place] = data.draw(st.binary(max_size=5))
            case "remove":
                del frame[place : place + 3]
    only_protocol_errors(bytes(frame), sent[0])


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats() | texts | heads | ids | names,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=12,
)


@SETTINGS
@given(st.sampled_from(sorted(REGISTRIES)), st.data())
def test_messages_of_wrong_fields(name: str, data: st.DataObject) -> None:
    """Well-formed msgpack with a code that is known, and anything in the fields."""
    registry = REGISTRIES[name]
    code = data.draw(st.sampled_from(sorted(registry)) | values)
    only_protocol_errors(msgpack.packb([[code, *data.draw(st.lists(values, max_size=9))]]), registry)


@SETTINGS
@given(traffic, st.data())
def test_one_field_is_replaced(sent: tuple[frames.Registry, list[Any]], data: st.DataObject) -> None:
    registry, batch = sent
    rows = msgpack.unpackb(frames.pack(batch))
    if rows and (row := data.draw(st.sampled_from(rows)))[1:]:
        row[data.draw(st.integers(1, len(row) - 1))] = data.draw(values)
    only_protocol_errors(msgpack.packb(rows), registry)


def only_protocol_errors(frame: bytes, registry: frames.Registry) -> None:
    batch, refusal = [], ""
    try:
        batch = frames.unpack(frame, registry)
    except ProtocolError as e:
        refusal = str(e)
    assert len(refusal) < 400
    assert all(type(x) in registry.values() for x in batch)
    assert frames.unpack(frames.pack(batch), registry) == batch, "what was let in can be built"
    first = client_frames.first_version([frame])
    assert first is None or type(first) is int


@pytest.mark.parametrize("depth", [10, 500, 990, 1000, 1023, 5000, 100_000])
def test_nesting(depth: int) -> None:
    nested = b"\x91" * depth + b"\x01"
    refused(nested)
    refused(b"\x91\x93\x04\xc4\x10" + bytes(16) + nested)  # Cancel, with the nest for an epoch
    refused(b"\x91\x94\x03\xc4\x10" + bytes(16) + b"\x00" + nested)
    assert client_frames.first_version([b"\x91\x92\x01" + nested]) is None


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\xc1",
        b"\x90\x90",  # two values
        b"\x01",
        b"\xc0",
        b"\xa1a",
        b"\x80",
        b"\x91\x80",
        b"\x91\xc4\x01a",
        b"\x91\x90",
        b"\x91\x91\xc3",  # True is no code
        b"\x91\x91\xcb\x40\x1c\x00\x00\x00\x00\x00\x00",  # nor is 7.0
        b"\x91\x91\xff",
        b"\x91\x91\xcd\xff\xff",
        b"\x91\x91\x07",  # Ping without its number
        b"\x91\x94\x07\x01\x02\x03",  # with one more
        b"\x91\x92\x08\x01",  # Leave with one
        b"\x91\x93\x07\x01\xd4\x01\x00",  # an extension type
        b"\x91\x93\x07\x01\xd6\xff\x00\x00\x00\x00",  # a time stamp
        b"\x91\x93\x07\x01\xc7\x00\xff",
        b"\x91\x93\x07\x01\x81\xa1a\x01",  # a map
        b"\xdd\xff\xff\xff\xff",  # four billion messages
        b"\x91\x93\x07\x01\xdb\xff\xff\xff\xff",
        b"\x91\x93\x07\x01\xc6\xff\xff\xff\xff",
        b"\x91\x95\x01\x01\xc4\x10" + bytes(16) + b"\xa2\xff\xfe\x90",  # a name that is no UTF-8
    ],
)
def test_nonsense(frame: bytes) -> None:
    refused(frame)
    assert client_frames.first_version([frame]) in (None, 1)


def test_a_frame_above_the_cap_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "MAX_FRAME", 1000)
    assert frames.unpack(frames.pack([m.Progress(bytes(16), "x" * 900)]), client_frames.TO_CLIENT)
    monkeypatch.setattr(frames.msgpack, "unpackb", lambda *args, **kwargs: pytest.fail("read"))
    assert "1001 bytes" in refused(bytes(1001))


# -------------------------------------------------------------------------------------------------------------- version


def test_another_version_is_seen_whatever_else_it_says() -> None:
    assert client_frames.first_version([frames.pack([m.Hello(7, bytes(16), "x")])]) == 7
    assert client_frames.first_version([frames.pack([m.Welcome(9, "", 1, (), "", 0)])]) == 9
    assert client_frames.first_version([msgpack.packb([[m.Hello.CODE, 2, {"a": {}}, "all new"], ["?"]])]) == 2
    assert client_frames.first_version([memoryview(frames.pack([m.Hello(7, bytes(16), "x")]))]) == 7


@pytest.mark.parametrize(
    "frames_", [[], [b""], [b"\x90"], [b"\x91\x91\x01"], [b"\x91\x92\x01\xc3"], [b"\x91\x92\x07\x05"], [b"\x91\x92\x01\xa1a"]]
)
def test_no_version(frames_: list[bytes]) -> None:
    assert client_frames.first_version(frames_) is None


# ----------------------------------------------------------------------------------------------------------- long lists


@pytest.mark.parametrize("count", [frames._SHORT - 1, frames._SHORT, frames._SHORT + 1, 30_000])
def test_long_lists_and_many_messages(count: int) -> None:
    """Those that msgpack doesn't read by itself are read all the same, with what stands beside them."""
    leaves = tuple((f"x{i}", b"digest", True) for i in range(20))
    blocks = tuple(f"0-1-2-{i}" for i in range(count))
    assert m.BLOCK_NAME.fullmatch(blocks[-1])
    for registry, batch in (
        (client_frames.TO_NODE, [m.Ping(1), m.Ask(bytes(range(16)), 3, tuple(range(count))), m.Release(blocks), m.Leave()]),
        (client_frames.TO_NODE, [m.Ping(i) for i in range(count)]),
        (client_frames.TO_CLIENT, [m.Verdict(bytes(range(16)), "parallel", "", False, True, leaves), *[m.Pong(i) for i in range(count)]]),
    ):
        assert frames.unpack(frames.pack(batch), registry) == batch
        refused(frames.pack(batch) + b"\x01", registry)
        refused(frames.pack(batch)[:-1], registry)
