"""The core alone: no socket, no server. `wake` answers for the receiver, in the same thread, or `meanwhile`, where that waits.

Only time is faked. The lock is re-entrant, so an answer given inside of these is what a receiver thread would have done meanwhile.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from feeder_client import core as core_module
from feeder_client import waiting
from feeder_client.core import Core
from feeder_client.options import Options
from feeder_client.waiting import PassEnded
from feeder_wire import messages as m
from feeder_wire.errors import (
    AuthenticationError,
    BatchTimeout,
    ClosedError,
    ConfigError,
    FeederError,
    NodeUnreachable,
    RemoteError,
    SourceError,
)

SESSION = b"s" * 16


class Clock:
    """Stands for the time module: goes on by `step` with every look, and by `advance`."""

    def __init__(self) -> None:
        self.now, self.step = 1000.0, 0.0

    def monotonic(self) -> float:
        self.now += self.step
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The time that the core sees. Waits on its condition really wait, a fifth of a second at most."""
    made = Clock()
    for module in (core_module, waiting):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=made.monotonic))
        monkeypatch.setattr(module, "SLICE", 0.001)
    return made


@dataclass
class Batch:
    """A payload that knows whether it was opened or dropped."""

    value: Any
    nbytes: int = 100
    dropped: bool = False

    def open(self) -> Any:
        return self.value

    def drop(self) -> None:
        self.dropped = True


@dataclass
class Server:
    """Answers what a core asks, as the receiver thread and a node would. `mute`: takes requests and says nothing."""

    core: Core
    mute: bool = False
    asked: list[tuple[int, int, int]] = field(default_factory=list)  # node, epoch, index
    cancelled: list[int] = field(default_factory=list)
    sent: list[Batch] = field(default_factory=list)
    answer: Callable[[Server, int, int, int], None] | None = None

    def __post_init__(self) -> None:
        self.core.wake = self.serve

    def serve(self) -> None:
        requests, below = self.core.requests()
        if below is not None:
            self.cancelled.append(below)
        fresh = [(r.node, r.epoch, i) for r in requests for i in r.indices]
        self.asked += fresh
        for node, epoch, index in () if self.mute else fresh:
            (self.answer or Server.send)(self, node, epoch, index)

    def send(self, node: int, epoch: int, index: int, seconds: float = 0.01) -> None:
        self.sent.append(Batch((epoch, index)))
        self.core.arrived(node, epoch, index, self.sent[-1], seconds)  # type: ignore[arg-type]


def opened(kind: str = "indexed", num_batches: int = 6, workers: int = 2, seed: int = 0, notes: tuple[str, ...] = ()) -> m.Opened:
    return m.Opened(SESSION, kind, num_batches, workers, seed, notes)


def make(num_batches: int = 6, kind: str = "indexed", endpoints: int = 1, workers: int = 2, **options: Any) -> tuple[Core, Server]:
    """A core whose nodes all serve."""
    core = Core([f"tcp://host{i}:5555" for i in range(endpoints)], Options("train", **options))
    server = Server(core)
    for node in range(endpoints):
        core.connected(node)
        core.opened(node, opened(kind, num_batches, workers))
        core.judged(node, m.Verdict(SESSION, "", "", False, True, ()))
    return core, server


def meanwhile(core: Core, do: Callable[[], object]) -> None:
    """Whenever a thread sleeps in the core, `do` is done, and it wakes up."""

    def wait(timeout: float | None = None) -> bool:
        do()
        return True

    core._cond.wait = wait  # type: ignore[method-assign]


def test_the_receiver_is_woken_when_a_quarter_of_the_window_is_free() -> None:
    """Not for every batch that is taken, for it takes the GIL from the training; and in good time, so that the window never runs dry."""
    core, server = make(1000, prefetch=16)
    wakes, levels = [], []

    def wake() -> None:
        wakes.append(len(server.asked))
        server.serve()

    for index in range(100):
        core.get(index)  # how large batches are is known by now
    server.serve()
    core.wake = wake
    for index in range(100, 164):
        core.get(index)
        levels.append(core.stats().stored)
    assert len(wakes) == 16
    assert set(levels) == {13, 14, 15, 16}


@pytest.mark.parametrize("kind", ["indexed", "stream"])
def test_a_wait_wakes_the_receiver_only_where_there_is_something_to_ask(kind: str) -> None:
    core, server = make(1000, kind, workers=2, prefetch=16, steps=None if kind == "indexed" else 1000)
    server.answer = lambda server, *batch: server.send(*batch, seconds=0.001)
    for index in range(100):
        core.get(index)  # what a batch takes is known by now, and that they are small
    server.serve()
    stored = core.stats().stored
    server.mute = True
    wakes: list[int] = []
    waits: list[int] = []

    def wake() -> None:
        wakes.append(core.stats().owed)
        server.serve()

    def come() -> None:
        waits.append(core.stats().owed)
        server.send(*server.asked[len(server.sent)], seconds=0.001)

    core.wake = wake
    meanwhile(core, come)
    for index in range(100, 140):
        core.get(index)
    assert stored == 16
    assert len(waits) == 24  # for each batch that was not there
    assert len(wakes) <= 10  # for a quarter of the window each
    assert min(waits) >= 4  # two for each worker


def test_a_batch_that_nobody_asked_for_is_asked_for_at_once() -> None:
    core, server = make(1000, prefetch=4)
    server.mute = True
    server.serve()
    owed = core.stats().owed
    fresh: list[tuple[int, int, int]] = []

    def come() -> None:
        fresh.extend(server.asked[owed:])
        server.send(0, 0, 500)

    meanwhile(core, come)
    assert core.get(500) == (0, 500)
    assert fresh[0] == (0, 0, 500)


def test_only_the_batch_that_is_waited_for_ends_a_wait() -> None:
    """Who is woken for another one takes the GIL from the receiver for nothing."""
    core, server = make(1000, prefetch=8)
    for index in range(10):
        core.get(index)
    server.mute = True
    woken: list[int] = []
    core._cond.notify_all = lambda: woken.append(len(server.sent))  # type: ignore[method-assign]

    def come() -> None:
        for place in (1, 0):  # the one after it is the first to come
            server.send(*server.asked[place - 2])
        assert len(woken) == 1
        assert woken[0] == len(server.sent)

    first = len(server.asked)
    for index in range(10, first):
        core.get(index)  # there already
    assert woken == []
    server.asked = server.asked[first:]
    assert [request[2] for request in server.asked[:2]] == [first, first + 1]
    server.asked = server.asked[:2]
    meanwhile(core, come)
    assert core.get(first) == (0, first)


def test_a_narrow_window_is_filled_at_once() -> None:
    core, _ = make(1000, prefetch=2)
    for index in range(10):
        core.get(index)
        assert core.stats().stored == 2


class TestOpening:
    def test_knows_the_length_once_a_node_serves(self) -> None:
        core, _ = make(6)
        core.wait_open()
        assert core.num_batches == 6
        assert core.position() == (0, 0)

    def test_before_that_nothing_is_asked_and_nothing_can_be_read(self) -> None:
        core = Core(["tcp://a:1"], Options("train"))
        assert core.requests() == ([], None)
        for read in (lambda: core.get(0), core.get_in_run, core.begin_pass):
            with pytest.raises(NodeUnreachable, match="no server has answered yet"):
                read()
        core.end_pass()
        assert core.position() == (0, 0)
        assert core.stats().workers == 0

    def test_nobody_answers(self, clock: Clock) -> None:
        core = Core(["tcp://a:1", "tcp://b:2"], Options("train", connect_timeout=30.0))
        clock.advance(30.1)
        with pytest.raises(
            NodeUnreachable, match=r"no server answers at tcp://a:1, tcp://b:2 \(tried for 30 s\): is feeder-server running"
        ):
            core.wait_open()

    def test_hope_lasts_for_the_whole_time_allowed(self, clock: Clock) -> None:
        core = Core(["tcp://a:1"], Options("train", connect_timeout=30.0))
        clock.step = 1.0
        with pytest.raises(NodeUnreachable):
            core.wait_open()
        assert 1030 < clock.now < 1034

    def test_a_connected_node_that_loads_is_waited_for_and_said(self, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
        core = Core(["tcp://a:1"], Options("train"))
        core.connected(0)
        core.progress(0, "the workers are loading source 'train'")
        clock.step = 4.0
        caplog.set_level(logging.WARNING, "feeder.client")
        real = core._cond.wait
        waits: list[float] = []

        def wait(seconds: float) -> bool:
            waits.append(clock.now)
            if len(waits) == 15:
                core.opened(0, opened())
            return real(0)

        core._cond.wait = wait  # type: ignore[method-assign]
        core.wait_open()
        said = [r.getMessage() for r in caplog.records]
        assert len(said) == 3, "after 10, 20 and 40 seconds"
        assert said[0].startswith("waiting for source 'train' for ")
        assert "tcp://a:1 is connected and the workers are loading source 'train'" in said[0]

    @pytest.mark.parametrize("error", [AuthenticationError("keys"), SourceError("broken")])
    def test_the_only_nodes_error_is_raised(self, error: FeederError) -> None:
        core = Core(["tcp://a:1"], Options("train"))
        core.failed(0, error)
        with pytest.raises(type(error)) as caught:
            core.wait_open()
        assert caught.value is error

    def test_an_error_of_one_of_two_is_no_reason_to_give_up(self, clock: Clock) -> None:
        core = Core(["tcp://a:1", "tcp://b:2"], Options("train"))
        core.failed(0, SourceError("broken"))
        core.connected(1)
        core.opened(1, opened())
        core.wait_open()
        core.lost(1, "gone")
        clock.advance(31)
        with pytest.raises(NodeUnreachable, match="no server answers at tcp://b:2 "):
            core.wait_open() if core.num_batches is None else core.get(0)

    def test_one_that_lets_us_in_and_fails_time_after_time_is_named_once_until_it_serves(self, caplog: pytest.LogCaptureFixture) -> None:
        core = Core(["tcp://a:1", "tcp://b:2"], Options("train"))

        def fails(times: int) -> int:
            caplog.clear()
            for _ in range(times):
                core.connected(0)
                core.failed(0, NodeUnreachable("it did not know us"))
            return len(caplog.records)

        assert [fails(5), fails(1)] == [1, 0]
        core.connected(0)
        core.opened(0, opened())
        assert fails(3) == 1

    def test_an_error_goes_with_the_next_connection(self) -> None:
        core = Core(["tcp://a:1"], Options("train"))
        core.failed(0, AuthenticationError("keys"))
        core.connected(0)
        core.opened(0, opened())
        core.wait_open()

    @pytest.mark.parametrize(
        ("kind", "length", "options", "message"),
        [
            ("indexed", 6, {"steps": 7}, "steps=7, but source 'train' has only 6 batches"),
            ("stream", -1, {"world_size": 2}, "this one is a stream"),
            ("indexed", -1, {"world_size": 2}, "this one is a stream"),
            ("indexed", 3, {"world_size": 4}, "only 3 batches to share out"),
        ],
    )
    def test_options_that_do_not_fit_the_source(self, kind: str, length: int, options: dict[str, Any], message: str) -> None:
        core, _ = make(length, kind, **options)
        with pytest.raises(ConfigError, match=message):
            core.wait_open()

    @pytest.mark.parametrize(
        ("kind", "length", "options", "expected"),
        [
            ("indexed", 6, {}, 6),
            ("indexed", 6, {"steps": 4}, 4),
            ("indexed", 7, {"world_size": 2}, 3),
            ("indexed", 0, {}, 0),
            ("stream", -1, {}, None),
            ("stream", -1, {"steps": 5}, 5),
        ],
    )
    def test_the_length_of_a_pass(self, kind: str, length: int, options: dict[str, Any], expected: int | None) -> None:
        core, _ = make(length, kind, **options)
        assert core.num_batches == expected
        assert core.in_runs == (kind == "stream" and expected is None)

    def test_notes_about_the_source_are_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        core = Core(["tcp://a:1"], Options("train"))
        core.connected(0)
        core.opened(0, opened(notes=("copies agree",)))
        assert "copies agree" in caplog.text


class TestReading:
    def test_a_pass_in_order_whatever_the_order_of_arrival(self) -> None:
        core, server = make(6)
        late: list[tuple[int, int, int]] = []

        def backwards(server: Server, node: int, epoch: int, index: int) -> None:
            late.insert(0, (node, epoch, index))

        server.answer = backwards
        got = []
        core.begin_pass()
        for i in range(6):
            server.serve()
            while late:
                server.send(*late.pop(0))
            got.append(core.get(i))
        assert got == [(0, i) for i in range(6)]
        assert core.position() == (0, 6)

    def test_passes_follow_each_other_and_nothing_is_asked_twice(self) -> None:
        core, server = make(5)
        for epoch in range(4):
            core.begin_pass()
            assert [core.get(i) for i in range(5)] == [(epoch, i) for i in range(5)]
            core.end_pass()
        assert len(set(server.asked)) == len(server.asked)
        assert all(not batch.dropped for batch in server.sent)

    def test_the_window_is_asked_for_ahead_and_over_the_end_of_the_pass(self) -> None:
        core, server = make(6)
        server.mute = True
        core.begin_pass()
        assert server.asked == [(0, 0, 0), (0, 0, 1), (0, 0, 2), (0, 0, 3), (0, 0, 4)], "two per worker, and one ready"
        core, server = make(2)
        server.mute = True
        core.begin_pass()
        assert server.asked == [(0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1)]
        core, server = make(2, lookahead=False)
        server.mute = True
        core.begin_pass()
        assert server.asked == [(0, 0, 0), (0, 0, 1)]

    @pytest.mark.parametrize("index", [6, -7, 100])
    def test_an_index_that_is_not_there(self, index: int) -> None:
        core, _ = make(6)
        with pytest.raises(IndexError, match=f"batch {index} of 6"):
            core.get(index)

    def test_keras_peeks_and_gets_the_very_same_batch_again(self) -> None:
        core, server = make(6)
        peeked = [core.get(0), core.get(1), core.get(0)]
        assert peeked[0] is peeked[2]
        core.end_pass()
        core.begin_pass()
        got = [core.get(i) for i in range(6)]
        assert got == [(0, i) for i in range(6)], "not lost, not counted as a pass"
        assert got[0] is peeked[0]
        assert got[1] is peeked[1]
        assert [key for key in server.asked if key[1] == 0] == [(0, 0, i) for i in range(6)]
        assert core.stats().batches == 6

    def test_what_was_looked_at_is_not_kept_for_ever(self) -> None:
        core, _ = make(6)
        core.get(0)
        core.begin_pass()
        for i in range(6):
            core.get(i)
        assert not core._kept

    def test_a_shuffled_pass_gives_every_batch_once(self) -> None:
        core, server = make(8)
        for epoch in range(3):
            core.begin_pass()
            got = [core.get(i) for i in (3, 1, 7, 0, 2, 6, 5, 4)]
            assert sorted(got) == [(epoch, i) for i in range(8)]
            core.end_pass()
        assert len(set(server.asked)) == len(server.asked)

    def test_a_pass_left_in_the_middle_is_cancelled_and_its_batches_dropped(self) -> None:
        core, server = make(100)
        core.begin_pass()
        for i in range(4):
            core.get(i)
        core.begin_pass()
        assert core.get(0) == (1, 0)
        stale = [b for b in server.sent if b.value[0] == 0 and b.value[1] >= 4]
        assert stale
        assert all(b.dropped for b in stale)
        assert server.cancelled == [1]
        late = Batch((0, 50))
        core.arrived(0, 0, 50, late, 0.01)  # type: ignore[arg-type]
        assert late.dropped, "what still comes of it goes home unseen"
        assert core.get(1) == (1, 1)

    def test_an_abandoned_window_does_not_block_the_next_pass(self) -> None:
        core, _ = make(50)
        for epoch in range(20):
            core.begin_pass()
            assert [core.get(i) for i in range(3)] == [(epoch, i) for i in range(3)]

    def test_a_share_of_the_batches(self) -> None:
        for rank in range(3):
            core, server = make(10, rank=rank, world_size=3)
            core.begin_pass()
            assert [core.get(i) for i in range(3)] == [(0, 3 * i + rank) for i in range(3)]
            assert {index % 3 for _, _, index in server.asked} == {rank}

    def test_a_batch_that_comes_twice_is_dropped(self) -> None:
        core, server = make(6)
        core.begin_pass()
        twice = Batch((0, 0))
        core.arrived(0, 0, 0, twice, 0.0)  # type: ignore[arg-type]
        assert twice.dropped
        assert core.get(0) == (0, 0)
        assert not server.sent[0].dropped


class TestErrors:
    def remote(self) -> RemoteError:
        return RemoteError(
            "SourceError", "ValueError", ("ValueError", "Exception", "BaseException"), "bad image", "Traceback: user.py", "worker 1"
        )

    def test_of_user_code_comes_at_its_batch_with_the_traceback(self) -> None:
        core, server = make(6)

        def answer(server: Server, node: int, epoch: int, index: int) -> None:
            if index == 2:
                core.failed_batch(node, m.Failed(SESSION, epoch, index, self.remote()))
            else:
                server.send(node, epoch, index)

        server.answer = answer
        core.begin_pass()
        assert [core.get(0), core.get(1)] == [(0, 0), (0, 1)]
        with pytest.raises(SourceError) as caught:
            core.get(2)
        assert isinstance(caught.value, ValueError)
        assert str(caught.value).startswith("batch 2 of epoch 0 of source 'train': ValueError: bad image (in worker 1)")
        assert "Traceback: user.py" in str(caught.value)
        assert core.get(3) == (0, 3), "the others can still be had"

    def test_of_user_code_names_our_own_number_of_the_batch(self) -> None:
        core, server = make(10, rank=1, world_size=3)
        server.answer = lambda server, node, epoch, index: core.failed_batch(node, m.Failed(SESSION, epoch, index, self.remote()))
        core.begin_pass()
        with pytest.raises(SourceError, match=r"^batch 0 of epoch 0 of source 'train'"):
            core.get(0)

    def test_a_batch_that_takes_too_long(self, clock: Clock) -> None:
        core, server = make(6, batch_timeout=5.0)
        server.mute = True
        core.progress(0, "worker 2 is at batch 0 of epoch 0")
        clock.step = 1.0
        with pytest.raises(BatchTimeout) as caught:
            core.get(0)
        assert str(caught.value) == (
            "batch 0 of epoch 0 of source 'train' did not come within 5 s: tcp://host0:5555: worker 2 is at batch 0 of epoch 0"
        )

    def test_what_did_not_come_in_time_is_still_owed(self, clock: Clock) -> None:
        core, server = make(6, batch_timeout=5.0)
        late: list[int] = []

        def answer(server: Server, node: int, epoch: int, index: int) -> None:
            if (epoch, index) == (0, 4) and not late:
                late.append(node)
            else:
                server.send(node, epoch, index)

        server.answer = answer
        core.begin_pass()
        assert [core.get(i) for i in range(4)] == [(0, i) for i in range(4)]
        clock.step = 1.0
        with pytest.raises(BatchTimeout):
            core.get(4)
        clock.step = 0.0
        server.send(late[0], 0, 4)
        assert [core.get(4), core.get(5)] == [(0, 4), (0, 5)], "the same pass goes on"
        assert core.position() == (0, 6)

    def test_a_batch_that_failed_can_be_asked_for_again(self) -> None:
        core, server = make(6)
        broken = [3]

        def answer(server: Server, node: int, epoch: int, index: int) -> None:
            if index in broken:
                core.failed_batch(node, m.Failed(SESSION, epoch, index, self.remote()))
            else:
                server.send(node, epoch, index)

        server.answer = answer
        core.begin_pass()
        assert [core.get(i) for i in range(3)] == [(0, i) for i in range(3)]
        with pytest.raises(SourceError):
            core.get(3)
        broken.clear()
        assert [core.get(i) for i in range(3, 6)] == [(0, i) for i in range(3, 6)]

    def test_without_a_limit_it_waits_and_says_so_ever_more_rarely(self, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
        core, server = make(6)
        server.mute = True
        clock.step = 1.0
        waits = 0

        def wait() -> None:
            nonlocal waits
            waits += 1
            if waits == 100:
                server.mute = False
                server.send(0, 0, 0)

        meanwhile(core, wait)
        assert core.get(0) == (0, 0)
        said = [r.getMessage() for r in caplog.records]
        assert [int(s.split(" for ")[-1].split()[0]) for s in said] == [10, 20, 40, 80]
        assert said[0] == "waiting for batch 0 of epoch 0 of source 'train' for 10 s: tcp://host0:5555: connected"

    def test_a_server_that_goes_and_never_returns(self, clock: Clock) -> None:
        core, server = make(6, connect_timeout=30.0)
        server.mute = True
        core.lost(0, "the connection broke")
        clock.step = 1.0
        with pytest.raises(NodeUnreachable, match=r"no server answers at tcp://host0:5555 \(tried for 30 s\)"):
            core.get(0)

    def test_a_server_that_says_why_it_ended(self) -> None:
        core, server = make(6)
        server.mute = True
        core.failed(0, SourceError("the workers keep dying"))
        with pytest.raises(SourceError, match="the workers keep dying"):
            core.get(0)

    def test_what_has_come_before_the_end_is_still_handed_out(self) -> None:
        core, server = make(6)
        core.begin_pass()
        core.failed(0, SourceError("ended"))
        server.mute = True
        assert [core.get(i) for i in range(5)] == [(0, i) for i in range(5)]
        with pytest.raises(SourceError, match="ended"):
            core.get(5)

    def test_giving_up_is_final_and_the_first_reason_counts(self) -> None:
        core, server = make(6)
        server.mute = True
        core.give_up(FeederError("first"))
        core.give_up(FeederError("second"))
        with pytest.raises(FeederError, match="first"):
            core.get(0)


class TestNodes:
    def test_what_a_lost_node_owed_is_asked_of_the_other(self) -> None:
        core, server = make(100, endpoints=2)
        server.mute = True
        core.begin_pass()
        owed = {index for node, _, index in server.asked if node == 0}
        assert owed
        server.asked.clear()
        core.lost(0, "the connection broke")
        server.mute = False
        for node, _, index in [key for key in server.asked if key[0] == 1]:
            server.send(node, 0, index)
        server.answer = Server.send
        # Node 1 has its own share under way; it answers that, and then gets the rest.
        for index in sorted(set(range(20)) - owed):
            core.arrived(1, 0, index, Batch((0, index)), 0.01)  # type: ignore[arg-type]
        assert [core.get(i) for i in range(30)] == [(0, i) for i in range(30)]
        assert all(node == 1 for node, _, _ in server.asked)
        stats = core.stats()
        assert (stats.retries, stats.reconnects, stats.nodes, stats.workers) == (len(owed), 1, 1, 2)

    def test_a_late_answer_of_a_lost_node_is_no_second_batch(self) -> None:
        core, server = make(6)
        server.mute = True
        core.begin_pass()
        core.lost(0, "the connection broke")
        late = Batch("late")
        core.arrived(0, 0, 0, late, 0.01)  # type: ignore[arg-type]
        assert late.dropped
        core.connected(0)
        core.opened(0, opened())
        server.mute = False
        assert [core.get(i) for i in range(6)] == [(0, i) for i in range(6)]

    def test_lost_twice_is_one_loss(self, caplog: pytest.LogCaptureFixture) -> None:
        core, _ = make(6)
        core.lost(0, "the connection broke")
        core.lost(0, "again")
        assert core.stats().reconnects == 1
        assert [r.getMessage() for r in caplog.records] == ["lost the connection to tcp://host0:5555: the connection broke"]


class TestStreams:
    def test_with_steps_runs_follow_each_other(self) -> None:
        core, server = make(-1, "stream", steps=4, workers=1)
        run_length = 3

        def answer(server: Server, node: int, epoch: int, index: int) -> None:
            if index < run_length:
                server.send(node, epoch, index)
            else:
                core.ended(node, epoch, index)

        server.answer = answer
        got = []
        for _ in range(3):
            core.begin_pass()
            got += [core.get(i) for i in range(4)]
            core.end_pass()
        assert got == [(run, i) for run in range(4) for i in range(3)]

    def test_without_steps_a_pass_is_a_run(self) -> None:
        core, server = make(-1, "stream", workers=1)
        lengths = [3, 0, 2]

        def answer(server: Server, node: int, epoch: int, index: int) -> None:
            if epoch < len(lengths) and index < lengths[epoch]:
                server.send(node, epoch, index)
            elif epoch < len(lengths):
                core.ended(node, epoch, index)

        server.answer = answer

        def run() -> list[Any]:
            got = []
            while True:
                try:
                    got.append(core.get_in_run())
                except PassEnded:
                    return got

        runs = [run() for _ in lengths]
        assert runs == [[(0, 0), (0, 1), (0, 2)], [], [(2, 0), (2, 1)]]

    def test_batches_come_as_they_are_ready(self) -> None:
        core, server = make(-1, "stream", steps=10)
        server.mute = True
        core.begin_pass()
        for key in reversed(server.asked):
            server.send(*key)
        count = len(server.asked)
        server.mute = False
        assert [core.get(i)[1] for i in range(count)] == list(reversed(range(count)))

    def test_an_empty_stream_is_an_error_and_no_endless_wait(self) -> None:
        core, server = make(-1, "stream", steps=4)
        server.answer = lambda server, node, epoch, index: core.ended(node, epoch, index)
        with pytest.raises(SourceError, match="ended without giving a batch"):
            core.get(0)

    def test_a_run_ends_when_every_node_has_said_so(self) -> None:
        core, server = make(-1, "stream", endpoints=2)
        server.mute = True
        server.serve()
        first = [key for key in server.asked if key[0] == 0]
        for key in first:
            core.ended(*key)
        server.send(*next(key for key in server.asked if key[0] == 1))
        assert core.get_in_run()[0] == 0, "the other node goes on"
        for key in [key for key in server.asked if key[0] == 1]:
            core.ended(*key)
        with pytest.raises(PassEnded):
            core.get_in_run()

    def test_the_last_node_of_a_run_is_lost(self, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
        core, server = make(-1, "stream", endpoints=2)
        server.mute = True
        server.serve()
        for key in [key for key in server.asked if key[0] == 0]:
            core.ended(*key)
        core.lost(1, "the connection broke")
        clock.step = 1.0
        with pytest.raises(PassEnded):
            core.get_in_run()
        assert clock.now > 1000.0 + core.options.connect_timeout, "it was waited for"
        assert "goes on without tcp://host1:5555" in caplog.text


class TestStats:
    def test_count_batches_bytes_and_seconds(self, clock: Clock) -> None:
        core, server = make(6)

        def slowly(server: Server, node: int, epoch: int, index: int) -> None:
            clock.advance(0.5)
            server.send(node, epoch, index, seconds=2.0)

        server.answer = slowly
        server.mute = True
        core.begin_pass()
        server.mute = False
        pending = list(server.asked)

        def answer() -> None:
            if pending:
                slowly(server, *pending.pop(0))

        meanwhile(core, answer)
        for i in range(3):
            core.get(i)
            clock.advance(1.0)  # the step of the training
        stats = core.stats()
        assert (stats.batches, stats.nbytes, stats.workers, stats.nodes) == (3, 300, 2, 1)
        assert stats.compute_seconds == 2.0 * (len(server.asked) - len(pending))
        assert stats.elapsed_seconds > stats.wait_seconds >= 0
        assert stats.owed + stats.stored == len(server.asked) - 3

    def test_the_first_wait_is_start_up(self, clock: Clock) -> None:
        core, server = make(6)
        clock.step = 0.0
        server.mute = True
        core.begin_pass()
        clock.advance(100)
        pending = list(server.asked)

        def answer() -> None:
            clock.advance(3.0)
            if pending:
                server.send(*pending.pop(0))

        meanwhile(core, answer)
        core.get(0)
        assert core.stats().wait_seconds == 0.0
        assert core.stats().elapsed_seconds >= 3.0

    def test_a_look_at_a_wait_that_began_after_the_clock_was_read(self, clock: Clock) -> None:
        """The receiver thread reads the clock, then this one begins to wait, then the receiver says how long the training has waited."""
        core, server = make(6)
        server.mute = True
        core.begin_pass()
        pending, seen = list(server.asked), []

        def answer() -> None:
            seen.append(core.waited(clock.now - 0.015))
            if pending:
                server.send(*pending.pop(0))

        meanwhile(core, answer)
        for index in range(3):
            core.get(index)
        assert min(seen) == 0.0


class TestClosing:
    def test_what_came_and_was_not_taken_goes_home(self) -> None:
        core, server = make(6)
        core.begin_pass()
        core.get(0)
        core.close()
        assert [b.dropped for b in server.sent] == [False] + [True] * (len(server.sent) - 1)
        late = Batch("late")
        core.arrived(0, 0, 5, late, 0.0)  # type: ignore[arg-type]
        assert late.dropped
        assert core.requests() == ([], None)

    def test_afterwards_nothing_can_be_read(self) -> None:
        core, _ = make(6)
        core.close()
        core.close()
        for read in (lambda: core.get(0), core.get_in_run, core.begin_pass):
            with pytest.raises(ClosedError, match="make a new one"):
                read()

    @pytest.fixture
    def waiting(self) -> Iterator[tuple[Core, list[BaseException], threading.Thread]]:
        """A core, and a training thread that waits in it."""
        core, server = make(6)
        server.mute = True
        inside = threading.Event()
        caught: list[BaseException] = []
        core.wake = inside.set

        def train() -> None:
            try:
                core.get(0)
            except FeederError as e:
                caught.append(e)

        thread = threading.Thread(target=train)
        thread.start()
        assert inside.wait(30)
        yield core, caught, thread
        core.close()
        thread.join(30)

    def test_wakes_a_thread_that_waits(self, waiting: tuple[Core, list[BaseException], threading.Thread]) -> None:
        core, caught, thread = waiting
        core.close()
        thread.join(30)
        assert not thread.is_alive()
        assert isinstance(caught[0], ClosedError)
        assert "closed while a batch was waited for" in str(caught[0])

    def test_an_error_wakes_it_too(self, waiting: tuple[Core, list[BaseException], threading.Thread]) -> None:
        core, caught, thread = waiting
        core.give_up(FeederError("the receiver failed"))
        thread.join(30)
        assert str(caught[0]) == "the receiver failed"


def test_two_threads_may_read_at_once() -> None:
    """Keras' own pool, or tf.data: nothing is lost and nothing comes twice."""
    core, _ = make(200)
    core.begin_pass()
    got: list[Any] = []
    indices = iter(range(200))
    lock = threading.Lock()

    def read() -> None:
        while True:
            with lock:
                index = next(indices, None)
                if index is None:
                    return
            got.append(core.get(index))

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(got) == [(0, i) for i in range(200)]
