"""A message can't be built invalid: every field of every message, with values that fit and with values that don't."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from feeder_wire import client_frames, fields, worker_frames
from feeder_wire import messages as m
from feeder_wire import worker_messages as w
from feeder_wire.errors import ProtocolError, RemoteError

ID = bytes(range(16))
BLOCK = "0-12-345-6789"
ERROR = RemoteError("SourceError", "ValueError", ("ValueError", "Exception"), "no", "Traceback ...", "worker 1")
LEAVES = (("batch[0]", b"d" * 16, True), ("batch[1]", b"e" * 16, False))
TEXT = "ünï 𝄞"

GOOD: list[Any] = [
    m.Hello(1, ID, TEXT, (BLOCK,)),
    m.Open(ID, TEXT, True, ("zstd", TEXT), True),
    m.Ask(ID, 3, (0, 5, m.MAX_INDEX)),
    m.Cancel(ID, 3),
    m.Release((BLOCK, BLOCK)),
    m.Close(ID),
    m.Ping(7, 1500),
    m.Leave(),
    m.Look(),
    m.Welcome(1, TEXT, 4, ("/dev/shm/x", "C:\\temp"), "nonce", 1 << 30),
    m.Refuse("VersionMismatch", TEXT),
    m.Opened(ID, "stream", -1, 4, (1 << 64) - 1, (TEXT,), b"code", True),
    m.Inline(ID, 0, 1, b"head", b"data", 0.5),
    m.Lent(ID, 0, 1, b"head", BLOCK, 4096, 4000, 0),
    m.Part(ID, 0, 1, b"head", 10, 20, 0.5),
    m.Failed(ID, 0, 1, ERROR),
    m.Ended(ID, 0, 1),
    m.HandedBack(ID, 0, (1, 2)),
    m.Unknown(ID),
    m.Progress(ID, TEXT),
    m.Retired((BLOCK,)),
    m.Pong(7),
    m.Goodbye("", TEXT, ("ValueError",)),
    m.Status(TEXT),
    m.Workers(ID, 4),
    m.Verdict(ID, "parallel", TEXT, False, True, LEAVES),
    w.Task(1, 0, ID, 2, 3, True, ("lz4",), 1 << 30),
    w.Free((BLOCK,)),
    w.Drop(ID),
    w.Retire((BLOCK,)),
    w.Stop(),
    w.Joined(3, 9, b"token"),
    w.Loaded(0, "stream", 12, True),
    w.LoadFailed(0, ERROR),
    w.Made(1, b"head", b"data", 0.5),
    w.MadeBlock(1, b"head", BLOCK, 4096, 4000, 0.5),
    w.TaskFailed(1, ERROR),
    w.TaskEnded(1),
    w.Dropped((BLOCK,)),
    w.Mode(0, True, False, True),
    w.Looked(1, LEAVES, TEXT, ("cursor",)),
]

# What is wrong whatever the field: no field takes any of these.
NEVER: list[Any] = [
    None,
    object(),
    [],
    {},
    ["a", 1, None],
    {"a": 1},
    float("nan"),
    float("inf"),
    -2,
    -1.0,
    1 << 64,
    np.int64(-3),
    ("x", b"y"),
    1 + 2j,
]
# Types that some fields take, and values that are too much for any.
WRONG_SOMEWHERE: list[Any] = [
    True,
    1,
    1.5,
    "text",
    b"bytes",
    ID,
    (),
    (1,),
    ("a",),
    (BLOCK,),
    BLOCK,
    1 << 63,
    np.int64(1),
    np.str_("x"),
    bytearray(b"x"),
]


def kinds(value: Any) -> str:
    return type(value).__name__


def test_every_message_is_here() -> None:
    everyone = {
        c for r in (client_frames.TO_NODE, client_frames.TO_CLIENT, worker_frames.TO_WORKER, worker_frames.FROM_WORKER) for c in r.values()
    }
    assert {type(x) for x in GOOD} == everyone
    defined = {c for module in (m, w) for c in vars(module).values() if dataclasses.is_dataclass(c) and hasattr(c, "CODE")}
    assert defined == everyone, "a message that no registry knows can't arrive"


def test_codes_are_unlike() -> None:
    codes = [type(x).CODE for x in GOOD]
    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize("message", GOOD, ids=kinds)
def test_messages_don_t_change(message: Any) -> None:
    for field in dataclasses.fields(message):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(message, field.name, 1)
    assert not hasattr(message, "__dict__")
    assert message == dataclasses.replace(message)
    assert hash(message) == hash(dataclasses.replace(message))


FIELDS = {f"{kinds(x)}.{f.name}": (x, f.name) for x in GOOD for f in dataclasses.fields(x)}


@pytest.mark.parametrize(("message", "name"), FIELDS.values(), ids=FIELDS)
def test_no_field_takes_what_it_should_not(message: Any, name: str) -> None:
    good = getattr(message, name)
    for value in [*NEVER, *WRONG_SOMEWHERE]:
        if isinstance(value, list) and isinstance(good, tuple):
            continue  # lists come from msgpack; what is in them is looked at below
        made, refusal = replaced(message, name, value)
        if refusal is not None:
            assert refusal.startswith(f"{type(message).__name__}: ")
            assert len(refusal) < 300
        else:
            got = getattr(made, name)
            assert type(got) is type(good) or {type(got), type(good)} <= {int, float}, f"{name} took {value!r}"
            assert got == value


def replaced(message: Any, name: str, value: Any) -> tuple[Any, str | None]:
    try:
        return dataclasses.replace(message, **{name: value}), None
    except ProtocolError as e:
        return None, str(e)


def bad(message: Any, **changes: Any) -> None:
    for name, values in changes.items():
        for number, value in enumerate(values):
            assert replaced(message, name, value)[1] is not None, f"{type(message).__name__}.{name} took value {number}"


def message_of(kind: type[Any]) -> Any:
    return next(x for x in GOOD if type(x) is kind)


def test_lists_are_looked_into() -> None:
    for kind in (m.Hello, m.Release, m.Retired, w.Free, w.Retire, w.Dropped):
        bad(
            message_of(kind), **{"holds" if kind is m.Hello else "blocks": [[1], ["x"], [BLOCK, None], [BLOCK, b"0-1-2-3"], BLOCK, {BLOCK}]}
        )
    bad(message_of(m.Ask), indices=[[-1], [True], [1.0], ["1"], [[1]], [1 << 63], "12", range(3)])
    bad(message_of(m.Welcome), directories=[["a", "b", "c"], [1], "ab", [b"a"]])
    bad(message_of(m.Opened), notes=[[1], ["x"] * 101, "ab"])


@pytest.mark.parametrize(
    "name", ["", "../x", "0-1-2-3/..", "0-1-2", "2-1-2-3", "0-1-2-3 ", "0-1-2-3\n", "0-١-2-3", "0--1-2-3", "0-1234567-1-1", "a-b-c-d"]
)
def test_a_block_s_name_hides_no_path(name: str) -> None:
    bad(message_of(m.Release), blocks=[(name,)])
    bad(message_of(m.Lent), block=[name])
    bad(message_of(w.MadeBlock), block=[name])


def test_numbers_have_limits() -> None:
    bad(message_of(m.Ask), epoch=[-1, 1 << 63])
    bad(message_of(m.Opened), num_batches=[-2, 1 << 63], seed=[-1, 1 << 64], workers=[-1, 1 << 21])
    assert dataclasses.replace(message_of(m.Opened), num_batches=m.MAX_INDEX).num_batches == m.MAX_INDEX
    for kind in (m.Lent, w.MadeBlock):
        bad(message_of(kind), size=[3999, m.MAX_BATCH_BYTES + 1], nbytes=[4097, -1], seconds=[-0.1, 1e9, float("nan"), True])
    bad(message_of(m.Part), offset=[21, -1], nbytes=[9, m.MAX_BATCH_BYTES + 1])


def test_bytes_and_texts_have_limits() -> None:
    for kind in (m.Inline, w.Made):
        bad(message_of(kind), data=[bytes(m.INLINE_BYTES + 1)], head=[bytes(m.MAX_HEAD + 1)])
        assert dataclasses.replace(message_of(kind), data=bytes(m.INLINE_BYTES))
    bad(message_of(w.Joined), token=[bytes(65)])
    bad(message_of(m.Hello), name=["x" * (m.MAX_TEXT + 1)], client=[ID[:-1], ID + b"x", b""])
    bad(message_of(m.Release), blocks=[[BLOCK] * (m.MAX_ITEMS + 1)])
    bad(message_of(m.Ask), indices=[[1] * (m.MAX_ITEMS + 1)])


@pytest.mark.parametrize("kind", [m.Failed, w.LoadFailed, w.TaskFailed])
def test_errors_are_looked_into(kind: type[Any]) -> None:
    good = ["SourceError", "ValueError", ["ValueError"], "no", "", ""]
    assert dataclasses.replace(message_of(kind), error=good).error == RemoteError(
        "SourceError", "ValueError", ("ValueError",), "no", "", ""
    )
    wrong = [[*good[:i], value, *good[i + 1 :]] for i in range(6) for value in (None, 1, b"x", "x" * (m.MAX_TEXT + 1), ["x"] * 65, [1])]
    bad(message_of(kind), error=[good[:5], [*good, ""], "SourceError", *(x for x in wrong if x[2] != ["x"])])
    bad(message_of(kind), error=[RemoteError(*[*good[:3], "x" * (m.MAX_TEXT + 1), "", ""]), RemoteError("a", "b", (1,), "", "")])  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [m.Opened, w.Loaded])
def test_a_source_is_indexed_or_a_stream(kind: type[Any]) -> None:
    bad(message_of(kind), kind=["", "Stream", 1, None, ["indexed"], b"indexed", "x" * 10**6])


def test_lists_become_tuples() -> None:
    """msgpack knows one kind of sequence; a message has to be hashable and equal to what was sent."""
    assert m.Ask(ID, 0, [1, 2]).indices == (1, 2)  # type: ignore[arg-type]
    assert m.Release([BLOCK]).blocks == (BLOCK,)  # type: ignore[arg-type]
    assert m.Welcome(1, "", 1, ["a"], "", 0).directories == ("a",)  # type: ignore[arg-type]


class Deep(list[Any]):
    def __repr__(self) -> str:
        raise RecursionError


@pytest.mark.parametrize("value", [Deep(), 10**5000, "x" * 10**6, b"x" * 10**6], ids=["deep", "digits", "text", "bytes"])
def test_what_is_wrong_is_shown_in_part(value: Any) -> None:
    """The repr of what a hostile peer sent may fail, or be larger than memory."""
    assert len(fields.shown(value)) < 100
    bad(message_of(m.Cancel), epoch=[value], session=[value])
    bad(message_of(m.Opened), kind=[value], seed=[value], notes=[[value]] if not isinstance(value, str) else [])
    bad(message_of(m.Lent), block=[value], seconds=[value])
