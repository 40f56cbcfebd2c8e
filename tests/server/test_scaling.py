"""Workers that are started and let go with `--workers auto`: what is measured, and what becomes of those that aren't wanted."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from feeder_server import scaling
from feeder_server.scaling import LEAST_BATCHES, LEAST_SECONDS, LONGEST_SECONDS, PERIOD, Scaling, room_for
from feeder_server.work import Send, Tell
from feeder_wire import messages as m
from feeder_wire import worker_messages as w
from tests.server.test_dispatch import Bench, a_client, a_session

CLIENT = a_client(0)


class Processes:
    """A supervisor that starts at once what it is to start."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.let: list[tuple[int, bool]] = []

    def wake(self, count: int, now: float) -> None:
        for slot in range(count):
            if not self.stage.bench.d.slots[slot].ready:
                self.stage.up(slot)

    def let_go(self, slot: int, now: float, *, told: bool) -> bool:
        if slot not in self.stage.running:
            return False
        self.stage.running.remove(slot)
        self.let.append((slot, told))
        return True

    def pid(self, slot: int) -> int | None:
        return None


class Stage:
    """A node's dispatcher with one of `slots` workers awake, a session, and a clock of ours."""

    def __init__(self, *kinds: str, slots: int = 4) -> None:
        self.bench = Bench(*kinds, slots=slots)
        for slot in range(1, slots):
            self.bench.d.worker_lost(slot, "")
        self.running = {0}
        self.now = 0.0
        self.scaling = Scaling(self.bench.d, on=True)
        self.processes = Processes(self)
        self.bench.open(0)
        self.waited = 0
        self.scaling.heard(CLIENT, 0)

    def up(self, slot: int) -> None:
        self.running.add(slot)
        self.bench.up(slot, 1)

    def look(self) -> list[Any]:
        self.now += PERIOD
        return self.scaling.look(self.processes, self.now)  # type: ignore[arg-type]

    def work(self, seconds: float, batches: int, waited: float, each: float = 1.0) -> list[Any]:
        """For so long, with so many batches made that took a second `each`, and a training that stood still for `waited` seconds."""
        out = self.look()
        self.bench.d.made_batches += batches
        self.bench.d.made_seconds += batches * each
        self.waited += int(waited * 1000)
        self.scaling.heard(CLIENT, self.waited)
        end = self.now + seconds
        while self.now < end:
            out += self.look()
        return out

    @property
    def awake(self) -> int:
        return self.bench.d.awake


def test_more_where_the_training_waits_and_its_clients_are_told() -> None:
    stage = Stage("indexed")
    assert stage.awake == 1
    assert stage.bench.d.workers_of(0) == 1
    out = stage.work(LEAST_SECONDS, 100, waited=5)
    assert stage.awake == 2
    assert out == [Send(CLIENT, m.Workers(a_session(0), 2))]


def test_none_where_it_does_not_wait() -> None:
    stage = Stage("indexed")
    assert stage.work(LEAST_SECONDS, 100, waited=0.2) == []
    assert stage.awake == 1


def test_what_a_client_waited_before_it_came_here_does_not_count() -> None:
    stage = Stage("indexed")
    stage.scaling.heard(b"another", 10**6)
    stage.work(LEAST_SECONDS, 100, waited=0)
    assert stage.awake == 1
    stage.scaling.gone(b"another")
    stage.scaling.heard(b"another", 5)  # a new one under the same name
    stage.scaling.heard(b"another", 3)
    stage.work(LEAST_SECONDS, 100, waited=0)
    assert stage.awake == 1


def test_nothing_is_decided_by_a_few_batches_or_none() -> None:
    stage = Stage("indexed")
    stage.work(LEAST_SECONDS, LEAST_BATCHES - 1, waited=9)
    assert stage.awake == 1
    stage.work(LONGEST_SECONDS, 0, waited=50)  # slow ones
    assert stage.awake == 2
    assert stage.work(2 * LONGEST_SECONDS, 0, waited=100) == [], "and who makes none isn't judged at all"
    assert stage.awake == 2


def test_nothing_is_measured_before_those_that_are_wanted_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage("indexed")
    monkeypatch.setattr(stage, "up", lambda slot: None)
    stage.work(LEAST_SECONDS, 100, waited=5)
    assert stage.awake == 2
    stage.work(LONGEST_SECONDS, 100, waited=50)
    assert stage.awake == 2
    monkeypatch.undo()
    stage.up(1)
    stage.work(LEAST_SECONDS, 200, waited=5)
    assert stage.awake == 3


def test_who_is_let_go_finishes_its_work_and_gets_no_more() -> None:
    stage = Stage("indexed", slots=2)
    stage.work(LEAST_SECONDS, 100, waited=5)
    stage.bench.ask(0, *range(10))
    assert {slot for slot, *_ in stage.bench.assigned()} == {0, 1}
    for _ in range(2):
        assert stage.awake == 2
        stage.work(LEAST_SECONDS, 100, waited=0, each=0.01)
    assert stage.awake == 1
    assert stage.processes.let == [], "it is still at something"
    assert stage.bench.d.workers_of(0) == 1
    stage.bench.inline(1)
    stage.bench.inline(0)
    assert [slot for slot, *_ in stage.bench.assigned()] == [0]
    assert [stage.look(), stage.look()] == [[Tell(1, w.Stop())], []]
    assert stage.processes.let[0] == (1, True)


def test_one_that_is_still_loading_is_let_go_through_its_pipe() -> None:
    stage = Stage("indexed", slots=2)
    stage.work(LEAST_SECONDS, 100, waited=5)
    stage.bench.d.slots[1].ready = False
    stage.bench.d.wake(1)
    assert stage.look() == []
    assert stage.processes.let == [(1, False)]


def test_a_stream_has_all_its_workers_from_the_beginning(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "feeder.node")
    stage = Stage("indexed", "stream")
    assert stage.bench.d.workers_of(1) == 4, "also before they are there"
    assert stage.look() == [Send(CLIENT, m.Workers(a_session(0), 4))]
    assert stage.awake == 4
    assert "a stream is divided among them" in caplog.text
    assert stage.work(LONGEST_SECONDS, 100, waited=0) == [], "and keeps them"


def test_copies_that_disagree_have_one_worker(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "feeder.node")
    stage = Stage("indexed")
    stage.work(LEAST_SECONDS, 100, waited=5)
    source = stage.bench.d.sources[0]
    source.exclusive, source.slots = True, frozenset({0})
    assert stage.look()[0] == Send(CLIENT, m.Workers(a_session(0), 1))
    assert stage.awake == 1
    assert "no other may serve" in caplog.text
    stage.work(LONGEST_SECONDS, 100, waited=50)
    assert stage.awake == 1


def test_off_nothing_is_ever_changed() -> None:
    bench = Bench("indexed", slots=3)
    off = Scaling(bench.d, on=False)
    off.heard(CLIENT, 5)
    assert off.look(Processes(None), 10.0) == []  # type: ignore[arg-type]
    assert bench.d.awake == 3


class TestRoom:
    """Workers are like those that are there."""

    def test_as_many_as_the_memory_takes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        psutil = pytest.importorskip("psutil")
        sizes = {1: 100, 2: 300}

        class Process:
            def __init__(self, pid: int) -> None:
                if pid not in sizes:
                    raise psutil.NoSuchProcess(pid)
                self.pid = pid

            def memory_full_info(self) -> Any:
                return SimpleNamespace(uss=sizes[self.pid])

        monkeypatch.setattr(psutil, "Process", Process)
        monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1000))
        assert room_for([1, 2, 3]) == int(1000 / (300 * scaling.SPARE))

    def test_where_the_system_does_not_tell_what_is_a_process_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        psutil = pytest.importorskip("psutil")

        class Process:
            def __init__(self, pid: int) -> None:
                pass

            def memory_full_info(self) -> Any:
                raise OSError("not implemented")

            def memory_info(self) -> Any:
                return SimpleNamespace(rss=100)

        monkeypatch.setattr(psutil, "Process", Process)
        monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1000))
        assert room_for([1]) == int(1000 / (100 * scaling.SPARE))
        monkeypatch.setattr(Process, "memory_info", Process.memory_full_info)
        assert room_for([1]) is None, "that ends no server"

    def test_not_known_without_psutil(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(__import__("sys").modules, "psutil", None)
        assert room_for([1]) is None

    @pytest.mark.parametrize(("room", "awake"), [(0, 1), (1, 2), (None, 2)])
    def test_no_more_than_that(self, monkeypatch: pytest.MonkeyPatch, room: int | None, awake: int) -> None:
        monkeypatch.setattr(scaling, "room_for", lambda pids: room)
        stage = Stage("indexed")
        stage.work(LEAST_SECONDS, 100, waited=5)
        assert stage.awake == awake
