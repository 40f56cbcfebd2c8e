"""Which messages clients and nodes may send each other, and the version that a peer announces. See frames.py.

Each end knows only what it may receive: a client that sends a node's message is a protocol error, not a surprise.
"""

from __future__ import annotations

from collections.abc import Sequence

from feeder_wire import messages as m
from feeder_wire.frames import Registry, beginning

_CLIENT_SIDE = (m.Hello, m.Open, m.Ask, m.Cancel, m.Release, m.Close, m.Ping, m.Leave, m.Look)
_NODE_SIDE = (
    m.Welcome, m.Refuse, m.Opened, m.Inline, m.Lent, m.Part, m.Failed, m.Ended, m.HandedBack, m.Unknown, m.Progress, m.Retired, m.Pong,
    m.Goodbye, m.Verdict, m.Status, m.Workers,
)  # fmt: skip

TO_NODE: Registry = {c.CODE: c for c in _CLIENT_SIDE}
TO_CLIENT: Registry = {c.CODE: c for c in _NODE_SIDE}


def first_version(received: Sequence[bytes | memoryview]) -> int | None:
    """The version that a peer announces in its `Hello` or `Welcome`, also where the rest can't be read; None: no such message."""
    code, version = beginning(received[0]) if received else (None, None)
    return version if code in (m.Hello.CODE, m.Welcome.CODE) and type(version) is int else None
