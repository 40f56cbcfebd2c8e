"""The part of `dispatch.Dispatch` that compares the copies of a source: it does what probe.py says, with what trials.py keeps. PURE."""

from __future__ import annotations

from abc import ABC, abstractmethod

from feeder_server.ledger import Ledger, Settled
from feeder_server.probe import Admit, Rebuild, Reject, Step, Try, Warm
from feeder_server.trials import HELD, PROBE, Trials
from feeder_server.work import Action, Assign, Job, Key, Remove, Send, Session, Slot, Source, Tell
from feeder_wire import worker_messages as w
from feeder_wire.errors import RemoteError


class Comparing(ABC):
    """See the module. What is abstract here, `Dispatch` does."""

    sources: list[Source]
    slots: list[Slot]
    sessions: dict[bytes, Session]
    ledger: Ledger
    trials: Trials

    @abstractmethod
    def _give(self, session: Session, number: int, key: Key, look: bool = False) -> Assign: ...

    @abstractmethod
    def _learn(self, number: int, message: w.Made | w.MadeBlock) -> None: ...

    @abstractmethod
    def _deliver(self, session: Session, key: Key, message: w.Made | w.MadeBlock) -> list[Action]: ...

    @abstractmethod
    def _requeue(self, session: Session, key: Key) -> list[Action]: ...

    @abstractmethod
    def _waits_for(self, job: Job | None) -> Session | None: ...

    def looked(self, slot: int, message: w.Looked) -> list[Action]:
        """A worker says what the batch looks like that it has just made."""
        job = self.slots[slot].jobs.get(message.task)
        if job is None:
            return []
        if message.sample:
            self.trials.describe(job.session.source, message.sample)
        if job.session.id != PROBE:
            return []
        probe = self.trials.probes[job.session.source]
        return self._steps(job.session.source, probe.looked(slot, job.key[1], message.leaves, message.changed))

    def _trier_lost(self, slot: int, tried: list[Job]) -> list[Action]:
        """A worker died that was at these items for a comparison; what it had made for one and wasn't admitted for is not to be used."""
        out: list[Action] = []
        for number, probe in enumerate(self.trials.probes):
            out += self._settled(self.trials.reject(number, slot))
            self.trials.reserved[number] -= {job.key[1] for job in tried if job.session.source == number}
            out += self._steps(number, probe.lost(slot, any(job.session.source == number for job in tried)))
        return out

    def _try_failed(self, slot: int, job: Job, error: RemoteError) -> list[Action]:
        number = job.session.source
        self.trials.reserved[number].discard(job.key[1])
        return self._steps(number, self.trials.probes[number].failed(slot, f"{error.type_name}: {error.message:.200}"))

    def _steps(self, number: int, steps: list[Step]) -> list[Action]:
        """Do what the probe of a source says."""
        out: list[Action] = []
        trials, source = self.trials, self.sources[number]
        for step in steps:
            slot = self.slots[step.slot]
            match step:
                case Try():
                    # Items 0 and 1 are the owner's to serve, and it may have done so long ago.
                    if step.slot == trials.probes[number].owner or not (step.look or step.index < 2):
                        trials.reserved[number].add(step.index)
                    out.append(self._give(trials.sessions[number], step.slot, (0, step.index), step.look))
                case Warm():
                    out.append(Tell(step.slot, w.Mode(number, step.on, False, False)))
                case Admit():
                    slot.serves.add(number)
                    if source.exclusive:  # the owner died, and another worker has taken its place
                        out.append(Tell(step.slot, w.Mode(number, False, True, False)))
                    for index, message in trials.admit(number, step.slot):
                        out += self._offer(number, index, message)
                case Rebuild() | Reject():
                    slot.serves.discard(number)
                    out += self._settled(trials.reject(number, step.slot)) + self._void(number, step.slot)
                    if isinstance(step, Rebuild):
                        out.append(Tell(step.slot, w.Mode(number, True, False, True)))
        news = trials.settle(number)
        if source.exclusive and source.slots != {trials.probes[number].owner}:
            owner = trials.probes[number].owner
            assert owner is not None  # or nothing would have been compared
            source.slots = frozenset({owner})
            out.append(Tell(owner, w.Mode(number, False, True, False)))
        if news:
            out += [Send(s.client, trials.verdict(s)) for s in self.sessions.values() if s.source == number and s.opened]
        return out

    def _tried(self, slot: int, job: Job, message: w.Made | w.MadeBlock) -> list[Action]:
        """A batch that was made for the comparison: it is kept for whoever asks for it."""
        number, index = job.session.source, job.key[1]
        self._learn(number, message)
        if isinstance(message, w.MadeBlock):
            self.ledger.lend(message.block, message.size, HELD)
        if number in self.slots[slot].serves:
            return self._offer(number, index, message)
        return self._settled(self.trials.hold(number, index, slot, message))

    def _offer(self, number: int, index: int, message: w.Made | w.MadeBlock) -> list[Action]:
        key = (0, index)
        self.trials.reserved[number].discard(index)
        for session in self.sessions.values():
            if session.source == number and key in session.queue:
                session.queue.remove(key)
                return self._deliver(session, key, message)
        return self._settled(self.trials.keep(number, index, message))

    def _void(self, number: int, place: int) -> list[Action]:
        """What a worker is making of a source is not to be used."""
        out: list[Action] = []
        slot = self.slots[place]
        for task, job in list(slot.jobs.items()):
            if job.session.source != number or job.session is self.trials.void:
                continue
            slot.jobs[task] = Job(self.trials.void, job.key, job.nbytes)
            if job.session.id == PROBE:
                self.trials.reserved[number].discard(job.key[1])
            job.session.finished(job.key)
            if self._waits_for(job) is not None:
                out += self._requeue(job.session, job.key)
        return out

    def describe(self, slot: int, task: int) -> str:
        """What a worker is making, in words."""
        job = self.slots[slot].jobs[task]
        source = self.sources[job.session.source] if job.session is not self.trials.void else None
        what = "a batch of" if source is not None and source.kind == "stream" else f"batch {job.key[1]} of epoch {job.key[0]} of"
        return f"{what} {f'source {source.name!r}' if source is not None else 'a source that was compared'}"

    def waiting(self) -> dict[bytes, tuple[int, list[tuple[int, Key, float]]]]:
        """Per session with work: how many requests are queued, and (slot, key, since when) of what is being made."""
        out: dict[bytes, tuple[int, list[tuple[int, Key, float]]]] = {s.id: (len(s.queue), []) for s in self.sessions.values() if s.wanted}
        for number, slot in enumerate(self.slots):
            for job in list(slot.jobs.values())[:1]:
                if self._waits_for(job) is not None:
                    out[job.session.id][1].append((number, job.key, job.since))
                elif job.session.id == PROBE:
                    for session in self.sessions.values():
                        if session.source == job.session.source and session.wanted:
                            out[session.id][1].append((number, job.key, job.since))
        return out

    def _settled(self, settled: Settled) -> list[Action]:
        out: list[Action] = [Tell(slot, w.Free(tuple(names))) for slot, names in settled.free.items()]
        out += [Tell(slot, w.Retire(tuple(names))) for slot, names in settled.retire.items()]
        if settled.remove:
            out.append(Remove(tuple(settled.remove)))
        return out


def remarks(source: Source) -> tuple[str, ...]:
    """What a client is told of a source at once."""
    if source.kind != "stream" or source.sharded or len(source.slots) == 1:
        return ()
    return (
        f"source {source.name!r} is a stream and {len(source.slots)} workers each run a copy of it: a finite stream gives its "
        "data once per worker. Let it take shard_index and num_shards, or start the server with --single",
    )


def size_of(message: w.Made | w.MadeBlock) -> int:
    """Bytes that a batch takes."""
    return message.size if isinstance(message, w.MadeBlock) else len(message.data)
