"""The messages that clients, nodes and workers exchange: data that can't be built invalid.

    client ── Hello, Open, Ask, Cancel, Release, Close, Ping, Leave ─────────────────────────────────▶ node
    client ◀─ Welcome, Refuse, Opened, Inline, Lent, Part, Failed, Ended, Unknown, Progress, Retired, Pong, Goodbye ── node

    node ──── Task, Free, Drop, Stop ────────────────────────────────────▶ worker
    node ◀─── Joined, Loaded, LoadFailed, Made, MadeBlock, TaskFailed, TaskEnded, Dropped ── worker

Every field is checked when a message is made, by the sender as well as by the receiver (`ProtocolError`), so code behind
this file never checks again. docs/protocol.md describes the same in prose; frames.py puts messages into bytes.

Names: a *session* is one client reading one source, 16 random bytes chosen by the client. A *key* is (epoch, index): for an
indexed source the epoch and the number of the batch; for a stream the run (one run ends when the stream has ended) and a ticket.
Sizes are bytes, durations seconds.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from feeder_wire.errors import ProtocolError, RemoteError

WIRE_VERSION = 1
"""Goes up with every change that an older peer would misread."""

INLINE_BYTES = 32 * 1024
"""Batches up to this size travel inside the message; a block and its release would cost more than two small copies."""

CHUNK_BYTES = 1024 * 1024
"""Payload of one `Part`: large enough to keep the socket busy, small enough to stay in the cache while it is copied."""

MAX_BATCH_BYTES = 1 << 40
MAX_INDEX = (1 << 63) - 1
MAX_TEXT = 256 * 1024
MAX_ITEMS = 1 << 20
BLOCK_NAME = re.compile(r"[01]-[0-9]{1,6}-[0-9]{1,9}-[0-9]{1,12}")
"""place (which of the arena's directories), worker slot, generation of the worker, number: and nothing a path could hide in."""


def _fail(message: object, what: str) -> None:
    raise ProtocolError(f"{type(message).__name__}: {what}")


def _int(message: object, value: object, high: int = MAX_INDEX, low: int = 0) -> None:
    # `type(...) is int`, not isinstance: True is an int for isinstance, and numpy integers can't be packed.
    if type(value) is not int or not low <= value <= high:
        _fail(message, f"{value!r:.80} is not a whole number from {low} to {high}")


def _text(message: object, *values: object) -> None:
    for value in values:
        if type(value) is not str or len(value) > MAX_TEXT:
            _fail(message, f"{value!r:.80} is not a text of at most {MAX_TEXT} characters")


def _blob(message: object, value: object, high: int) -> None:
    if not isinstance(value, bytes) or len(value) > high:
        _fail(message, f"{type(value).__name__} where at most {high} bytes were expected")


def _session(message: object, value: object) -> None:
    if type(value) is not bytes or len(value) != 16:
        _fail(message, "a session is 16 bytes")


def _seconds(message: object, value: object) -> None:
    if type(value) not in (float, int) or not 0 <= value < 1e9:  # type: ignore[operator]
        _fail(message, f"{value!r:.80} is not a duration in seconds")


def _block(message: object, name: object, size: object, nbytes: object) -> None:
    if type(name) is not str or not BLOCK_NAME.fullmatch(name):
        _fail(message, f"{name!r:.80} is not the name of a block")
    _int(message, size, MAX_BATCH_BYTES)
    _int(message, nbytes, size)  # type: ignore[arg-type]


def _blocks(message: object, names: object) -> tuple[str, ...]:
    if not isinstance(names, (tuple, list)) or len(names) > MAX_ITEMS:
        _fail(message, "blocks are a list of names")
    for name in names:  # type: ignore[attr-defined]
        if type(name) is not str or not BLOCK_NAME.fullmatch(name):
            _fail(message, f"{name!r:.80} is not the name of a block")
    return tuple(names)  # type: ignore[arg-type]


def _error(message: object, value: object) -> RemoteError:
    if isinstance(value, RemoteError):
        return value
    if not isinstance(value, (list, tuple)) or len(value) != 6:
        _fail(message, "an error has six fields")
    kind, type_name, builtins, text, traceback, where = value  # type: ignore[misc]
    _text(message, kind, type_name, text, traceback, where)
    if not isinstance(builtins, (list, tuple)) or len(builtins) > 64:
        _fail(message, "the built-in bases of an error are a short list")
    _text(message, *builtins)
    return RemoteError(kind, type_name, tuple(builtins), text, traceback, where)


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
        _int(self, self.version, 1 << 31)
        _session(self, self.client)
        _text(self, self.name)
        object.__setattr__(self, "holds", _blocks(self, self.holds))


@dataclass(frozen=True, slots=True)
class Open:
    """Begin, or after a reconnection take up again, a session. `maps`: the client can map the node's arena."""

    CODE: ClassVar[int] = 2
    session: bytes
    source: str
    maps: bool

    def __post_init__(self) -> None:
        _session(self, self.session)
        _text(self, self.source)
        if type(self.maps) is not bool:
            _fail(self, "maps is true or false")


@dataclass(frozen=True, slots=True)
class Ask:
    """Make these batches and send them: a work order, and the credit to send the answer."""

    CODE: ClassVar[int] = 3
    session: bytes
    epoch: int
    indices: tuple[int, ...]

    def __post_init__(self) -> None:
        _session(self, self.session)
        _int(self, self.epoch)
        if not isinstance(self.indices, (tuple, list)) or len(self.indices) > MAX_ITEMS:
            _fail(self, "indices are a list")
        for index in self.indices:
            _int(self, index)
        object.__setattr__(self, "indices", tuple(self.indices))


@dataclass(frozen=True, slots=True)
class Cancel:
    """Forget what was asked of this session's epochs below `epoch` and not answered yet: nobody will take it."""

    CODE: ClassVar[int] = 4
    session: bytes
    epoch: int

    def __post_init__(self) -> None:
        _session(self, self.session)
        _int(self, self.epoch)


@dataclass(frozen=True, slots=True)
class Release:
    """The last view of these blocks has died: they may be written again."""

    CODE: ClassVar[int] = 5
    blocks: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks", _blocks(self, self.blocks))


@dataclass(frozen=True, slots=True)
class Close:
    """The session ends; blocks it still holds stay lent until they are released or the client leaves."""

    CODE: ClassVar[int] = 6
    session: bytes

    def __post_init__(self) -> None:
        _session(self, self.session)


@dataclass(frozen=True, slots=True)
class Ping:
    """Keeps the client's lease; answered by `Pong` with the same number."""

    CODE: ClassVar[int] = 7
    number: int

    def __post_init__(self) -> None:
        _int(self, self.number)


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
        _int(self, self.version, 1 << 31)
        _text(self, self.node, self.nonce)
        _int(self, self.workers, 1 << 20)
        _int(self, self.lend_bytes, MAX_BATCH_BYTES)
        if not isinstance(self.directories, (tuple, list)) or len(self.directories) > 2:
            _fail(self, "an arena has at most two directories")
        _text(self, *self.directories)
        object.__setattr__(self, "directories", tuple(self.directories))


@dataclass(frozen=True, slots=True)
class Refuse:
    """The node won't serve this connection or session; `kind` names the error to raise (see errors.py)."""

    CODE: ClassVar[int] = 21
    kind: str
    text: str

    def __post_init__(self) -> None:
        _text(self, self.kind, self.text)


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

    def __post_init__(self) -> None:
        _session(self, self.session)
        if self.kind not in ("indexed", "stream"):
            _fail(self, f"{self.kind!r:.40} is no kind of source")
        _int(self, self.num_batches, low=-1)
        _int(self, self.workers, 1 << 20)
        _int(self, self.seed, (1 << 64) - 1)
        if not isinstance(self.notes, (tuple, list)) or len(self.notes) > 100:
            _fail(self, "notes are a short list")
        _text(self, *self.notes)
        object.__setattr__(self, "notes", tuple(self.notes))


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
        _session(self, self.session)
        _int(self, self.epoch)
        _int(self, self.index)
        _blob(self, self.head, MAX_TEXT * 16)
        _blob(self, self.data, INLINE_BYTES)
        _seconds(self, self.seconds)


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
        _session(self, self.session)
        _int(self, self.epoch)
        _int(self, self.index)
        _blob(self, self.head, MAX_TEXT * 16)
        _block(self, self.block, self.size, self.nbytes)
        _seconds(self, self.seconds)


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
        _session(self, self.session)
        _int(self, self.epoch)
        _int(self, self.index)
        _blob(self, self.head, MAX_TEXT * 16)
        _int(self, self.nbytes, MAX_BATCH_BYTES)
        _int(self, self.offset, self.nbytes)
        _seconds(self, self.seconds)


@dataclass(frozen=True, slots=True)
class Failed:
    """This batch can't be had: the user's code raised, or the workers that tried died."""

    CODE: ClassVar[int] = 26
    session: bytes
    epoch: int
    index: int
    error: RemoteError

    def __post_init__(self) -> None:
        _session(self, self.session)
        _int(self, self.epoch)
        _int(self, self.index)
        object.__setattr__(self, "error", _error(self, self.error))


@dataclass(frozen=True, slots=True)
class Ended:
    """Streams: this ticket gets nothing, for the run is over on this node; all its batches were sent before."""

    CODE: ClassVar[int] = 27
    session: bytes
    epoch: int
    index: int

    def __post_init__(self) -> None:
        _session(self, self.session)
        _int(self, self.epoch)
        _int(self, self.index)


@dataclass(frozen=True, slots=True)
class Unknown:
    """The node doesn't know this session (it was restarted, or the lease ran out): open it again and ask again."""

    CODE: ClassVar[int] = 28
    session: bytes

    def __post_init__(self) -> None:
        _session(self, self.session)


@dataclass(frozen=True, slots=True)
class Progress:
    """What the node is doing for a session that has been waiting for a while, in words."""

    CODE: ClassVar[int] = 29
    session: bytes
    text: str

    def __post_init__(self) -> None:
        _session(self, self.session)
        _text(self, self.text)


@dataclass(frozen=True, slots=True)
class Retired:
    """These blocks are gone for good: forget their mappings once the last view has died."""

    CODE: ClassVar[int] = 30
    blocks: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks", _blocks(self, self.blocks))


@dataclass(frozen=True, slots=True)
class Pong:
    """Answer to `Ping`."""

    CODE: ClassVar[int] = 31
    number: int

    def __post_init__(self) -> None:
        _int(self, self.number)


@dataclass(frozen=True, slots=True)
class Goodbye:
    """The node is shutting down; `kind` and `text` as in `Refuse`."""

    CODE: ClassVar[int] = 32
    kind: str
    text: str

    def __post_init__(self) -> None:
        _text(self, self.kind, self.text)


ToNode: TypeAlias = Hello | Open | Ask | Cancel | Release | Close | Ping | Leave
ToClient: TypeAlias = (
    Welcome | Refuse | Opened | Inline | Lent | Part | Failed | Ended | Unknown | Progress | Retired | Pong | Goodbye
)
