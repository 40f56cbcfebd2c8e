"""The messages between a node and its own worker processes, over a loopback socket. See messages.py for the words used.

Both ends are started by the same node and come from one installation, so there is no version here. A worker proves that it is
one by the token that it was given through its stdin pipe; nobody else on the machine has it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from feeder_wire import fields
from feeder_wire.errors import RemoteError
from feeder_wire.fields import INLINE_BYTES, MAX_HEAD
from feeder_wire.leaves import Leaf


@dataclass(frozen=True, slots=True)
class Task:
    """Make one batch. `copy` is the session whose copy of the source makes it; `look`: send a `Looked` ahead of the batch.

    `methods`: what it may be packed with, if that pays for a line of so many bytes per second; `line` 0: however quick the line is.
    """

    CODE: ClassVar[int] = 60
    task: int
    source: int
    copy: bytes
    epoch: int
    index: int
    look: bool = False
    methods: tuple[str, ...] = ()
    line: int = 0

    def __post_init__(self) -> None:
        fields.session(self, self.copy)
        fields.flag(self, self.look)
        if self.methods or type(self.methods) is not tuple:
            object.__setattr__(self, "methods", fields.texts(self, self.methods, 16))
        fields.wholes(self, self.task, self.source, self.epoch, self.index, self.line)


@dataclass(frozen=True, slots=True)
class Free:
    """These blocks of the worker's may be written again."""

    CODE: ClassVar[int] = 61
    blocks: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks", fields.blocks(self, self.blocks))


@dataclass(frozen=True, slots=True)
class Drop:
    """A session ended: forget its copies."""

    CODE: ClassVar[int] = 62
    session: bytes

    def __post_init__(self) -> None:
        fields.session(self, self.session)


@dataclass(frozen=True, slots=True)
class Retire:
    """These blocks must not be written again (their reader is lost, not known to be dead): remove them."""

    CODE: ClassVar[int] = 63
    blocks: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks", fields.blocks(self, self.blocks))


@dataclass(frozen=True, slots=True)
class Mode:
    """How copies of a source are used from now on, see `copies.Copies.mode`."""

    CODE: ClassVar[int] = 65
    source: int
    warm: bool
    exclusive: bool
    rebuild: bool

    def __post_init__(self) -> None:
        fields.whole(self, self.source)
        for value in (self.warm, self.exclusive, self.rebuild):
            fields.flag(self, value)


@dataclass(frozen=True, slots=True)
class Stop:
    """Finish and exit."""

    CODE: ClassVar[int] = 64


@dataclass(frozen=True, slots=True)
class Joined:
    """First message of a worker."""

    CODE: ClassVar[int] = 80
    slot: int
    generation: int
    token: bytes

    def __post_init__(self) -> None:
        fields.whole(self, self.slot)
        fields.whole(self, self.generation)
        fields.blob(self, self.token, 64)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A source was loaded. `num_batches` -1: not known, or endless. `code`: digest of the user's modules, empty where there are none.

    `stateful`: it is told about epochs.
    """

    CODE: ClassVar[int] = 81
    source: int
    kind: str
    num_batches: int
    sharded: bool
    code: bytes = b""
    stateful: bool = False

    def __post_init__(self) -> None:
        fields.flag(self, self.stateful)
        fields.blob(self, self.code, 64)
        fields.whole(self, self.source)
        fields.whole(self, self.num_batches, low=-1)
        fields.kind(self, self.kind)
        fields.flag(self, self.sharded)


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """A source could not be loaded; the worker ends."""

    CODE: ClassVar[int] = 82
    source: int
    error: RemoteError

    def __post_init__(self) -> None:
        fields.whole(self, self.source)
        object.__setattr__(self, "error", fields.error(self, self.error))


@dataclass(frozen=True, slots=True)
class Made:
    """A small batch, inline."""

    CODE: ClassVar[int] = 83
    task: int
    head: bytes
    data: bytes
    seconds: float

    def __post_init__(self) -> None:
        fields.whole(self, self.task)
        fields.blob(self, self.head, MAX_HEAD)
        fields.blob(self, self.data, INLINE_BYTES)
        fields.seconds(self, self.seconds)


@dataclass(frozen=True, slots=True)
class MadeBlock:
    """A batch in a block that the worker gives up until `Free` or `Retire`."""

    CODE: ClassVar[int] = 84
    task: int
    head: bytes
    block: str
    size: int
    nbytes: int
    seconds: float

    def __post_init__(self) -> None:
        fields.whole(self, self.task)
        fields.blob(self, self.head, MAX_HEAD)
        fields.block(self, self.block, self.size, self.nbytes)
        fields.seconds(self, self.seconds)


@dataclass(frozen=True, slots=True)
class TaskFailed:
    """The user's code raised, or made a batch that can't be sent."""

    CODE: ClassVar[int] = 85
    task: int
    error: RemoteError

    def __post_init__(self) -> None:
        fields.whole(self, self.task)
        object.__setattr__(self, "error", fields.error(self, self.error))


@dataclass(frozen=True, slots=True)
class TaskEnded:
    """The worker's part of the stream has no more batch for this run."""

    CODE: ClassVar[int] = 86
    task: int

    def __post_init__(self) -> None:
        fields.whole(self, self.task)


@dataclass(frozen=True, slots=True)
class Dropped:
    """The worker removed these blocks to make room: readers should forget them."""

    CODE: ClassVar[int] = 87
    blocks: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks", fields.blocks(self, self.blocks))


@dataclass(frozen=True, slots=True)
class Looked:
    """What the batch of a task looks like; its `Made`, `MadeBlock` or `TaskFailed` follows.

    `leaves`: see feeder_wire/leaves.py. `sample`: its description, see feeder_server/sample.py. `changed`: attributes of the source that
    making it has changed.
    """

    CODE: ClassVar[int] = 88
    task: int
    leaves: tuple[Leaf, ...]
    sample: str
    changed: tuple[str, ...]

    def __post_init__(self) -> None:
        fields.whole(self, self.task)
        fields.text(self, self.sample)
        object.__setattr__(self, "leaves", fields.leaves(self, self.leaves))
        object.__setattr__(self, "changed", fields.texts(self, self.changed, 100))


ToWorker: TypeAlias = Task | Free | Drop | Retire | Mode | Stop
FromWorker: TypeAlias = Joined | Loaded | LoadFailed | Made | MadeBlock | TaskFailed | TaskEnded | Dropped | Looked
