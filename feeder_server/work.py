"""What `dispatch` decides about, and what it tells its caller to do: plain data."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

from feeder_server.sample import Sample
from feeder_wire import messages as m
from feeder_wire import worker_messages as w

Key: TypeAlias = tuple[int, int]
"""(epoch, index), see messages.py."""


@dataclass(frozen=True, slots=True)
class Assign:
    """Give `task` to the worker in `slot`."""

    slot: int
    task: w.Task


@dataclass(frozen=True, slots=True)
class Send:
    """Send `message` to `client`."""

    client: bytes
    message: m.ToClient


@dataclass(frozen=True, slots=True)
class Ship:
    """Send the bytes of a block to `client` in parts, then call `shipped`."""

    client: bytes
    lent: m.Lent


@dataclass(frozen=True, slots=True)
class Tell:
    """Send `message` to the worker in `slot`."""

    slot: int
    message: w.ToWorker


@dataclass(frozen=True, slots=True)
class Remove:
    """Remove the files of these blocks: their worker is gone, and now their last reader is done too."""

    blocks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Bury:
    """A worker is gone: remove its blocks' files but those in `keep`, which readers still hold or have yet to map."""

    slot: int
    generation: int
    keep: tuple[str, ...]


Action: TypeAlias = Assign | Send | Ship | Tell | Remove | Bury


@dataclass(slots=True)
class Source:
    """What is known of one named source. `slots`: the workers that may make its batches."""

    name: str
    slots: frozenset[int]
    kind: str = ""  # "indexed" or "stream", once a worker has loaded it
    num_batches: int = -1
    sharded: bool = False
    stateful: bool = False  # it is told about epochs
    seconds: float = 0.0  # moving average of one batch; 0: none made yet
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=31))  # what the last ones took
    patience: float = 1.0  # with batches that are overdue, see scheduling.py
    nbytes: int = 0  # of a recent batch
    code: bytes = b""  # digest of the user's modules
    outcome: str = ""  # of comparing its copies, a word of probe.py; empty while it isn't known
    outcome_text: str = ""
    warm: bool = False  # see copies.Copies.mode
    exclusive: bool = False
    sample: Sample | None = None

    parts: tuple[int, ...] = field(init=False)  # streams: the slots, in the order in which they take turns

    def __post_init__(self) -> None:
        self.parts = tuple(sorted(self.slots))

    def part_of(self, index: int) -> tuple[int, int]:
        """(slot, place) of a stream's batch `index`: its workers take turns, and `place` counts what one of them makes."""
        return self.parts[index % len(self.parts)], index // len(self.parts)


@dataclass(slots=True)
class Session:
    """One client reading one source."""

    id: bytes
    source: int
    client: bytes
    maps: bool
    unpacks: tuple[str, ...] = ()  # how its batches may be packed
    near: bool = False  # no line lies between
    queue: deque[Key] = field(default_factory=deque)
    making: set[Key] = field(default_factory=set)  # under way, also where nobody wants it any more
    twice: set[Key] = field(default_factory=set)  # under way with two workers
    wanted: set[Key] = field(default_factory=set)  # queued or under way, and not cancelled
    opened: bool = False
    tries: dict[Key, int] = field(default_factory=dict)
    run: int = 0  # streams: the run under way
    over: dict[int, int] = field(default_factory=dict)  # streams: slots whose part of this run has ended, and at which place

    def answered(self, key: Key) -> None:
        """The client has got its answer, or is getting it."""
        self.wanted.discard(key)
        self.tries.pop(key, None)

    def finished(self, key: Key) -> None:
        """A worker is not at it any more; a second one may be."""
        if key in self.twice:
            self.twice.discard(key)
        else:
            self.making.discard(key)

    def begin_run(self, run: int) -> list[Key]:
        """Leave a stream's run for a later one; returns what is still queued of it, and has to be answered."""
        gone = list(self.queue)
        self.queue.clear()
        self.run = run
        self.over.clear()
        for key in gone:
            self.answered(key)
        return gone

    def rewind(self, slots: list[Slot], void: Session) -> None:
        """Forget a stream's run, and all that was asked for: any run may come next."""
        self.begin_run(0)
        self.wanted.clear()
        for slot in slots:
            # What workers say of these tasks is no answer to tasks of the same names that are asked for from now on.
            slot.jobs.update({task: Job(void, job.key, job.nbytes) for task, job in slot.jobs.items() if job.session is self})
        self.making.clear()

    def end_part(self, source: Source, index: int) -> None:
        """A worker has nothing at the place of batch `index` of this run."""
        slot, place = source.part_of(index)
        self.over[slot] = min(place, self.over.get(slot, place))

    def past_the_end(self, source: Source) -> list[Key]:
        """Take out of the queue, and return, what lies behind the end of a part: it has to be answered."""
        gone = []
        for key in self.queue if self.over else ():
            slot, place = source.part_of(key[1])
            if key[0] == self.run and place >= self.over.get(slot, place + 1):
                gone.append(key)
        for key in gone:
            self.queue.remove(key)
            self.answered(key)
        return gone


@dataclass(slots=True)
class Job:
    """A task under way. The session itself, not its id: a client that was lost may open another one under the same id."""

    session: Session
    key: Key
    nbytes: int  # expected
    since: float = 0.0  # when it was given
    ahead: int = 0  # tasks that its worker had then
    second: bool = False  # somebody else is at the same batch, and late


@dataclass(slots=True)
class Slot:
    """One worker's place."""

    generation: int = -1
    loaded: set[int] = field(default_factory=set)
    jobs: dict[int, Job] = field(default_factory=dict)  # in the order in which they were given
    ready: bool = False
    serves: set[int] = field(default_factory=set)  # sources that it may make batches of
    since: float = 0.0  # when it began the first of its jobs


def slots_of(names: Iterable[str], workers: int, single: bool) -> list[Source]:
    """The sources of a node: each served by all workers, or with `single` each by one of them."""
    everyone = frozenset(range(workers))
    return [Source(name, frozenset({i % workers}) if single else everyone) for i, name in enumerate(names)]
