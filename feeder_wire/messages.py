"""The messages that clients and nodes exchange: data that can't be built invalid. Those of workers are in worker_messages.py.

    client ── Hello, Open, Ask, Cancel, Release, Close, Ping, Leave, Look ───────────────────────────▶ node
    client ◀─ Welcome, Refuse, Opened, Inline, Lent, Part, Failed, Ended, HandedBack, Unknown, Progress,
              Retired, Pong, Goodbye, Verdict, Status ───────────────────────────────────────────────── node

Every field is checked when a message is made, by the sender as well as by the receiver (`ProtocolError`), so code behind
this file never checks again. The checks are in fields.py. docs/protocol.md describes the same in prose; frames.py puts messages into bytes.

Names: a *session* is one client reading one source, 16 random bytes chosen by the client. A *key* is (epoch, index): for an
indexed source the epoch and the number of the batch; for a stream the run (one run ends when the stream has ended) and, where `workers`
workers serve it, batch ``index // workers`` of the part that worker ``index % workers`` has of it.
Sizes are bytes, durations seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from feeder_wire import fields
from feeder_wire.ending_messages import Goodbye as Goodbye
from feeder_wire.ending_messages import HandedBack as HandedBack
from feeder_wire.errors import RemoteError
from feeder_wire.fields import BLOCK_NAME as BLOCK_NAME
from feeder_wire.fields import INLINE_BYTES as INLINE_BYTES
from feeder_wire.fields import MAX_BATCH_BYTES as MAX_BATCH_BYTES
from feeder_wire.fields import MAX_HEAD as MAX_HEAD
from feeder_wire.fields import MAX_INDEX as MAX_INDEX
from feeder_wire.fields import MAX_ITEMS as MAX_ITEMS
from feeder_wire.fields import MAX_TEXT as MAX_TEXT
from feeder_wire.status_messages import Look as Look
from feeder_wire.status_messages import Status as Status
from feeder_wire.status_messages import Verdict as Verdict
from feeder_wire.status_messages import Workers as Workers

WIRE_VERSION = 4
"""Goes up with every change that an older peer would misread."""

CHUNK_BYTES = 256 * 1024
"""Payload of one `Part`, small enough for slow lines.

ZeroMQ takes a frame for a sign of life when all of it has come: one that takes longer than `frames.DEAD_SECONDS` breaks the
connection, and after the next attempt the same again, for ever.
"""
QUICK_CHUNK_BYTES = 4 * CHUNK_BYTES
"""Payload of one `Part` where the line is known to be quick: fewer turns, and small enough to stay in the cache while it is copied."""

# --------------------------------------------------------------------------------------------------------- client to node


@dataclass(frozen=True, slots=True)
class Hello:
    """First message on every connection. What follows `version` may differ between versions: read that first.

    `client` stays the same when a client connects again, and is known to nobody else. `holds` names the blocks it has in hand.
    """

    CODE: ClassVar[int] = 1
    version: int
    client: bytes
    name: str  # shown in logs and status, for example "train.py, pid 4711 on host"
    holds: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        fields.whole(self, self.version, 1 << 31)
        fields.session(self, self.client)
        fields.text(self, self.name)
        object.__setattr__(self, "holds", fields.blocks(self, self.holds))


@dataclass(frozen=True, slots=True)
class Open:
    """Begin, or after a reconnection take up again, a session.

    `maps`: the client can map the node's arena. `unpacks`: the methods of packing.py by which its batches may be packed.
    `near`: it is on the node's own host all the same, so that there is no line between them that could be slow.
    """

    CODE: ClassVar[int] = 2
    session: bytes
    source: str
    maps: bool
    unpacks: tuple[str, ...] = ()
    near: bool = False

    def __post_init__(self) -> None:
        fields.session(self, self.session)
        fields.text(self, self.source)
        fields.flag(self, self.maps)
        fields.flag(self, self.near)
        object.__setattr__(self, "unpacks", fields.texts(self, self.unpacks, 16))


@dataclass(frozen=True, slots=True)
class Ask:
    """Make these batches and send them: a work order, and the credit to send the answer."""

    CODE: ClassVar[int] = 3
    session: bytes
    epoch: int
    indices: tuple[int, ...]

    def __post_init__(self) -> None:
        fields.session(self, self.session)
        fields.whole(self, self.epoch)
        object.__setattr__(self, "indices", fields.numbers(self, self.indices))


@dataclass(frozen=True, slots=True)
class Cancel:
    """Forget what was asked of this session's epochs below `epoch` and not answered yet: nobody will take it."""

    CODE: ClassVar[int] = 4
    session: bytes
    epoch: int

    def __post_init__(self) -> None:
        fields.session(self, self.session)
        fields.whole(self, self.epoch)


@dataclass(frozen=True, slots=True)
class Release:
    """The last view of these blocks has died: they may be written again."""

    CODE: ClassVar[int] = 5
    blocks: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks", fields.blocks(self, self.blocks))


@dataclass(frozen=True, slots=True)
class Close:
    """The session ends; blocks it still holds stay lent until they are released or the client leaves."""

    CODE: ClassVar[int] = 6
    session: bytes

    def __post_init__(self) -> None:
        fields.session(self, self.session)


@dataclass(frozen=True, slots=True)
class Ping:
    """Keeps the client's lease; answered by `Pong` with the same number.

    `waited_ms`: for how long its training has stood still for want of batches, all in all: does the node have too few workers?
    """

    CODE: ClassVar[int] = 7
    number: int
    waited_ms: int = 0

    def __post_init__(self) -> None:
        fields.whole(self, self.number)
        fields.whole(self, self.waited_ms)


@dataclass(frozen=True, slots=True)
class Leave:
    """The client closes its connection now."""

    CODE: ClassVar[int] = 8


# --------------------------------------------------------------------------------------------------------- node to client


@dataclass(frozen=True, slots=True)
class Welcome:
    """Answer to `Hello`.

    `directories` is the node's arena and `nonce` what the file ``nonce`` in the first of them holds: a client that can read
    it is on the same host and may map blocks. `lend_bytes`: how much of the arena one client may hold before it copies out.
    """

    CODE: ClassVar[int] = 20
    version: int
    node: str
    workers: int
    directories: tuple[str, ...]
    nonce: str
    lend_bytes: int

    def __post_init__(self) -> None:
        fields.whole(self, self.version, 1 << 31)
        fields.text(self, self.node, self.nonce)
        fields.whole(self, self.workers, 1 << 20)
        fields.whole(self, self.lend_bytes, MAX_BATCH_BYTES)
        object.__setattr__(self, "directories", fields.texts(self, self.directories, 2))


@dataclass(frozen=True, slots=True)
class Refuse:
    """The node won't serve this connection or session; `kind` names the error to raise (see errors.py)."""

    CODE: ClassVar[int] = 21
    kind: str
    text: str

    def __post_init__(self) -> None:
        fields.text(self, self.kind, self.text)


@dataclass(frozen=True, slots=True)
class Opened:
    """Answer to `Open`, once a worker has loaded the source. `num_batches` -1: not known, or endless."""

    CODE: ClassVar[int] = 22
    session: bytes
    kind: str  # "indexed" or "stream"
    num_batches: int
    workers: int
    seed: int
    notes: tuple[str, ...]  # what the user should know about this source, in words
    code: bytes = b""  # digest of the user's modules; empty where the node knows none
    ordered: bool = False  # streams: take the batches in the order of their numbers, not as they come

    def __post_init__(self) -> None:
        fields.session(self, self.session)
        fields.kind(self, self.kind)
        fields.whole(self, self.num_batches, low=-1)
        fields.whole(self, self.workers, 1 << 16)
        fields.whole(self, self.seed, (1 << 64) - 1)
        fields.blob(self, self.code, 64)
        fields.flag(self, self.ordered)
        object.__setattr__(self, "notes", fields.texts(self, self.notes, 100))


@dataclass(frozen=True, slots=True)
class Inline:
    """A small batch, whole. `head` and `data` are the codec's; `seconds`: what making it took."""

    CODE: ClassVar[int] = 23
    session: bytes
    epoch: int
    index: int
    head: bytes
    data: bytes
    seconds: float

    def __post_init__(self) -> None:
        fields.session(self, self.session)
        fields.wholes(self, self.epoch, self.index)
        fields.blob(self, self.head, MAX_HEAD)
        fields.blob(self, self.data, INLINE_BYTES)
        fields.seconds(self, self.seconds)


@dataclass(frozen=True, slots=True)
class Lent:
    """A batch in a block of the arena (same host): the client's until it sends `Release`."""

    CODE: ClassVar[int] = 24
    session: bytes
    epoch: int
    index: int
    head: bytes
    block: str
    size: int  # of the block
    nbytes: int  # of the payload in it
    seconds: float

    def __post_init__(self) -> None:
        fields.session(self, self.session)
        fields.wholes(self, self.epoch, self.index)
        fields.blob(self, self.head, MAX_HEAD)
        fields.block(self, self.block, self.size, self.nbytes)
        fields.seconds(self, self.seconds)


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a large batch for a client that can't map the arena. Always alone in its message, the bytes in a second frame.

    Parts of one batch come in the order of `offset` and without gaps; the batch is whole when `nbytes` have come.
    """

    CODE: ClassVar[int] = 25
    session: bytes
    epoch: int
    index: int
    head: bytes
    offset: int
    nbytes: int
    seconds: float

    def __post_init__(self) -> None:
        fields.session(self, self.session)
        fields.wholes(self, self.epoch, self.index)
        fields.blob(self, self.head, MAX_HEAD)
        fields.whole(self, self.nbytes, MAX_BATCH_BYTES)
        fields.whole(self, self.offset, self.nbytes)
        fields.seconds(self, self.seconds)


@dataclass(frozen=True, slots=True)
class Failed:
    """This batch can't be had: the user's code raised, or the workers that tried died."""

    CODE: ClassVar[int] = 26
    session: bytes
    epoch: int
    index: int
    error: RemoteError

    def __post_init__(self) -> None:
        fields.session(self, self.session)
        fields.wholes(self, self.epoch, self.index)
        object.__setattr__(self, "error", fields.error(self, self.error))


@dataclass(frozen=True, slots=True)
class Ended:
    """Streams: there is no such batch, for its worker's part of the run is shorter, or the run is over."""

    CODE: ClassVar[int] = 27
    session: bytes
    epoch: int
    index: int

    def __post_init__(self) -> None:
        fields.session(self, self.session)
        fields.wholes(self, self.epoch, self.index)


@dataclass(frozen=True, slots=True)
class Unknown:
    """The node doesn't know this session (it was restarted, or the lease ran out): open it again and ask again."""

    CODE: ClassVar[int] = 28
    session: bytes

    def __post_init__(self) -> None:
        fields.session(self, self.session)


@dataclass(frozen=True, slots=True)
class Progress:
    """What the node is doing for a session that has been waiting for a while, in words."""

    CODE: ClassVar[int] = 29
    session: bytes
    text: str

    def __post_init__(self) -> None:
        fields.session(self, self.session)
        fields.text(self, self.text)


@dataclass(frozen=True, slots=True)
class Retired:
    """These blocks are gone for good: forget their mappings once the last view has died."""

    CODE: ClassVar[int] = 30
    blocks: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks", fields.blocks(self, self.blocks))


@dataclass(frozen=True, slots=True)
class Pong:
    """Answer to `Ping`."""

    CODE: ClassVar[int] = 31
    number: int

    def __post_init__(self) -> None:
        fields.whole(self, self.number)


ToNode: TypeAlias = Hello | Open | Ask | Cancel | Release | Close | Ping | Leave | Look
ToClient: TypeAlias = (
    Welcome
    | Refuse
    | Opened
    | Inline
    | Lent
    | Part
    | Failed
    | Ended
    | HandedBack
    | Unknown
    | Progress
    | Retired
    | Pong
    | Goodbye
    | Verdict
    | Status
    | Workers
)
