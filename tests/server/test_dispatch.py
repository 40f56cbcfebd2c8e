"""Who makes which batch: any order of events against a model of clients, workers and blocks; and the rules one by one."""

from __future__ import annotations

import itertools
from collections import Counter, deque
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from feeder_server.dispatch import MAX_WHY, Dispatch
from feeder_server.probe import Step
from feeder_server.scheduling import AHEAD_SECONDS, HEDGE_FACTOR, HEDGE_SAMPLES, HEDGE_SECONDS, MAX_DEPTH, QUEUE_SECONDS, SLOW_SECONDS
from feeder_server.work import Action, Assign, Bury, Key, Remove, Send, Session, Ship, Source, Tell, slots_of
from feeder_wire import messages as m
from feeder_wire import worker_messages as w
from feeder_wire.errors import RemoteError

SETTINGS = settings(deadline=None, database=None, max_examples=120, stateful_step_count=60)
MANY = 1 << 40
OOPS = RemoteError("SourceError", "ValueError", ("ValueError",), "oops", "")


def a_client(number: int) -> bytes:
    return b"client" + bytes(9) + bytes([number])


def a_session(number: int) -> bytes:
    return b"session" + bytes(8) + bytes([number])


# ------------------------------------------------------------------------------------------------------------- a model


@dataclass
class Spec:
    """A source. Of a stream `length` batches a slot."""

    kind: str
    slots: frozenset[int]
    sharded: bool = False
    length: int = 0


@dataclass
class Wanting:
    """A session as its client sees it."""

    source: int
    client: int
    maps: bool
    born: int  # tells it from an earlier one with the same id
    wanted: set[Key] = field(default_factory=set)
    run: int = 0
    tickets: int = 0


@dataclass
class Process:
    """A worker as the real one behaves: one task after the other, and every task is reported."""

    generation: int
    tasks: deque[w.Task] = field(default_factory=deque)
    drawn: dict[bytes, tuple[int, int]] = field(default_factory=dict)  # session -> (run, batches drawn)
    dropped: set[int] = field(default_factory=set)  # tasks it was at when their session was dropped: drawn before, reported after
    free: set[str] = field(default_factory=set)
    blocks: int = 0


class Uncompared(Dispatch):
    """Without the comparison of copies, which has its own tests (test_comparing.py), and without the word about it."""

    def _answer_open(self, session: Session) -> list[Action]:
        return _less_verdicts(super()._answer_open(session))

    def _steps(self, number: int, steps: list[Step]) -> list[Action]:
        return _less_verdicts(super()._steps(number, steps))


def _less_verdicts(actions: list[Action]) -> list[Action]:
    return [a for a in actions if not (isinstance(a, Send) and isinstance(a.message, m.Verdict))]


class DispatchMachine(RuleBasedStateMachine):
    """See the module."""

    @initialize(
        slots=st.integers(1, 3),
        kinds=st.lists(st.sampled_from(["indexed", "stream", "sharded"]), min_size=1, max_size=3),
        single=st.booleans(),
        length=st.integers(0, 4),
        memory=st.sampled_from([1, 1000, 3000, MANY]),
        retries=st.integers(0, 2),
        known=st.booleans(),
        drains=st.booleans(),
    )
    def begin(self, slots: int, kinds: list[str], single: bool, length: int, memory: int, retries: int, known: bool, drains: bool) -> None:
        self.begin_with(slots, kinds, single, length, memory, retries, known, drains)

    def begin_with(
        self, slots: int, kinds: list[str], single: bool, length: int, memory: int, retries: int, known: bool, drains: bool
    ) -> None:
        """Build it."""
        sources = slots_of([f"{i}" for i in range(len(kinds))], slots, single)
        self.specs = [
            Spec("indexed" if k == "indexed" else "stream", s.slots, k == "sharded", length) for k, s in zip(kinds, sources, strict=True)
        ]
        self.memory, self.retries = memory, retries
        for source in sources if known else ():  # what a batch takes, so that some are overdue
            source.recent.extend([0.01] * HEDGE_SAMPLES)
        self.d = Uncompared(sources, slots, memory, retries, probing=False)
        self.workers: dict[int, Process] = {}
        self.generations = itertools.count()
        self.births = itertools.count()
        self.sessions: dict[bytes, Wanting] = {}
        self.lent: dict[str, tuple[int, bytes]] = {}  # block -> size, reader; b"": the socket
        self.dead: set[str] = set()  # files that were removed, or must never be written again
        self.given: Counter[tuple[int, int, int, int]] = Counter()  # sharded: (session, run, slot, number)
        self.disturbed: set[tuple[int, int]] = set()  # (session, run) left before its end
        self.task_of: dict[int, w.Task] = {}
        self.now = 0.0
        self.drains, self.drained = drains, False
        for slot in range(slots):
            self.join(slot)

    # ------------------------------------------------------------------------------------------- what it says to do

    def act(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Assign():
                    self.take_task(action.slot, action.task)
                case Send():
                    self.take_answer(action.client, action.message)
                case Ship():
                    self.answered(action.client, action.lent)
                    self.lent[action.lent.block] = (action.lent.size, b"")
                case Tell():
                    self.tell(action.slot, action.message)
                case Remove():
                    for block in action.blocks:
                        assert self.process_of(block) is None, "its worker lives and could write it again"
                        assert block not in self.lent_now()
                        self.dead.add(block)
                case Bury():
                    mine = {b for b in self.lent_now() if b.split("-")[1:3] == [str(action.slot), str(action.generation)]}
                    assert set(action.keep) == mine

    def lent_now(self) -> set[str]:
        return {b for b in self.lent if b in self.d.ledger._held}

    def process_of(self, block: str) -> Process | None:
        _, slot, generation, _ = block.split("-")
        worker = self.workers.get(int(slot))
        return worker if worker and worker.generation == int(generation) else None

    def take_task(self, slot: int, task: w.Task) -> None:
        spec, session = self.specs[task.source], self.sessions[task.copy]
        worker = self.workers[slot]
        assert slot in spec.slots
        assert session.source == task.source
        key = (task.epoch, task.index)
        assert key in session.wanted, "work that nobody asked for"
        if spec.kind == "stream":
            assert task.epoch == session.run
            assert slot == sorted(spec.slots)[task.index % len(spec.slots)], "another worker's part"
        worker.tasks.append(task)
        self.task_of[task.task] = task

    def take_answer(self, client: bytes, message: m.ToClient) -> None:
        match message:
            case m.Lent():
                self.answered(client, message)
                assert message.block not in self.lent_now() - {message.block}
                self.lent[message.block] = (message.size, client)
            case m.Inline():
                self.answered(client, message)
            case m.Failed():
                self.answered(client, message)
                assert message.error.kind in ("SourceError", "WorkerCrashed")
            case m.HandedBack():
                assert self.drained
                session = self.sessions[message.session]
                assert client == a_client(session.client)
                assert self.specs[session.source].kind == "indexed"
                for index in message.indices:
                    session.wanted.remove((message.epoch, index))
            case m.Ended():
                self.answered(client, message)
                session = self.sessions[message.session]
                spec = self.specs[session.source]
                assert spec.kind == "stream"
                if message.epoch == session.run:
                    slot = sorted(spec.slots)[message.index % len(spec.slots)]
                    place = message.index // len(spec.slots)
                    assert place >= self.d.sessions[message.session].over[slot]
                    if spec.sharded:
                        assert place >= spec.length, "there is such a batch"

    def answered(self, client: bytes, message: m.Inline | m.Lent | m.Failed | m.Ended) -> None:
        session = self.sessions[message.session]
        assert client == a_client(session.client)
        key = (message.epoch, message.index)
        assert key in session.wanted, "answered twice, or never asked for"
        session.wanted.remove(key)
        head = getattr(message, "head", None)
        spec = self.specs[session.source]
        if head is not None and spec.sharded:
            slot, run, number = map(int, head.split())
            assert run == message.epoch
            assert (slot, number) == (sorted(spec.slots)[message.index % len(spec.slots)], message.index // len(spec.slots))
            self.given[(session.born, run, slot, number)] += 1
            if run == session.run:
                assert self.given[(session.born, run, slot, number)] == 1, "a batch of the stream came twice"

    def tell(self, slot: int, message: w.ToWorker) -> None:
        worker = self.workers[slot]
        match message:
            case w.Free():
                for block in message.blocks:
                    assert self.process_of(block) is worker
                    assert block not in self.dead
                    assert block not in self.lent_now(), "somebody reads it"
                    worker.free.add(block)
                    self.lent.pop(block, None)
            case w.Retire():
                for block in message.blocks:
                    assert self.process_of(block) is worker
                    self.dead.add(block)
            case w.Drop():
                worker.drawn.pop(message.session, None)
                worker.dropped |= {t.task for t in list(worker.tasks)[:1] if t.copy == message.session}
                for task in [t for t in list(worker.tasks)[1:] if t.copy == message.session]:
                    worker.tasks.remove(task)
                    self.act(self.d.ended(slot, task.task))

    # ------------------------------------------------------------------------------------------------------- clients

    @rule(number=st.integers(0, 3), client=st.integers(0, 1), data=st.data(), maps=st.booleans())
    def open(self, number: int, client: int, data: st.DataObject, maps: bool) -> None:
        source = data.draw(st.integers(0, len(self.specs) - 1))
        id_ = a_session(number)
        old = self.sessions.get(id_)
        if old is None or old.source != source:
            self.sessions[id_] = Wanting(source, client, maps, next(self.births))
        else:
            old.client, old.maps = client, maps
        self.act(self.d.open(a_client(client), m.Open(id_, f"{source}", maps)))

    @precondition(lambda self: self.sessions)
    @rule(data=st.data(), count=st.integers(1, 5), epoch=st.integers(0, 2), next_run=st.integers(0, 5))
    def ask(self, data: st.DataObject, count: int, epoch: int, next_run: int) -> None:
        id_ = data.draw(st.sampled_from(sorted(self.sessions)))
        session = self.sessions[id_]
        spec = self.specs[session.source]
        if spec.kind == "indexed":
            indices = tuple(data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=count)))
        else:
            if next_run == 0:
                self.disturbed.add((session.born, session.run))
                session.run, session.tickets = session.run + 1, 0
            elif next_run == 1 and session.run:  # of a run gone by: the client must be told so
                key = (session.run - 1, 999)
                session.wanted.add(key)
                self.act(self.d.ask(a_client(session.client), m.Ask(id_, key[0], (999,))))
                assert key not in session.wanted
            epoch = session.run
            indices = tuple(range(session.tickets, session.tickets + count))
            session.tickets += count
        session.wanted |= {(epoch, i) for i in indices}
        self.act(self.d.ask(a_client(session.client), m.Ask(id_, epoch, indices)))

    @rule(data=st.data(), number=st.integers(0, 3), epoch=st.integers(0, 2))
    def ask_and_assign(self, data: st.DataObject, number: int, epoch: int) -> None:
        """What mostly happens. Without it the rules that end something would leave the machine with nothing to do."""
        if not self.sessions:
            self.open(number=number, client=0, data=data, maps=True)
        for slot in range(len(self.d.slots)):
            self.join(slot=slot)
        self.ask(data=data, count=2, epoch=epoch, next_run=5)
        self.assign()

    @rule(data=st.data(), number=st.integers(0, 3), seconds=st.sampled_from([0.01, 0.3, 5.0]))
    def ask_and_wait(self, data: st.DataObject, number: int, seconds: float) -> None:
        """One worker is at something, and time passes."""
        self.ask_and_assign(data=data, number=number, epoch=0)
        self.now += seconds
        self.hedge()

    @rule(number=st.integers(0, 4), client=st.integers(0, 2))
    def ask_for_what_is_another_s(self, number: int, client: int) -> None:
        session = self.sessions.get(a_session(number))
        if session is None or session.client != client:
            answer = self.d.ask(a_client(client), m.Ask(a_session(number), 0, (0,)))
            assert answer == [Send(a_client(client), m.Unknown(a_session(number)))]
            assert self.d.close(a_client(client), m.Close(a_session(number))) == []
            assert self.d.cancel(a_client(client), m.Cancel(a_session(number), 99)) == []

    @precondition(lambda self: any(self.specs[s.source].kind == "indexed" for s in self.sessions.values()))
    @rule(data=st.data(), epoch=st.integers(0, 3))
    def cancel(self, data: st.DataObject, epoch: int) -> None:
        ids = sorted(i for i, s in self.sessions.items() if self.specs[s.source].kind == "indexed")
        id_ = data.draw(st.sampled_from(ids))
        session = self.sessions[id_]
        session.wanted = {k for k in session.wanted if k[0] >= epoch}
        self.act(self.d.cancel(a_client(session.client), m.Cancel(id_, epoch)))

    @precondition(lambda self: self.sessions)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        id_ = data.draw(st.sampled_from(sorted(self.sessions)))
        session = self.sessions.pop(id_)
        self.act(self.d.close(a_client(session.client), m.Close(id_)))

    @rule(client=st.integers(0, 1))
    def lose_client(self, client: int) -> None:
        held = {b for b, (_, reader) in self.lent.items() if reader == a_client(client)} & self.lent_now()
        self.sessions = {i: s for i, s in self.sessions.items() if s.client != client}
        self.act(self.d.client_lost(a_client(client)))
        for block in held:
            assert block in self.dead, "given back to be written, and the lost client may still look at it"
            assert block not in self.lent_now()

    @precondition(lambda self: self.lent)
    @rule(data=st.data(), client=st.integers(0, 1))
    def release(self, data: st.DataObject, client: int) -> None:
        block = data.draw(st.sampled_from(sorted(self.lent)))
        held = block in self.lent_now()
        mine = self.lent[block][1] == a_client(client)
        self.act(self.d.release(a_client(client), m.Release((block,))))
        assert (block in self.lent_now()) == (held and not mine)

    @rule(client=st.integers(0, 1), data=st.data())
    def connect_again(self, client: int, data: st.DataObject) -> None:
        mine = sorted(b for b in self.lent_now() if self.lent[b][1] == a_client(client))
        holds = tuple(b for b in mine if data.draw(st.booleans()))
        sending = {b for b in self.lent_now() if self.lent[b][1] == b""}
        self.act(self.d.hello(a_client(client), m.Hello(m.WIRE_VERSION, a_client(client), "", holds)))
        assert {b for b in self.lent_now() if self.lent[b][1] == a_client(client)} == set(holds)
        assert sending <= self.lent_now(), "the socket still reads it"

    @precondition(lambda self: any(reader == b"" for _, reader in self.lent.values()))
    @rule(data=st.data())
    def shipped(self, data: st.DataObject) -> None:
        block = data.draw(st.sampled_from(sorted(b for b, (_, reader) in self.lent.items() if reader == b"")))
        self.act(self.d.shipped(block))
        assert block not in self.lent_now()

    # ------------------------------------------------------------------------------------------------------- workers

    @rule()
    def assign(self) -> None:
        jobs = Counter({slot: len(place.jobs) for slot, place in enumerate(self.d.slots)})
        under_way = sum(job.nbytes for place in self.d.slots for job in place.jobs.values())
        actions = self.d.assign(self.now)
        assert not (actions and self.drained), "nothing new is begun"
        for action in actions:
            assert isinstance(action, Assign)
            source = self.d.sources[action.task.source]
            assert self.d.slots[action.slot].ready
            depth, place = self.d.depth(source), self.d.slots[action.slot]
            if jobs[action.slot] < depth:
                pass
            else:
                assert jobs[action.slot] == depth == 1, "deeper than its batches are quick"
                usual = self.d.sources[next(iter(place.jobs.values())).session.source].seconds
                assert abs(place.since + usual - self.now) <= QUEUE_SECONDS, "it is not about to end what it is at"
            assert not jobs.total() or self.held() + under_way + source.nbytes <= self.memory, "over the cap"
            jobs[action.slot] += 1
            under_way += source.nbytes
        self.act(actions)
        assert self.d.assign(self.now) == [], "it could have been handed out at once"

    @rule(seconds=st.sampled_from([0.01, 0.3, 5.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def hedge(self) -> None:
        idle = {number for number, slot in enumerate(self.d.slots) if slot.ready and not slot.jobs}
        under_way = Counter((job.session.id, job.key) for slot in self.d.slots for job in slot.jobs.values())
        room = self.memory - self.held() - self.d._under_way
        actions, said = self.d.hedge(self.now)
        assert len(actions) == len(said)
        assert not (actions and self.drained), "nothing new is begun"
        for action, one in zip(actions, said, strict=True):
            assert isinstance(action, Assign)
            assert action.slot in idle, "it has something better to do"
            idle.remove(action.slot)
            assert one.age >= HEDGE_SECONDS
            assert one.age >= HEDGE_FACTOR * one.usual
            assert under_way[action.task.copy, (action.task.epoch, action.task.index)] == 1, "by two at most"
            room -= self.d.sources[action.task.source].nbytes
            assert room >= 0
            assert self.specs[action.task.source].kind == "indexed"
        self.act(actions)
        at = self.d.hedge_at
        assert at is None or at > self.now

    @precondition(lambda self: self.drains and not self.drained)
    @rule()
    def drain(self) -> None:
        self.drained = True
        asked = sum(len(s.queue) for s in self.d.sessions.values() if self.d.sources[s.source].kind == "indexed")
        actions, left, given = self.d.drain()
        assert given == asked
        assert left == sum(self.d._waits_for(job) is not None for slot in self.d.slots for job in slot.jobs.values())
        told = {a.message.session for a in actions if isinstance(a, Send) and isinstance(a.message, m.HandedBack)}
        assert told == {i for i, s in self.sessions.items() if self.d.sources[s.source].kind == "indexed"}
        self.act(actions)

    def held(self) -> int:
        return sum(size for block, (size, _) in self.lent.items() if block in self.lent_now())

    @precondition(lambda self: any(p.tasks for p in self.workers.values()))
    @rule(
        data=st.data(),
        outcome=st.sampled_from(["inline", "block", "block", "fail"]),
        size=st.sampled_from([10, 900, 5000]),
        seconds=st.sampled_from([0.0, 1e-4, 1e-3, 1.0]),
    )
    def work(self, data: st.DataObject, outcome: str, size: int, seconds: float) -> None:
        self.make(data.draw(st.sampled_from(sorted(s for s, p in self.workers.items() if p.tasks))), outcome, size, seconds)

    def make(self, slot: int, outcome: str, size: int, seconds: float) -> None:
        worker = self.workers[slot]
        task = worker.tasks.popleft()
        spec = self.specs[task.source]
        head = b""
        if outcome == "fail":
            self.act(self.d.failed(slot, task.task, OOPS))
            return
        if spec.kind == "stream" and task.task not in worker.dropped:
            run, drawn = worker.drawn.get(task.copy, (task.epoch, 0))
            assert task.epoch >= run, "a run that its worker has left behind"
            drawn = drawn if task.epoch == run else 0
            if spec.sharded:
                drawn = task.index // len(spec.slots)  # it replays, or goes on
            if drawn >= spec.length:
                worker.drawn[task.copy] = (task.epoch, drawn)
                self.act(self.d.ended(slot, task.task))
                return
            worker.drawn[task.copy] = (task.epoch, drawn + 1)
            head = f"{slot} {task.epoch} {drawn}".encode()
        if outcome == "inline":
            self.act(self.d.made(slot, w.Made(task.task, head, bytes(size), seconds)))
            return
        if worker.free:
            block = worker.free.pop()
        else:
            worker.blocks += 1
            block = f"0-{slot}-{worker.generation}-{worker.blocks}"
        assert block not in self.dead
        assert block not in self.lent_now()
        self.act(self.d.made(slot, w.MadeBlock(task.task, head, block, size, size // 2, seconds)))

    @precondition(lambda self: self.workers)
    @rule(data=st.data())
    def kill(self, data: st.DataObject) -> None:
        slot = data.draw(st.sampled_from(sorted(self.workers)))
        self.workers.pop(slot)
        self.act(self.d.worker_lost(slot, "killed"))

    @rule(slot=st.integers(0, 2))
    def join(self, slot: int) -> None:
        if slot >= len(self.d.slots) or slot in self.workers:
            return
        self.workers[slot] = Process(next(self.generations))
        self.act(self.d.joined(slot, self.workers[slot].generation))
        for number, spec in enumerate(self.specs):
            if slot in spec.slots:
                self.act(self.d.loaded(slot, w.Loaded(number, spec.kind, -1, spec.sharded)))

    # --------------------------------------------------------------------------------------------------------- always

    @invariant()
    def the_books_agree(self) -> None:
        if not hasattr(self, "d"):
            return
        assert set(self.d.sessions) == set(self.sessions)
        for id_, session in self.sessions.items():
            known = self.d.sessions[id_]
            assert known.wanted == session.wanted
            under_way = Counter(job.key for place in self.d.slots for job in place.jobs.values() if job.session is known)
            assert {key for key, times in under_way.items() if times > 1} == known.twice, "one batch made twice at a time"
            assert max(under_way.values(), default=0) <= 2
            assert set(under_way) == known.making
            assert len(set(known.queue)) == len(known.queue)
            assert not set(known.queue) & known.making
            assert session.wanted == set(known.queue) | (known.making & session.wanted), "asked for, and forgotten"
            assert set(known.tries) <= known.wanted
            if known.queue:
                assert id_ in self.d._turn
        for slot, place in enumerate(self.d.slots):
            tasks = [t.task for t in self.workers[slot].tasks] if slot in self.workers else []
            assert list(place.jobs) == tasks
        assert self.d.ledger.held_bytes == self.held() == sum(size for size, _ in self.d.ledger._held.values())
        assert self.d._under_way == sum(job.nbytes for place in self.d.slots for job in place.jobs.values())
        assert self.d._jobs == sum(len(place.jobs) for place in self.d.slots)

    def teardown(self) -> None:
        """With workers that live and answer, every request is answered; of one that is being stopped, all that was begun."""
        if not hasattr(self, "d"):
            return
        for slot in range(len(self.d.slots)):
            self.join(slot)
        for _ in range(2000):
            if not any(s.wanted for s in self.sessions.values()) or (self.drained and not self.d.busy):
                break
            self.assign()
            busy = [slot for slot, p in self.workers.items() if p.tasks]
            assert busy, "requests are waiting, and nobody works"
            for slot in busy:
                self.make(slot, "block", 2000, 0.01)
            self.the_books_agree()
        assert not any(s.wanted for s in self.sessions.values() if not self.drained or self.specs[s.source].kind == "indexed")
        for client in (0, 1):
            self.lose_client(client)
        for block in [b for b in self.lent_now()]:
            self.act(self.d.shipped(block))
        assert self.d.ledger.held_bytes == len(self.d.ledger) == 0


class Overdue(DispatchMachine):
    """With batches that are given to a second worker: the sources are such that it may happen often."""

    @initialize(
        slots=st.integers(2, 3),
        streams=st.booleans(),
        memory=st.sampled_from([3000, MANY, MANY]),
        retries=st.integers(0, 2),
        drains=st.sampled_from([False, False, True]),
    )
    def begin(self, slots: int, streams: bool, memory: int, retries: int, drains: bool) -> None:  # type: ignore[override]
        kinds = ["indexed", "stream"] if streams else ["indexed"]
        self.begin_with(slots, kinds, False, 4, memory, retries, True, drains)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("machine", [DispatchMachine, Overdue])
def test_any_order_of_events(machine: type[DispatchMachine]) -> None:
    run_state_machine_as_test(machine, settings=SETTINGS)


# --------------------------------------------------------------------------------------------------------- rule by rule


class Bench:
    """A dispatcher with its workers up, and short ways to talk to it."""

    def __init__(self, *kinds: str, slots: int = 1, memory: int = MANY, retries: int = 2, single: bool = False) -> None:
        self.d = Uncompared(slots_of([f"{i}" for i in range(len(kinds))], slots, single), slots, memory, retries, seed=7, probing=False)
        self.kinds = kinds
        for slot in range(slots):
            self.up(slot, 0)

    def up(self, slot: int, generation: int) -> list[Action]:
        out = self.d.joined(slot, generation)
        for number, kind in enumerate(self.kinds):
            if slot in self.d.sources[number].slots:
                out += self.d.loaded(slot, w.Loaded(number, kind.removeprefix("sharded "), -1, kind.startswith("sharded")))
        return out

    def open(self, session: int, source: int = 0, client: int = 0, maps: bool = True) -> list[Action]:
        return self.d.open(a_client(client), m.Open(a_session(session), f"{source}", maps))

    def ask(self, session: int, *indices: int, epoch: int = 0, client: int = 0) -> list[Action]:
        return self.d.ask(a_client(client), m.Ask(a_session(session), epoch, indices))

    def assigned(self, now: float = 0.0) -> list[tuple[int, bytes, Key]]:
        self.last = [a for a in self.d.assign(now) if isinstance(a, Assign)]
        return [(a.slot, a.task.copy, (a.task.epoch, a.task.index)) for a in self.last]

    def task(self, slot: int = 0) -> int:
        return next(iter(self.d.slots[slot].jobs))

    def inline(self, slot: int = 0, seconds: float = 1.0, size: int = 10) -> list[Action]:
        return self.d.made(slot, w.Made(self.task(slot), b"", bytes(size), seconds))

    def block(self, name: str, slot: int = 0, size: int = 1000, seconds: float = 1.0) -> list[Action]:
        return self.d.made(slot, w.MadeBlock(self.task(slot), b"", name, size, size, seconds))


def sent(actions: list[Action]) -> list[m.ToClient]:
    return [a.message for a in actions if isinstance(a, Send)]


@pytest.mark.parametrize(
    ("maps", "unpacks", "near", "forced", "line", "expected"),
    [
        (False, ("zstd", "snappy"), False, False, 5000, (("zstd",), 5000)),
        (False, ("zstd", "lz4"), False, False, 5000, (("lz4", "zstd"), 5000)),
        (False, ("zstd",), False, False, 0, ((), 0)),  # its line isn't the limit
        (False, ("zstd",), False, True, 0, (("zstd",), 0)),
        (False, ("zstd",), False, True, 5000, (("zstd",), 0)),
        (False, (), False, False, 5000, ((), 5000)),  # it takes nothing of the kind
        (False, ("zstd",), True, False, 5000, ((), 0)),  # there is no line
        (False, ("zstd",), True, True, 5000, (("zstd",), 0)),
        (True, ("zstd",), False, True, 5000, ((), 0)),  # it maps
    ],
)
def test_how_a_batch_may_be_packed(maps: bool, unpacks: tuple[str, ...], near: bool, forced: bool, line: int, expected: object) -> None:
    b = Bench("indexed")
    b.d.compression, b.d.forced, b.d.lines = ("lz4", "zstd"), forced, {a_client(0): line} if line else {}
    b.d.open(a_client(0), m.Open(a_session(0), "0", maps, unpacks, near))
    b.ask(0, 5)
    b.assigned()
    assert [(a.task.methods, a.task.line) for a in b.last] == [expected]


def test_a_source_that_is_not_served() -> None:
    b = Bench("indexed", "stream")
    (answer,) = sent(b.d.open(a_client(0), m.Open(a_session(0), "valid", True)))
    assert isinstance(answer, m.Refuse)
    assert answer.kind == "SourceNotFound"
    assert "'valid'" in answer.text
    assert "0, 1" in answer.text


def test_a_session_is_answered_when_the_source_is_loaded_and_once() -> None:
    b = Bench(slots=2)
    b.d = Uncompared(slots_of(["0"], 2, False), 2, MANY, seed=7, probing=False)
    assert b.open(0) == []
    b.d.joined(0, 0)
    assert sent(b.d.loaded(0, w.Loaded(0, "indexed", 12, False))) == [m.Opened(a_session(0), "indexed", 12, 2, 7, ())]
    b.d.joined(1, 1)
    assert b.d.loaded(1, w.Loaded(0, "indexed", 12, False)) == []
    assert len(sent(b.open(0))) == 1, "taken up again on a new connection"


@pytest.mark.parametrize(
    ("kind", "slots", "single", "notes"), [("stream", 2, False, 1), ("stream", 2, True, 0), ("sharded stream", 2, False, 0)]
)
def test_a_stream_that_is_copied_is_remarked_on(kind: str, slots: int, single: bool, notes: int) -> None:
    (opened,) = sent(Bench(kind, slots=slots, single=single).open(0))
    assert isinstance(opened, m.Opened)
    assert len(opened.notes) == notes


def test_nothing_is_given_to_a_worker_that_has_not_loaded_all_its_sources() -> None:
    b = Bench("indexed", "indexed")
    b.d.worker_lost(0, "")
    b.open(0)
    b.ask(0, 1)
    b.d.joined(0, 1)
    b.d.loaded(0, w.Loaded(0, "indexed", -1, False))
    assert b.assigned() == []
    b.d.loaded(0, w.Loaded(1, "indexed", -1, False))
    assert b.assigned() == [(0, a_session(0), (0, 1))]


def test_sessions_take_turns() -> None:
    b = Bench("indexed")
    for session in range(3):
        b.open(session)
        b.ask(session, *range(100))
    order = []
    for _ in range(30):
        order += [session for _, session, _ in b.assigned()]
        b.inline()
    assert all(set(order[i : i + 3]) == {a_session(0), a_session(1), a_session(2)} for i in range(0, 30, 3))


def test_a_small_session_does_not_wait_behind_a_large_one() -> None:
    b = Bench("indexed", slots=2)
    b.open(0)
    b.ask(0, *range(1000))
    b.assigned()
    b.open(1)
    b.ask(1, 5)
    b.inline(0)
    b.inline(1)
    assert (a_session(1), (0, 5)) in [a[1:] for a in b.assigned()]


@pytest.mark.parametrize(
    ("seconds", "depth"), [(0.0, 1), (1.0, 1), (QUEUE_SECONDS, 2), (QUEUE_SECONDS / 4, 5), (1e-9, MAX_DEPTH), (5e-324, MAX_DEPTH)]
)
def test_depth_follows_the_time_of_a_batch(seconds: float, depth: int) -> None:
    b = Bench("indexed")
    b.open(0)
    b.ask(0, *range(200))
    assert len(b.assigned()) == 1, "nobody knows yet how long one takes"
    b.inline(seconds=seconds)
    b.assigned()
    assert len(b.d.slots[0].jobs) == depth


@pytest.mark.parametrize("kind", ["indexed", "stream"])
def test_a_worker_gets_its_next_slow_batch_shortly_before_it_is_done(kind: str) -> None:
    """Else it has nothing to do until the node has heard of that, and it of the next one."""
    b = Bench(kind)
    b.open(0)
    b.ask(0, *range(10))
    assert len(b.assigned(0.0)) == 1
    assert b.assigned(0.1) == [], "nobody knows what one takes"
    assert b.d.assign_at is None
    b.inline(seconds=0.2)
    for start in (1.0, 2.0, 3.0):
        assert len(b.assigned(start)) == (start == 1.0), "it has one, but the first time"
        assert len(b.d.slots[0].jobs) == 1
        assert b.assigned(start + 0.1) == []
        assert b.d.assign_at == pytest.approx(start + 0.2 - AHEAD_SECONDS)
        assert len(b.assigned(b.d.assign_at)) == 1
        assert b.d.assign_at is None
        assert b.assigned(start + 0.199) == [], "one is enough"
        b.inline(seconds=0.2)


@pytest.mark.parametrize("seconds", [SLOW_SECONDS * 1.01, 2.0, 86400.0])
def test_but_none_that_would_wait_for_long(seconds: float) -> None:
    b = Bench("indexed")
    b.open(0)
    b.ask(0, *range(10))
    b.assigned(0.0)
    b.inline(seconds=seconds)
    b.assigned(1.0)
    assert b.assigned(1.0 + seconds) == []
    assert b.d.assign_at is None


def test_nothing_is_queued_behind_a_batch_that_is_overdue() -> None:
    b = Bench("indexed")
    b.open(0)
    b.ask(0, *range(10))
    b.assigned(0.0)
    b.inline(seconds=0.2)
    b.assigned(1.0)
    assert b.assigned(1.2 + 2 * QUEUE_SECONDS) == []
    assert b.d.assign_at is None
    b.inline(seconds=0.2)
    assert len(b.assigned(3.0)) == 1


def test_who_has_nothing_to_do_comes_before_who_is_nearly_done() -> None:
    b = Bench("indexed", slots=2)
    b.open(0)
    b.ask(0, 0)
    b.assigned(0.0)
    b.inline(seconds=0.2)
    b.ask(0, 1)
    assert b.assigned(1.0) == [(0, a_session(0), (0, 1))]
    b.ask(0, 2, 3)
    assert b.assigned(1.195) == [(1, a_session(0), (0, 2)), (0, a_session(0), (0, 3))]


def test_work_goes_to_the_worker_with_the_least() -> None:
    b = Bench("indexed", slots=3)
    b.open(0)
    b.ask(0, 0)
    b.assigned()
    b.inline(seconds=QUEUE_SECONDS / 3)
    b.ask(0, *range(1, 7))
    assert Counter(slot for slot, _, _ in b.assigned()) == {0: 2, 1: 2, 2: 2}


def test_memory_is_kept_under_its_cap() -> None:
    b = Bench("indexed", slots=4, memory=3000)
    b.open(0)
    b.ask(0, *range(20))
    assert len(b.assigned()) == 4, "nobody knows yet how large one is"
    for slot in range(4):
        b.block(f"0-{slot}-0-1", slot)
    assert b.d.ledger.held_bytes == 4000
    assert len(b.assigned()) == 1, "one task is always allowed"
    b.d.release(a_client(0), m.Release(("0-0-0-1", "0-1-0-1")))
    assert b.assigned() == [], "2000 lent, 1000 under way"
    b.d.release(a_client(0), m.Release(("0-2-0-1",)))
    assert len(b.assigned()) == 1


def test_a_batch_larger_than_the_cap_is_served_alone() -> None:
    b = Bench("indexed", slots=2, memory=10)
    b.open(0)
    b.ask(0, *range(6))
    assert len(b.assigned()) == 2
    b.block("0-0-0-1", 0, size=10**6)
    b.block("0-1-0-1", 1, size=10**6)
    for number in range(2, 6):
        assert len(b.assigned()) == 1
        slot = b.last[0].slot
        b.block(f"0-{slot}-0-{number}", slot, size=10**6)


def test_what_was_asked_for_and_is_under_way_is_not_made_twice() -> None:
    b = Bench("indexed", slots=2)
    b.open(0)
    b.ask(0, 3, 3)
    assert len(b.assigned()) == 1
    b.ask(0, 3)
    b.d.cancel(a_client(0), m.Cancel(a_session(0), 1))
    b.ask(0, 3)
    assert b.assigned() == []
    assert len(sent(b.inline())) == 1
    b.ask(0, 3)
    assert len(b.assigned()) == 1, "asked for again after it was answered: made again"


def test_a_batch_that_was_cancelled_gives_its_block_back() -> None:
    b = Bench("indexed")
    b.open(0)
    b.ask(0, 3)
    b.assigned()
    b.d.cancel(a_client(0), m.Cancel(a_session(0), 1))
    assert b.block("0-0-0-1") == [Tell(0, w.Free(("0-0-0-1",)))]
    assert b.d.made(0, w.MadeBlock(999, b"", "0-0-0-2", 10, 10, 1.0)) == [Tell(0, w.Free(("0-0-0-2",)))]


def test_an_error_of_the_user_s_is_not_tried_again() -> None:
    b = Bench("indexed")
    b.open(0)
    b.ask(0, 3)
    b.assigned()
    assert sent(b.d.failed(0, b.task(), OOPS)) == [m.Failed(a_session(0), 0, 3, OOPS)]
    assert b.assigned() == []


# ---------------------------------------------------------------------------------------------------- workers that die


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_a_poisoned_batch_is_given_up_and_only_it(retries: int) -> None:
    """The worker dies at batch 0 each time, with others waiting behind it."""
    b = Bench("indexed", retries=retries)
    b.open(0)
    b.ask(0, 9)
    b.assigned()
    b.inline(seconds=QUEUE_SECONDS / 3)
    b.ask(0, 0, 1, 2)
    failures = []
    for generation in range(1, retries + 2):
        assert [key for _, _, key in b.assigned()] == [(0, 0), (0, 1), (0, 2)], "in the order asked, the lost ones first"
        failures += sent(b.d.worker_lost(0, "exit code 3"))
        b.up(0, generation)
    (failed,) = failures
    assert isinstance(failed, m.Failed)
    assert (failed.epoch, failed.index, failed.error.kind) == (0, 0, "WorkerCrashed")
    assert f"died {retries + 1} times" in failed.error.message
    assert "exit code 3" in failed.error.message
    assert [key for _, _, key in b.assigned()] == [(0, 1), (0, 2)]
    assert len(sent(b.inline())) == len(sent(b.inline())) == 1
    assert b.d.retried == 3 * (retries + 1) - 1


def test_the_batch_that_a_beacon_names_is_to_blame() -> None:
    b = Bench("indexed", retries=0)
    b.open(0)
    b.ask(0, 9)
    b.assigned()
    b.inline(seconds=QUEUE_SECONDS / 3)
    b.ask(0, 0, 1, 2)
    b.assigned()
    tasks = list(b.d.slots[0].jobs)
    (failed,) = sent(b.d.worker_lost(0, "killed", at=tasks[1]))
    assert isinstance(failed, m.Failed)
    assert failed.index == 1
    b.up(0, 1)
    assert [key for _, _, key in b.assigned()] == [(0, 0), (0, 2)]
    assert sent(b.d.worker_lost(0, "killed", at=999)) == [], "it was idle: nobody is to blame"
    assert sorted(b.d.sessions[a_session(0)].queue) == [(0, 0), (0, 2)]


def test_a_batch_that_another_worker_could_make_begins_anew_the_next_time() -> None:
    b = Bench("indexed", retries=1)
    b.open(0)
    for epoch in range(4):
        b.ask(0, 5)
        b.assigned()
        assert sent(b.d.worker_lost(0, "")) == []
        b.up(0, epoch + 1)
        b.assigned()
        assert len(sent(b.inline())) == 1


def test_last_words_are_told_in_part() -> None:
    b = Bench("indexed", retries=0)
    b.open(0)
    b.ask(0, 0)
    b.assigned()
    (failed,) = sent(b.d.worker_lost(0, "exit code 1; its last lines were: " + "x" * 10**6))
    assert isinstance(failed, m.Failed)
    assert "exit code 1" in failed.error.message
    assert len(failed.error.message) < MAX_WHY + 200


def test_blocks_of_a_dead_worker_stay_until_their_reader_is_done() -> None:
    b = Bench("indexed")
    b.open(0)
    for name in ("0-0-0-1", "0-0-0-2"):
        b.ask(0, 0)
        b.assigned()
        b.block(name)
    assert b.d.release(a_client(0), m.Release(("0-0-0-1",))) == [Tell(0, w.Free(("0-0-0-1",)))]
    assert b.d.worker_lost(0, "") == [Bury(0, 0, ("0-0-0-2",))]
    b.up(0, 1)
    assert b.d.release(a_client(0), m.Release(("0-0-0-2",))) == [Remove(("0-0-0-2",))]
    assert b.d.release(a_client(0), m.Release(("0-0-0-2",))) == []
    assert b.d.ledger.held_bytes == 0


def test_a_worker_that_died_before_it_joined_left_nothing() -> None:
    d = Dispatch(slots_of(["0"], 1, False), 1, MANY)
    assert d.worker_lost(0, "") == []


# ------------------------------------------------------------------------------------------------- clients that vanish


def lent_to_client() -> Bench:
    b = Bench("indexed")
    b.open(0)
    b.ask(0, 0)
    b.assigned()
    assert isinstance(sent(b.block("0-0-0-1"))[0], m.Lent)
    return b


def test_blocks_of_a_lost_client_are_never_written_again() -> None:
    b = lent_to_client()
    assert b.d.client_lost(a_client(0)) == [Tell(0, w.Drop(a_session(0))), Tell(0, w.Retire(("0-0-0-1",)))]
    assert b.d.ledger.held_bytes == 0


def test_blocks_of_a_closed_session_stay_lent() -> None:
    b = lent_to_client()
    assert b.d.close(a_client(0), m.Close(a_session(0))) == [Tell(0, w.Drop(a_session(0)))]
    assert b.d.release(a_client(0), m.Release(("0-0-0-1",))) == [Tell(0, w.Free(("0-0-0-1",)))]


def test_a_client_that_connects_again_gets_its_lost_blocks_made_again_and_keeps_the_others() -> None:
    b = lent_to_client()
    b.ask(0, 1)
    b.assigned()
    b.block("0-0-0-2")
    hello = m.Hello(m.WIRE_VERSION, a_client(0), "", ("0-0-0-1",))
    assert b.d.hello(a_client(0), hello) == [Tell(0, w.Free(("0-0-0-2",)))]
    assert b.d.ledger.held_by(a_client(0)) == ["0-0-0-1"]


def test_a_client_can_t_give_back_another_s_block() -> None:
    b = lent_to_client()
    assert b.d.release(a_client(1), m.Release(("0-0-0-1", "0-0-0-7"))) == []
    assert b.d.ledger.held_bytes == 1000


def shipping() -> Bench:
    b = Bench("indexed")
    b.open(0, maps=False)
    b.ask(0, 0)
    b.assigned()
    (ship,) = b.block("0-0-0-1")
    assert isinstance(ship, Ship)
    return b


@pytest.mark.parametrize("event", ["hello", "lost", "release"])
def test_a_block_whose_bytes_are_being_sent_is_nobody_s_until_they_are_sent(event: str) -> None:
    """The socket reads it from where it is; written again meanwhile, the client would get another batch's bytes."""
    b = shipping()
    if event == "hello":
        assert b.d.hello(a_client(0), m.Hello(m.WIRE_VERSION, a_client(0), "")) == []
    elif event == "lost":
        assert b.d.client_lost(a_client(0)) == [Tell(0, w.Drop(a_session(0)))]
    else:
        assert b.d.release(a_client(0), m.Release(("0-0-0-1",))) == []
    assert b.d.ledger.held_bytes == 1000
    assert b.d.shipped("0-0-0-1") == [Tell(0, w.Free(("0-0-0-1",)))]
    assert b.d.shipped("0-0-0-1") == []


def test_sent_is_not_given_back_for_a_client_that_maps() -> None:
    b = lent_to_client()
    assert b.d.shipped("0-0-0-1") == []


def test_a_session_opened_again_under_the_same_id_is_a_new_one() -> None:
    """What an earlier one had under way is no answer to it, and says nothing about its stream."""
    b = Bench("stream", slots=2, single=False)
    b.open(0)
    b.ask(0, 0)
    ((slot, _, _),) = b.assigned()
    old = b.task(slot)
    b.d.client_lost(a_client(0))
    b.open(0)
    b.ask(0, 0, 1)
    assert b.assigned() == [(1, a_session(0), (0, 1))], "the first worker is still busy"
    assert b.d.ended(slot, old) == []
    assert b.d.sessions[a_session(0)].over == {}
    assert b.assigned() == [(slot, a_session(0), (0, 0))]
    assert len(sent(b.inline(slot))) == 1


def test_a_session_opened_for_another_source_begins_anew() -> None:
    b = Bench("indexed", "indexed", slots=2)
    b.open(0, source=0)
    b.ask(0, 0)
    ((slot, _, _),) = b.assigned()
    assert Tell(slot, w.Drop(a_session(0))) in b.open(0, source=1)
    b.ask(0, 0)
    assert b.inline(slot) == [], "a batch of the other source"
    ((slot, _, _),) = b.assigned()
    assert b.last[0].task.source == 1
    assert len(sent(b.inline(slot))) == 1


# --------------------------------------------------------------------------------------------------------------- streams


def test_each_worker_s_part_ends_by_itself() -> None:
    b = Bench("stream", slots=2)
    b.open(0)
    b.ask(0, *range(6))
    assert b.assigned() == [(0, a_session(0), (0, 0)), (1, a_session(0), (0, 1))]
    ended = b.d.ended(0, b.task(0))
    assert sorted(e.index for e in sent(ended) if isinstance(e, m.Ended)) == [0, 2, 4]
    assert b.assigned() == []
    b.inline(1)
    assert b.assigned() == [(1, a_session(0), (0, 3))]
    assert [e.index for e in sent(b.ask(0, 8)) if isinstance(e, m.Ended)] == [8], "it is over for later ones too"
    ended = b.d.ended(1, b.task(1))
    assert sorted(e.index for e in sent(ended) if isinstance(e, m.Ended)) == [3, 5]


def test_what_lies_before_the_end_of_a_part_can_be_asked_for_again() -> None:
    """Its connection broke, and what was on its way is lost."""
    b = Bench("sharded stream")
    b.open(0)
    b.ask(0, *range(3))
    for _ in range(2):
        b.assigned()
        b.inline()
    b.assigned()
    b.d.ended(0, b.task())
    assert sent(b.ask(0, 1, 2)) == [m.Ended(a_session(0), 0, 2)]
    assert b.assigned() == [(0, a_session(0), (0, 1))]


def test_tickets_under_way_are_answered_too_after_the_last_slot_has_ended() -> None:
    b = Bench("stream")
    b.open(0)
    b.ask(0, 0)
    b.assigned()
    b.inline(seconds=QUEUE_SECONDS / 2)
    b.ask(0, 1, 2, 3)
    assert len(b.assigned()) == 3
    answers = [e for _ in range(3) for e in sent(b.d.ended(0, b.task(0)))]
    assert sorted(e.index for e in answers if isinstance(e, m.Ended)) == [1, 2, 3]


def test_the_next_run_begins_when_it_is_asked_for() -> None:
    b = Bench("stream")
    b.open(0)
    b.ask(0, 0)
    b.assigned()
    b.d.ended(0, b.task())
    assert sent(b.ask(0, 0, epoch=1)) == []
    assert b.assigned() == [(0, a_session(0), (1, 0))]
    assert sent(b.ask(0, 5, epoch=0)) == [m.Ended(a_session(0), 0, 5)]


def test_what_was_under_way_of_a_run_left_behind_says_nothing_about_the_next() -> None:
    b = Bench("sharded stream", slots=2)
    b.open(0)
    b.ask(0, 0, 1, 2)
    assert len(b.assigned()) == 2
    assert sent(b.ask(0, 0, 1, epoch=1)) == [m.Ended(a_session(0), 0, 2)]
    assert sent(b.d.ended(0, b.task(0))) == [m.Ended(a_session(0), 0, 0)]
    assert b.d.sessions[a_session(0)].over == {}
    assert sent(b.d.worker_lost(1, "")) == [m.Ended(a_session(0), 0, 1)], "nobody can make it any more"
    assert [key for _, _, key in b.assigned()] == [(1, 0)]


def test_what_a_dead_worker_of_a_stream_had_goes_to_the_one_in_its_place() -> None:
    """Under the same names, by which it knows what to skip; its part is nobody else's."""
    b = Bench("sharded stream", slots=2)
    b.open(0)
    b.ask(0, *range(6))
    b.assigned()
    b.inline(0)
    assert b.assigned() == [(0, a_session(0), (0, 2))]
    for generation in (1, 2):
        b.d.worker_lost(0, "")
        assert b.assigned() == []
        b.up(0, generation)
        assert b.assigned() == [(0, a_session(0), (0, 2))]
    b.inline(0)
    assert b.assigned() == [(0, a_session(0), (0, 4))]


def test_a_stream_that_is_rewound_begins_where_it_is_asked_to() -> None:
    """Its client goes back to a position that it has saved; what its workers were at is no answer to what is asked for now."""
    b = Bench("stream")
    b.open(0)
    b.ask(0, 0, epoch=2)
    b.assigned()
    old = b.task()
    b.ask(0, 1, epoch=2)
    assert b.d.cancel(a_client(0), m.Cancel(a_session(0), m.MAX_INDEX)) == [Tell(0, w.Drop(a_session(0)))]
    assert sent(b.ask(0, 0, 1, epoch=1)) == []
    assert b.assigned() == []
    assert b.d.ended(0, old) == []
    assert b.assigned() == [(0, a_session(0), (1, 0))]
    assert len(sent(b.inline())) == 1
    assert b.assigned() == [(0, a_session(0), (1, 1))]


# ------------------------------------------------------------------------------------------------------------ the rest


def test_what_is_being_made_for_whom() -> None:
    b = Bench("indexed")
    b.open(0)
    b.open(1)
    b.ask(0, 4, 5, 6)
    assert b.d.waiting() == {a_session(0): (3, [])}
    b.assigned()
    assert b.d.waiting() == {a_session(0): (2, [(0, (0, 4), 0.0)])}


def test_slots_of_sources() -> None:
    everyone = frozenset({0, 1, 2})
    assert [s.slots for s in slots_of(["a", "b"], 3, single=False)] == [everyone, everyone]
    assert [s.slots for s in slots_of(["a", "b", "c", "d"], 3, single=True)] == [{0}, {1}, {2}, {0}]
    assert isinstance(slots_of(["a"], 1, single=True)[0], Source)
