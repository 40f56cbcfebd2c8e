"""Who makes which batch. PURE: requests and worker events in, instructions out; no clock, no randomness, no socket, no thread.

    ask ──▶ session queue ──assign()──▶ slot ──made/failed/ended──▶ answer
                ▲                         │
                └────── worker_lost ──────┘      (tries counted; after max_retries the client is told)

Every method returns what its caller, node.py, must do, in order. Work is handed out by `assign` alone, which the caller runs once
after it has taken in all that was waiting, so that many tasks share one message.

Fairness: sessions take turns. Depth: a worker is given a second task before it has finished the first only where the batches are
so quick that the round trip would show (`depth`). Memory: bytes of lent blocks and of tasks under way are kept under the cap, but
one task is always allowed, so that a batch larger than the cap is served alone and nothing waits for ever.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping

from feeder_server.comparing import remarks, size_of
from feeder_server.ledger import Ledger
from feeder_server.scheduling import Scheduling
from feeder_server.trials import PROBE, Trials
from feeder_server.work import Action, Bury, Job, Key, Send, Session, Ship, Slot, Source, Tell
from feeder_wire import messages as m
from feeder_wire import worker_messages as w
from feeder_wire.errors import RemoteError

MAX_WHY = 4096
"""Characters of a dead worker's last words that a client is told."""
SENDER = b""
"""Who holds a block whose bytes are being sent: no client, so that none can give it back before the socket has read it."""


class Dispatch(Scheduling):
    """The state of a node's work.

    Args:
        sources: the named sources, with the slots that may serve each.
        slots: number of workers.
        memory_bytes: cap on lent blocks and work under way.
        max_retries: tries of a batch whose worker died, after the first.
        seed: told to clients.
        on_divergence: see `Probe`.
        probing: whether the copies of a source are compared.
        ordered: whether clients are to take a stream's batches in the order of their numbers.
    """

    def __init__(
        self,
        sources: list[Source],
        slots: int,
        memory_bytes: int,
        max_retries: int = 2,
        seed: int = 0,
        on_divergence: str = "single",
        probing: bool = True,
        ordered: bool = False,
    ) -> None:
        self.sources = sources
        self.slots = [Slot() for _ in range(slots)]
        self.sessions: dict[bytes, Session] = {}
        self.ledger = Ledger()
        self.made_batches = self.made_bytes = 0
        self.made_seconds = 0.0  # that workers took, in sum
        self.awake = slots
        self.congested: Collection[bytes] = ()  # clients for which nothing is made at present, see `Gate.congested`
        self.compression: tuple[str, ...] = ()  # how batches may be packed
        self.forced = False  # and are, however quick the line is
        self.lines: Mapping[bytes, int] = {}  # bytes per second to clients whose line is the limit, see line.py
        self.retried = self.given_up = 0
        self.draining = False
        self._names = {s.name: i for i, s in enumerate(sources)}
        self._memory = memory_bytes
        self._max_retries = max_retries
        self._seed = seed
        self._ordered = ordered
        self._next_task = self._jobs = 0
        self._under_way = 0  # bytes that the tasks under way are expected to make
        self._turn: deque[bytes] = deque()  # sessions with a queue, next first
        self._begun: list[Slot] = []
        self.trials = Trials(sources, self.ledger, on_divergence, probing)

    # ------------------------------------------------------------------------------------------------------------- clients

    def open(self, client: bytes, message: m.Open) -> list[Action]:
        """A client begins a session, or takes it up again on a new connection."""
        source = self._names.get(message.source)
        if source is None:
            names = ", ".join(sorted(self._names))
            text = f"this server has no source {message.source!r}; it serves: {names}"
            return [Send(client, m.Refuse("SourceNotFound", text))]
        if message.session in (PROBE, self.trials.void.id):
            return [Send(client, m.Refuse("ProtocolError", "that session is the server's own: take 16 random bytes"))]
        session = self.sessions.get(message.session)
        out: list[Action] = []
        if session is not None and session.source != source:
            out = self._close(session)
            session = None
        if session is None:
            session = self.sessions[message.session] = Session(message.session, source, client, message.maps)
        session.client, session.maps, session.opened = client, message.maps, False
        session.unpacks, session.near = message.unpacks, message.near
        return out + self._answer_open(session)

    def ask(self, client: bytes, message: m.Ask) -> list[Action]:
        """Work. What was asked for already and is still under way is not made twice."""
        session = self.sessions.get(message.session)
        if session is None or session.client != client:
            return [Send(client, m.Unknown(message.session))]
        out: list[Action] = []
        if self.draining and self.sources[session.source].kind == "indexed":
            return self._hand_back(session, message)
        if self.sources[session.source].kind == "stream":
            if message.epoch < session.run:
                return [Send(client, m.Ended(session.id, message.epoch, i)) for i in message.indices]
            if message.epoch > session.run:
                out += self._say_ended(session, session.begin_run(message.epoch))
        if message.epoch > 0:
            out += self._settled(self.trials.forget(session.source))
        for index in message.indices:
            key = (message.epoch, index)
            if key not in session.wanted:
                session.wanted.add(key)
                if (held := self.trials.take(session.source, key)) is not None:
                    out += self._deliver(session, key, held)
                elif key not in session.making:
                    session.queue.append(key)
        self._enqueue(session)
        return out + self._say_ended(session, session.past_the_end(self.sources[session.source]))

    def cancel(self, client: bytes, message: m.Cancel) -> list[Action]:
        """Forget what is queued or under way for epochs below the one named; of a stream everything, for another run may come next."""
        session = self.sessions.get(message.session)
        if session is not None and session.client == client:
            if self.sources[session.source].kind == "stream":
                return self._rewind(session)
            session.queue = deque(k for k in session.queue if k[0] >= message.epoch)
            session.wanted = {k for k in session.wanted if k[0] >= message.epoch}
            session.tries = {k: tries for k, tries in session.tries.items() if k[0] >= message.epoch}
        return []

    def _rewind(self, session: Session) -> list[Action]:
        session.rewind(self.slots, self.trials.void)
        return self._drop(session)

    def hello(self, client: bytes, message: m.Hello) -> list[Action]:
        """A client connected, perhaps again: blocks that were on their way to it when the connection broke come back."""
        lost = set(self.ledger.held_by(client)).difference(message.holds)
        return self._settled(self.ledger.settle(lost, client))

    def release(self, client: bytes, message: m.Release) -> list[Action]:
        """A client is done with blocks."""
        return self._settled(self.ledger.settle(message.blocks, client))

    def close(self, client: bytes, message: m.Close) -> list[Action]:
        """A session ends."""
        session = self.sessions.get(message.session)
        return self._close(session) if session is not None and session.client == client else []

    def client_lost(self, client: bytes) -> list[Action]:
        """A client left, or its lease ran out: blocks it holds are never written again, for it may still look at them."""
        out: list[Action] = []
        for session in [s for s in self.sessions.values() if s.client == client]:
            out += self._close(session)
        return out + self._settled(self.ledger.settle(self.ledger.held_by(client), client, seen=False))

    def drain(self) -> tuple[list[Action], int, int]:
        """Begin nothing new. Returns what to do, how many batches are under way, and how many go back to their clients.

        What is asked of a stream stays: nobody else has it, and it will be asked of the node that comes in this one's place.
        """
        self.draining = True
        out: list[Action] = []
        given = 0
        for session in self.sessions.values():
            if self.sources[session.source].kind != "indexed":
                continue
            out.append(Send(session.client, m.HandedBack(session.id, 0, ())))  # at least a word, so that nothing more is asked
            for epoch, index in session.queue:
                session.answered((epoch, index))
                out.append(Send(session.client, m.HandedBack(session.id, epoch, (index,))))
            given += len(session.queue)
            session.queue.clear()
        return out, self._left(), given

    def _hand_back(self, session: Session, message: m.Ask) -> list[Action]:
        keys = {(message.epoch, index) for index in message.indices}
        session.wanted |= keys & session.making
        back = sorted(keys - session.making)
        return [Send(session.client, m.HandedBack(session.id, message.epoch, tuple(index for _, index in back)))]

    @property
    def busy(self) -> bool:
        """Is something under way that a client waits for?"""
        return self._left() > 0

    def _left(self) -> int:
        return sum(self._waits_for(job) is not None for slot in self.slots for job in slot.jobs.values())

    # ------------------------------------------------------------------------------------------------------------- workers

    def joined(self, slot: int, generation: int) -> list[Action]:
        """A worker process reported for duty; it is given work once it has loaded the sources."""
        self.slots[slot].generation = generation
        self.ledger.started(slot, generation)
        return []

    def loaded(self, slot: int, message: w.Loaded) -> list[Action]:
        """A worker loaded one source."""
        source = self.sources[message.source]
        first = not source.kind
        if first:
            source.kind, source.num_batches, source.sharded = message.kind, message.num_batches, message.sharded
            source.code, source.stateful = message.code, message.stateful
        mine = {i for i, s in enumerate(self.sources) if slot in s.slots}
        self.slots[slot].loaded.add(message.source)
        self.slots[slot].ready = self.slots[slot].loaded >= mine
        out: list[Action] = []
        if first:
            for session in self.sessions.values():
                if session.source == message.source:
                    out += self._answer_open(session)
        length = None if message.num_batches < 0 else message.num_batches
        probe = self.trials.probes[message.source]
        return out + self._steps(message.source, probe.loaded(slot, stream=message.kind == "stream", length=length))

    def made(self, slot: int, message: w.Made | w.MadeBlock) -> list[Action]:
        """A batch is ready."""
        job = self._finish(slot, message.task)
        block = message.block if isinstance(message, w.MadeBlock) else None
        if job is not None and job.session.id == PROBE:
            return self._tried(slot, job, message)
        session = self._waits_for(job)
        if job is None or session is None:
            return [Tell(slot, w.Free((block,)))] if block else []  # cancelled, or its session is gone
        self._learn(session.source, message)
        if job.key in session.making:  # another worker is at it too
            self._hedge_answered(job)
        if block:
            self.ledger.lend(block, size_of(message), SENDER)
        return self._deliver(session, job.key, message)

    def _learn(self, number: int, message: w.Made | w.MadeBlock) -> None:
        source = self.sources[number]
        self.made_seconds += message.seconds
        source.seconds = message.seconds if source.seconds == 0 else 0.8 * source.seconds + 0.2 * message.seconds
        source.recent.append(message.seconds)
        source.nbytes = max(size_of(message), int(0.9 * source.nbytes))

    def _deliver(self, session: Session, key: Key, message: w.Made | w.MadeBlock) -> list[Action]:
        """Send a batch to the client; a block of it is in the ledger already."""
        session.answered(key)
        self.made_batches += 1
        epoch, index = key
        if isinstance(message, w.Made):
            self.made_bytes += len(message.data)
            answer = m.Inline(session.id, epoch, index, message.head, message.data, message.seconds)
            return [Send(session.client, answer)]
        self.made_bytes += message.nbytes
        self.ledger.pass_on(message.block, session.client if session.maps else SENDER)
        lent = m.Lent(session.id, epoch, index, message.head, message.block, message.size, message.nbytes, message.seconds)
        return [Send(session.client, lent) if session.maps else Ship(session.client, lent)]

    def shipped(self, block: str) -> list[Action]:
        """The socket is done with a block's bytes."""
        return self._settled(self.ledger.settle((block,), SENDER))

    def failed(self, slot: int, task: int, error: RemoteError) -> list[Action]:
        """The user's code raised: the client is told, nothing is tried again, for it would raise again."""
        job = self._finish(slot, task)
        if job is not None and job.session.id == PROBE:
            return self._try_failed(slot, job, error)
        session = self._waits_for(job)
        if job is None or session is None:
            return []
        session.answered(job.key)
        return [Send(session.client, m.Failed(session.id, *job.key, error))]

    def ended(self, slot: int, task: int) -> list[Action]:
        """This worker's part of a stream's run has no batch at that place, nor at a later one."""
        job = self._finish(slot, task)
        session = self._waits_for(job)
        if job is None or session is None:
            return []
        source = self.sources[session.source]
        if source.kind != "stream":  # its session was dropped, and opened again meanwhile
            return self._requeue(session, job.key)
        if job.key[0] == session.run:
            session.end_part(source, job.key[1])
        session.answered(job.key)
        return self._say_ended(session, [job.key, *session.past_the_end(source)])

    def worker_lost(self, slot: int, why: str, at: int | None = None) -> list[Action]:
        """A worker died. What it held is made by others; the task it was `at` is counted against that batch.

        `at` is what its beacon said: a task, or one that it doesn't hold (it was idle). None: not known, then it was the first.
        """
        place = self.slots[slot]
        guilty = next(iter(place.jobs), None) if at is None else at
        jobs, generation = [(task, self._finish(slot, task)) for task in list(place.jobs)], place.generation
        self.slots[slot] = Slot()
        self.ledger.gone(slot)
        out = self._trier_lost(slot, [job for _, job in jobs if job is not None and job.session.id == PROBE])
        # The others were waiting, or finished and not yet reported, and are not to blame.
        for task, job in reversed(jobs):
            session = self._waits_for(job)
            if job is None or session is None:
                continue
            if task == guilty:
                session.tries[job.key] = session.tries.get(job.key, 0) + 1
            if job.key in session.making:
                continue  # a second worker is at it
            tries = session.tries.get(job.key, 0)
            if tries > self._max_retries:
                session.answered(job.key)
                self.given_up += 1
                text = f"the worker that made it died {tries} times; the last time: {why:.{MAX_WHY}}"
                error = RemoteError("WorkerCrashed", "WorkerCrashed", (), text, "", f"worker {slot}")
                out.append(Send(session.client, m.Failed(session.id, *job.key, error)))
                continue
            self.retried += 1
            out += self._requeue(session, job.key)
        if generation >= 0:
            out.append(Bury(slot, generation, tuple(self.ledger.names_of(slot, generation))))
        return out

    # ------------------------------------------------------------------------------------------------------------- helpers

    def _answer_open(self, session: Session) -> list[Action]:
        source = self.sources[session.source]
        if session.opened or not source.kind:
            return []
        session.opened = True
        about = (source.kind, source.num_batches, self.workers_of(session.source), self._seed, remarks(source), source.code)
        opened = m.Opened(session.id, *about, self._ordered and source.kind == "stream")
        return [Send(session.client, opened), Send(session.client, self.trials.verdict(session))]

    def _enqueue(self, session: Session) -> None:
        if session.queue and session.id not in self._turn:
            self._turn.append(session.id)

    def _finish(self, slot: int, task: int) -> Job | None:
        place = self.slots[slot]
        job = place.jobs.pop(task, None)
        if job is not None:
            if place.jobs:
                self._begun.append(place)
            self._jobs -= 1
            self._under_way -= job.nbytes
            job.session.finished(job.key)
        return job

    def _waits_for(self, job: Job | None) -> Session | None:
        """The session that still wants this job's batch."""
        if job is None or self.sessions.get(job.session.id) is not job.session or job.key not in job.session.wanted:
            return None
        return job.session

    def _requeue(self, session: Session, key: Key) -> list[Action]:
        """Somebody else must make it, if nobody is at it already; of a stream's run that was left behind nobody can."""
        if self.sources[session.source].kind == "stream" and key[0] != session.run:
            session.answered(key)
            return self._say_ended(session, [key])
        if key in session.making:
            return []
        if self.draining and self.sources[session.source].kind == "indexed":
            session.answered(key)
            return [Send(session.client, m.HandedBack(session.id, key[0], (key[1],)))]
        session.queue.appendleft(key)
        self._enqueue(session)
        return []

    def _say_ended(self, session: Session, keys: list[Key]) -> list[Action]:
        return [Send(session.client, m.Ended(session.id, *key)) for key in keys]

    def _close(self, session: Session) -> list[Action]:
        del self.sessions[session.id]
        return self._drop(session)

    def _drop(self, session: Session) -> list[Action]:
        return [Tell(i, w.Drop(session.id)) for i in sorted(self.sources[session.source].slots) if self.slots[i].generation >= 0]
