"""The part of `dispatch.Dispatch` that hands out work: what is queued, and a second time what is overdue. PURE: time is an argument.

session queues ──assign()──▶ slots        a slot whose batch is overdue ──hedge()──▶ an idle slot: the first answer wins
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from feeder_server.comparing import Comparing
from feeder_server.trials import PROBE
from feeder_server.work import Action, Assign, Job, Key, Session, Slot, Source
from feeder_wire import worker_messages as w

MAX_DEPTH = 64
QUEUE_SECONDS = 0.010
"""Work that a worker may hold ahead: about fifty round trips, and little enough that nothing waits behind it."""
AHEAD_SECONDS = 0.004
"""So long before the end of its only batch, a slow one, a worker should have the next: a round trip takes 2 ms where all were asleep."""
SLOW_SECONDS = 0.5
"""Where a batch takes longer, a round trip is nothing to that, and what waits behind a batch waits for long: none is given ahead."""
HEDGE_FACTOR = 4.0
"""Times of a usual batch after which one is overdue."""
MAX_PATIENCE = 16.0
"""By how much that grows where the second worker is not the faster one."""
HEDGE_SECONDS = 0.05
"""Nothing is overdue before that: less is the jitter of a busy machine."""
HEDGE_SAMPLES = 8
"""Batches from which on it is known what is usual."""


@dataclass(frozen=True, slots=True)
class Hedged:
    """A batch that was given to a second worker, for the log. Times in seconds."""

    key: Key
    source: str
    slow: int
    other: int
    age: float
    usual: float


class Scheduling(Comparing):
    """See the module. What the state means, `Dispatch` says.

    Attributes:
        hedged: batches that were given to a second worker.
        hedges_won: how often the second one was first.
        draining: nothing new is begun.
        awake: so many slots have a worker, the first ones; the others get nothing to do.
        congested: clients for which nothing is made at present, see `Gate.congested`.
        compression: methods by which batches may be packed, see packing.py.
        forced: they are, however quick the line is.
        lines: bytes per second to clients whose line is the limit.
        assign_at: when to call `assign` again; None: not before something else has happened.
        hedge_at: the same for `hedge`.
    """

    hedged = hedges_won = 0
    assign_at: float | None = None
    hedge_at: float | None = None
    draining: bool
    awake: int
    congested: Collection[bytes]
    compression: tuple[str, ...]
    forced: bool
    lines: Mapping[bytes, int]
    _memory: int
    _jobs: int
    _under_way: int
    _next_task: int
    _turn: deque[bytes]
    _begun: list[Slot]  # those that have come to the next of their jobs since the last `assign`
    _now = 0.0

    def wake(self, count: int) -> None:
        """The first `count` slots have, or are to have, a worker; those of the others finish what they are at."""
        self.awake = count
        for probe in self.trials.probes:
            probe.expect(count)

    def workers_of(self, source: int) -> int:
        """How many workers make a source's batches: of a stream all that it is divided among, whether they are there or not."""
        found = self.sources[source]
        return len(found.slots) if found.kind == "stream" else max(1, sum(slot < self.awake for slot in found.slots))

    def assign(self, now: float = 0.0) -> list[Action]:
        """Hand out what can be handed out at the time `now`."""
        self._now, self.assign_at = now, None
        for place in self._begun:
            place.since = now
        self._begun.clear()
        out: list[Action] = []
        if self.draining:
            return out
        stuck = 0
        while self._turn and stuck < len(self._turn):
            session = self.sessions.get(self._turn[0])
            if session is None or not session.queue:
                self._turn.popleft()
                continue
            find = self._next_stream if self.sources[session.source].kind == "stream" else self._next_item
            found = None if session.client in self.congested else find(session)
            if found is None:
                stuck += 1
            else:
                stuck = 0
                slot, key = found
                session.queue.remove(key)
                out.append(self._give(session, slot, key))
            self._turn.rotate(-1)
        return out

    def _next_item(self, session: Session) -> tuple[int, Key] | None:
        """Any worker makes any item: the one with the least to do."""
        source = self.sources[session.source]
        if not self._has_room(source):
            return None
        owner, (mine, others) = self.trials.probes[session.source].owner, self.trials.next_keys(session)
        best, depth = None, self.depth(source)
        load = depth + 1
        for number in source.slots:
            key = mine if number == owner else others
            slot = self.slots[number]
            if key is not None and len(slot.jobs) < load and self._takes(number, session.source) and self._has_time(slot, depth):
                best, load = (number, key), len(slot.jobs)
        return best

    def _next_stream(self, session: Session) -> tuple[int, Key] | None:
        """What a batch of a stream is called says which worker makes it: the first one that is wanted of a worker with room."""
        source = self.sources[session.source]
        if not self._has_room(source):
            return None
        depth = self.depth(source)
        free = {n for n in source.slots if self._takes(n, session.source) and self._has_time(self.slots[n], depth)}
        for key in session.queue if free else ():
            slot, _ = source.part_of(key[1])
            if slot in free:
                return slot, key
        return None

    def _takes(self, number: int, source: int) -> bool:
        return number < self.awake and self.slots[number].ready and source in self.slots[number].serves

    def _has_time(self, slot: Slot, depth: int) -> bool:
        """May a worker get another task? Where one takes so long that it holds only one, shortly before it should be done with that.

        Not where it is overdue: what is queued behind it might wait for long.
        """
        if len(slot.jobs) != depth or depth != 1:
            return len(slot.jobs) < depth
        (job,) = slot.jobs.values()
        seconds = self.sources[job.session.source].seconds
        if job.session.id == PROBE or job.session is self.trials.void or not 0 < seconds <= SLOW_SECONDS:
            return False
        left = slot.since + seconds - self._now
        if left > QUEUE_SECONDS:
            at = self._now + left - AHEAD_SECONDS
            self.assign_at = at if self.assign_at is None else min(at, self.assign_at)
        return abs(left) <= QUEUE_SECONDS

    def _has_room(self, source: Source) -> bool:
        # One task is always allowed: a batch larger than the cap is served alone.
        return self._jobs == 0 or self.ledger.held_bytes + self._under_way + source.nbytes <= self._memory

    def _give(self, session: Session, number: int, key: Key, look: bool = False) -> Assign:
        source = self.sources[session.source]
        self._next_task += 1
        slot = self.slots[number]
        if not slot.jobs:
            slot.since = self._now
        slot.jobs[self._next_task] = Job(session, key, source.nbytes, self._now, len(slot.jobs))
        if session.id != PROBE:
            session.making.add(key)
            self.trials.claim(session.source, key)
        self._jobs += 1
        self._under_way += source.nbytes
        methods, line = self._packing(session)
        return Assign(number, w.Task(self._next_task, session.source, session.id, *key, look, methods, line))

    def _packing(self, session: Session) -> tuple[tuple[str, ...], int]:
        """How a batch for this session may be packed, and for which line. Who maps blocks needs none of it."""
        # On one host what looks like a slow line is a busy one: the socket waits for a core, and packing takes one more.
        line = 0 if session.near else self.lines.get(session.client, 0)
        if session.maps or not (line or self.forced):
            return (), 0
        return tuple(method for method in self.compression if method in session.unpacks), 0 if self.forced else line

    def depth(self, source: Source) -> int:
        """How many tasks of this source a worker may hold."""
        if source.seconds <= 0:
            return 1
        return min(MAX_DEPTH, 1 + int(min(MAX_DEPTH, QUEUE_SECONDS / source.seconds)))  # the quotient may be inf

    # --------------------------------------------------------------------------------------------------------------- hedging

    def hedge(self, now: float) -> tuple[list[Action], list[Hedged]]:
        """Give what is overdue to workers that have nothing to do, the first of a client's batches first.

        To be called after `assign`: a worker that is idle then has nothing better to do. A batch is made by two workers at most; of
        a source with one owner, or a stream, by one.
        """
        self.hedge_at = None
        idle = [number for number, slot in enumerate(self.slots) if slot.ready and not slot.jobs]
        if not idle or self.draining:
            return [], []
        self._now = now
        due = sorted(self._due(), key=lambda found: found[1:3])
        out: list[Action] = []
        said = []
        for when, key, slow, job in due:
            source = self.sources[job.session.source]
            other = next((number for number in idle if self._takes(number, job.session.source)), None)
            if other is None or not self._has_room(source):
                continue
            if when > now:
                self.hedge_at = when if self.hedge_at is None else min(when, self.hedge_at)
                continue
            idle.remove(other)
            job.session.twice.add(key)
            self.hedged += 1
            out.append(self._give(job.session, other, key))
            next(reversed(self.slots[other].jobs.values())).second = True
            said.append(Hedged(key, source.name, slow, other, now - job.since, statistics.median(source.recent)))
        return out, said

    def _due(self) -> list[tuple[float, Key, int, Job]]:
        """(when it is overdue, batch, worker, job) of all that another worker could make too."""
        usual = [statistics.median(source.recent) if len(source.recent) >= HEDGE_SAMPLES else None for source in self.sources]
        out = []
        for number, slot in enumerate(self.slots):
            for job in slot.jobs.values():
                if self._may_be_hedged(job) and (seconds := usual[job.session.source]) is not None:
                    patience = HEDGE_FACTOR * self.sources[job.session.source].patience
                    out.append((job.since + max(HEDGE_SECONDS, (patience + job.ahead) * seconds), job.key, number, job))
        return out

    def _may_be_hedged(self, job: Job) -> bool:
        session = job.session
        if session.id == PROBE or session.client in self.congested or self._waits_for(job) is None:
            return False
        if job.second or job.key in session.twice:
            return False
        source = self.sources[session.source]
        return source.kind == "indexed" and not source.exclusive and len(source.slots) > 1

    def _hedge_answered(self, job: Job) -> None:
        """The first answer to a batch that two workers were at has come: were we right to give it to the second?"""
        source = self.sources[job.session.source]
        if job.second:
            self.hedges_won += 1
            source.patience = max(1.0, source.patience / 2)
        else:  # some batches are just longer than others
            source.patience = min(MAX_PATIENCE, source.patience * 2)
