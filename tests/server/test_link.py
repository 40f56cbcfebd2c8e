"""A worker's socket to its node: what is gathered, and when it leaves. A ROUTER socket stands for the node."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
import zmq

from feeder_server import link
from feeder_server.link import GATHER, NodeLink
from feeder_wire import frames, worker_frames
from feeder_wire import worker_messages as w

NEVER = 1000.0


class Bench:
    """A link and its node."""

    def __init__(self) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.node = self.context.socket(zmq.ROUTER)
        port = self.node.bind_to_random_port("tcp://127.0.0.1")
        self.link = NodeLink(f"tcp://127.0.0.1:{port}")

    def put(self, *tasks: int) -> None:
        for task in tasks:
            self.link.put(w.TaskEnded(task))

    def come(self) -> list[int]:
        """The tasks in the next message."""
        assert self.node.poll(30_000), "nothing came"
        self.identity, frame = self.node.recv_multipart()
        return [message.task for message in frames.unpack(frame, worker_frames.FROM_WORKER)]

    def close(self) -> None:
        self.link.close()
        self.node.close(linger=0)
        self.context.term()


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Bench]]:
    """Makes a bench with these times."""
    made: list[Bench] = []

    def make(gather: float = NEVER, late: float = NEVER) -> Bench:
        monkeypatch.setattr(link, "GATHER_SECONDS", gather)
        monkeypatch.setattr(link, "LATE_SECONDS", late)
        made.append(Bench())
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_quick_results_leave_together(bench: Callable[..., Bench]) -> None:
    b = bench()
    for task in range(3):
        b.put(task)
        b.link.put_off(0.001)
    b.link.flush()
    assert b.come() == [0, 1, 2]


def test_no_result_waits_for_a_slow_batch(bench: Callable[..., Bench]) -> None:
    b = bench(gather=100.0)
    b.put(0)
    b.link.put_off(50.0)
    b.put(1)
    b.link.put_off(150.0)
    assert b.come() == [0, 1]


def test_nor_for_many_quick_ones(bench: Callable[..., Bench]) -> None:
    b = bench(gather=0.01)
    b.put(0)
    b.link.put_off(0.001)
    time.sleep(0.01)  # at least that is what has to pass
    b.put(1)
    b.link.put_off(0.0)
    assert b.come() == [0, 1]


def test_nor_for_one_that_takes_longer_than_was_foreseen(bench: Callable[..., Bench]) -> None:
    b = bench(late=0.001)
    for task in range(3):
        b.put(task)
        b.link.put_off(0.0)
        assert b.come() == [task]


def test_only_so_many_in_one_message(bench: Callable[..., Bench]) -> None:
    b = bench()
    for task in range(GATHER):
        b.put(task)
        b.link.put_off(0.0)
    assert b.come() == list(range(GATHER))


def test_with_nothing_gathered_nothing_is_sent(bench: Callable[..., Bench]) -> None:
    b = bench(gather=0.0, late=0.0)
    b.link.put_off(NEVER)
    b.link.flush()
    b.put(7)
    b.link.flush()
    assert b.come() == [7]


def test_what_was_put_off_leaves_at_the_end_and_nobody_waits_for_its_time(bench: Callable[..., Bench]) -> None:
    b = bench()
    b.put(0)
    b.link.put_off(0.0)
    b.link.close()
    assert b.come() == [0]


def test_all_that_has_come_is_received_at_once(bench: Callable[..., Bench]) -> None:
    b = bench()
    assert b.link.receive(0) == []
    b.put(0)
    b.link.flush()
    b.come()
    for task in range(3):
        b.node.send_multipart([b.identity, frames.pack([w.Free((f"0-0-0-{task}",)), w.Stop()])])
    found: list[w.ToWorker] = []
    while len(found) < 6:
        found += b.link.receive(30)
    assert found == [message for task in range(3) for message in (w.Free((f"0-0-0-{task}",)), w.Stop())]
