"""What is sent to one client is cut into messages that it takes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import zmq

from feeder_server.config import ServeConfig, SourceEntry
from feeder_server.gate import LEASE_SECONDS, QUIET_SECONDS, Gate
from feeder_server.line import QUICK_RATE
from feeder_server.portions import PORTION_BYTES
from feeder_server.target import parse_target
from feeder_wire import client_frames, frames
from feeder_wire import messages as m
from feeder_wire.arena import ArenaReader, ArenaWriter
from feeder_wire.errors import RemoteError
from tests.serving import until

SESSION, CLIENT = b"s" * 16, b"c" * 16


@contextmanager
def talking(folder: str | None = None, rcvhwm: int = 0) -> Iterator[tuple[Gate, zmq.Socket[bytes]]]:
    """A gate, and a client that has said Hello to it. `folder`: of blocks; `rcvhwm`: messages that the client takes unread, 0: all."""
    context = zmq.Context()
    config = ServeConfig((SourceEntry("default", target=parse_target("augment.py:train")),), bind="tcp://127.0.0.1:0")
    gate = Gate(context, config, ArenaReader([folder] if folder else []))
    dealer = context.socket(zmq.DEALER)
    try:
        dealer.linger = 0
        dealer.rcvhwm = rcvhwm
        dealer.maxmsgsize = frames.MAX_FRAME
        dealer.connect(gate.endpoint)
        dealer.send(frames.pack([m.Hello(m.WIRE_VERSION, CLIENT, "test")]))
        assert gate.socket.poll(10_000)
        assert [type(message) for _, message in gate.receive(0.0)] == [m.Hello]
        yield gate, dealer
    finally:
        dealer.close()
        gate.close()
        context.term()


def received(dealer: zmq.Socket[bytes], count: int) -> tuple[list[m.ToClient], int]:
    """So many messages, and in how many pieces they came."""
    found: list[m.ToClient] = []
    pieces = 0
    while len(found) < count:
        assert dealer.poll(10_000), f"{len(found)} of {count} have come"
        found += frames.unpack(dealer.recv(), client_frames.TO_CLIENT)
        pieces += 1
    return found, pieces


def inline(index: int, nbytes: int) -> m.Inline:
    return m.Inline(SESSION, 0, index, b"head", b"x" * nbytes, 0.0)


def test_what_is_small_goes_together() -> None:
    with talking() as (gate, dealer):
        for i in range(500):
            gate.put(CLIENT, inline(i, 100))
        gate.flush()
        found, pieces = received(dealer, 500)
        assert [message.index for message in found] == list(range(500))  # type: ignore[union-attr]
        assert pieces == 1


def test_what_is_large_is_cut() -> None:
    """As much as 64 workers may have ready at once; uncut, the client's socket would hang up on the node."""
    count = frames.MAX_FRAME // m.INLINE_BYTES + 100
    with talking() as (gate, dealer):
        for i in range(count):
            gate.put(CLIENT, inline(i, m.INLINE_BYTES))
        gate.flush()
        found, pieces = received(dealer, count)
        assert [message.index for message in found] == list(range(count))  # type: ignore[union-attr]
        assert pieces >= frames.MAX_FRAME // PORTION_BYTES


@pytest.mark.parametrize(
    "message",
    [
        m.Lent(SESSION, 0, 0, b"h" * 4_000_000, "0-0-1-1", 4096, 4096, 0.0),
        m.Failed(SESSION, 0, 0, RemoteError("SourceError", "ValueError", (), "text", "\N{BLACK HEART SUIT}" * 200_000)),
    ],
)
def test_heads_and_errors_count_too(message: m.ToClient) -> None:
    with talking() as (gate, dealer):
        for _ in range(120):
            gate.put(CLIENT, message)
        gate.flush()
        found, pieces = received(dealer, 120)
        assert found == [message] * 120
        assert pieces > 10


@pytest.mark.parametrize("rest", [0, 10, m.CHUNK_BYTES // 2])
def test_a_block_is_free_when_all_of_it_has_left(tmp_path: Path, rest: int) -> None:
    """Also where the last piece is so short that it is copied, and has left the block before those that come first."""
    nbytes = 256 * m.CHUNK_BYTES + rest  # more than the system takes in for somebody who doesn't read
    writer = ArenaWriter([str(tmp_path)], 0, 1, 1 << 30)
    block = writer.take(nbytes)
    with talking(str(tmp_path), rcvhwm=1) as (gate, dealer):
        assert gate.ship(CLIENT, m.Lent(SESSION, 0, 0, b"head", block.name, block.size, nbytes, 0.0))
        for _ in range(100):
            assert gate.shipped() == [] and gate.busy
            dealer.poll(1)
        come = 0
        while come < nbytes:
            assert dealer.poll(10_000), f"{come} of {nbytes} bytes have come"
            come += len(dealer.recv_multipart()[1])
        until(lambda: gate.shipped() == [block.name], "the block is free")
    writer.close()


def test_parts_are_larger_where_the_line_is_quick(tmp_path: Path) -> None:
    nbytes = m.QUICK_CHUNK_BYTES + 10
    writer = ArenaWriter([str(tmp_path)], 0, 1, 1 << 30)
    block = writer.take(nbytes)
    lent = m.Lent(SESSION, 0, 0, b"head", block.name, block.size, nbytes, 0.0)

    def pieces() -> list[int]:
        assert gate.ship(CLIENT, lent)
        sizes: list[int] = []
        while sum(sizes) < nbytes:
            assert dealer.poll(10_000), f"{sizes} of {nbytes} bytes have come"
            sizes.append(len(dealer.recv_multipart()[1]))
        until(lambda: gate.shipped() == [block.name], "the block is free")
        return sizes

    with talking(str(tmp_path)) as (gate, dealer):
        assert pieces() == [m.CHUNK_BYTES] * 4 + [10], "of a new line nothing is known"
        line, now = gate.peers[CLIENT].line, time.monotonic()
        for at in (now, now + 2.0):
            line.began(at)
            line.ended(at, int(10 * QUICK_RATE))
        assert pieces() == [m.QUICK_CHUNK_BYTES, 10]
    writer.close()


def test_nothing_is_sent_for_nothing() -> None:
    with talking() as (gate, dealer):
        gate.flush()
        gate.put(CLIENT, m.Pong(1))
        gate.flush()
        gate.flush()
        assert received(dealer, 1) == ([m.Pong(1)], 1)
        assert not dealer.poll(0)


def flushed_into_nothing(gate: Gate) -> None:
    """Writes to the client until its connection is known to have ended; nothing is read meanwhile."""
    for _ in range(500):
        gate.put(CLIENT, m.Pong(1))
        gate.flush()
        if gate._unreachable:
            return
        gate.socket.getsockopt(zmq.EVENTS)  # what the socket's thread has to tell is taken in
        time.sleep(0.02)
    raise AssertionError("the end of the connection was never noticed")


def test_a_client_that_has_gone() -> None:
    with talking() as (gate, dealer):
        dealer.close()
        flushed_into_nothing(gate)
        assert list(gate.receive(0.0)) == []
        assert gate.gone(0.0) == [CLIENT]
        gate.forget(CLIENT)
        assert gate.gone(0.0) == []


def test_its_last_words_are_heard_first() -> None:
    """The socket can't be written to any more while a goodbye is still to be read."""
    with talking() as (gate, dealer):
        dealer.linger = 10_000
        dealer.send(frames.pack([m.Leave()]))
        dealer.close()
        flushed_into_nothing(gate)
        for client, message in gate.receive(0.0):
            assert (client, message) == (CLIENT, m.Leave())
            gate.forget(client)
        assert gate.gone(0.0) == []


def test_one_that_is_back_on_another_connection_is_not_lost() -> None:
    with talking() as (gate, dealer):
        dealer.close()
        flushed_into_nothing(gate)
        again = gate.socket.context.socket(zmq.DEALER)
        try:
            again.linger = 0
            again.connect(gate.endpoint)
            again.send(frames.pack([m.Hello(m.WIRE_VERSION, CLIENT, "test")]))
            assert gate.socket.poll(10_000)
            assert [type(message) for _, message in gate.receive(0.0)] == [m.Hello]
            assert gate.gone(0.0) == []
        finally:
            again.close()


def test_who_is_silent_gets_a_word() -> None:
    with talking() as (gate, dealer):
        gate.knock(QUIET_SECONDS)
        gate.flush()
        assert not dealer.poll(0)
        gate.knock(QUIET_SECONDS + 0.1)
        gate.flush()
        assert received(dealer, 1) == ([m.Pong(0)], 1)


def test_a_lease_runs_out() -> None:
    with talking() as (gate, _):
        assert gate.gone(LEASE_SECONDS - 1) == []
        assert gate.gone(LEASE_SECONDS + 1) == [CLIENT]
