"""Rubbish over real sockets: the node serves the others on, the client says what is wrong, and neither grows, hangs or fills its log.

Seeds are fixed. What the frames are made of is in tests/wire/mutating.py; the decoders alone are tried in tests/wire/test_fuzz.py.
"""

from __future__ import annotations

import logging
import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import zmq

from feeder_client import FeederClient, FeederError
from feeder_server.crew import MOST_STRANGERS
from feeder_wire import client_frames, frames
from feeder_wire import messages as m
from feeder_wire import worker_messages as w
from feeder_wire.errors import RemoteError
from tests.serving import SOURCES, Serving, serve, until
from tests.system.training import Training, is_pattern
from tests.wire.mutating import mutated
from tests.wire.test_fuzz import SEED

CONNECTIONS, EACH = 60, 40
RSS_BYTES = 48 << 20
SESSION, CLIENT = b"hostile session!", b"hostile client !"
TO_NODE: list[Any] = [
    m.Hello(m.WIRE_VERSION, CLIENT, "hostile"),
    m.Open(SESSION, "default", True),
    m.Open(bytes(16), "default", False),  # the session in which a node compares its copies
    m.Ask(SESSION, 0, tuple(range(8))),
    m.Ask(SESSION, 0, (m.MAX_INDEX,)),
    m.Cancel(SESSION, 1),
    m.Release(("0-1-2-3", "0-0-1-0")),
    m.Ping(1),
    m.Look(),
    m.Close(SESSION),
    m.Leave(),
]
OOPS = RemoteError("SourceError", "ValueError", ("ValueError",), "oops", "Traceback ...", "worker 0")
FROM_WORKER: list[Any] = [w.Joined(0, 1, b"guess" * 6), w.Made(1, b"\x01\x00\xc0", b"", 0.1), w.TaskFailed(2, OOPS), w.TaskEnded(3)]


def size_of(node: Serving) -> tuple[int, int]:
    """(bytes in memory, descriptors or handles) of the node's own process."""
    psutil = pytest.importorskip("psutil")
    process = psutil.Process(node.pid)
    count = process.num_handles() if hasattr(process, "num_handles") else process.num_fds()
    return process.memory_info().rss, count


@contextmanager
def dealer(endpoint: str) -> Iterator[zmq.Socket[bytes]]:
    """A connection of which the node knows nothing yet."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as made:
        made.linger = 2000
        made.connect(endpoint)
        yield made


def attack(endpoint: str, rng: random.Random) -> None:
    """One connection: some begin as they should, and then all go wrong."""
    with dealer(endpoint) as peer:
        for message in TO_NODE[: rng.choice((0, 0, 1, 2, 4))]:
            peer.send(frames.pack([message]))
        for _ in range(EACH):
            frame = mutated(rng, frames.pack(rng.choices(TO_NODE, k=rng.choice((1, 2, 4)))))
            peer.send_multipart([frame, *[rng.randbytes(50) for _ in range(rng.choice((0, 0, 0, 1, 5)))]])
        peer.send(b"\xc1")  # wrong in any case
        # The answer to it, after whatever was answered before: the node has come to the end of all that.
        refused = lambda: b"ProtocolError" in peer.recv() if peer.poll(100) else False  # noqa: E731
        until(refused, "the node refuses what is no message")


def shout(endpoint: str, rng: random.Random) -> None:
    """Bytes that are not even ZeroMQ's."""
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(48)
    with socket.create_connection((host, int(port)), timeout=20) as peer:
        try:
            peer.sendall(rng.choice((b"", greeting[:40], greeting)) + rng.randbytes(rng.choice((1, 64, 5000))))
        except OSError:  # it has hung up already
            pass


def test_a_node_between_a_training_and_some_thousand_mutated_frames(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    with serve(tmp_path, f"{SOURCES}:Blocks", "-a", "n=40", workers=2) as node, FeederClient(node.endpoint) as client:
        training = Training(client, 40, is_pattern(64 * 1024))
        try:
            until(lambda: training.passes or training.wrong, "the training is under way")
            for _ in range(5):  # what is allocated once
                attack(node.endpoint, rng)
            rss, descriptors = size_of(node)
            for _ in range(CONNECTIONS):
                attack(node.endpoint, rng)
                shout(node.endpoint, rng)
            assert node.popen.poll() is None
            passes = training.passes
            until(lambda: training.passes > passes + 1 or training.wrong, "the training goes on")
        finally:
            training.end()
        # The first message that pyzmq has to watch costs it some, once.
        until(lambda: size_of(node)[1] <= descriptors + 12, lambda: f"{size_of(node)[1]} descriptors, and {descriptors} before")
        assert size_of(node)[0] < rss + RSS_BYTES
        # One line for each; some of what was shouted passes for ZMTP 1, which had no handshake.
        assert CONNECTIONS + 5 <= node.stderr.count("ignoring a peer") <= 2 * CONNECTIONS + 5
        assert "Traceback" not in node.stderr
        assert " ended: " not in node.stderr
        assert client.stats().reconnects == 0


def test_offenders_without_end(tmp_path: Path) -> None:
    """Who connects again and again fills neither the log nor the memory; what the node remembers of them goes when they have gone."""
    constants = {"feeder_server.gate.MOST_BANNED": 16, "feeder_server.gate.FIRST_OFFENDERS": 10}
    with serve(tmp_path, f"{SOURCES}:Numbers", constants=constants) as node:
        for _ in range(70):
            with dealer(node.endpoint) as peer:
                peer.send(b"\xc1")
                until(lambda: b"ProtocolError" in peer.recv() if peer.poll(100) else False, "the answer")
        with FeederClient(node.endpoint) as client:
            assert len(list(client)) == 20
        node.says("the 64th of its kind")
        assert node.stderr.count("ignoring a peer") == 10 + 3  # and at 16, 32, 64


def test_the_workers_port(tmp_path: Path) -> None:
    """Any process of this machine can reach it. Each that is no worker is named once, and what it says changes nothing."""
    psutil = pytest.importorskip("psutil")
    rng = random.Random(SEED)
    with serve(tmp_path, f"{SOURCES}:Blocks", "-a", "n=40", workers=2) as node, FeederClient(node.endpoint) as client:
        listening = {c.laddr.port for c in psutil.Process(node.pid).net_connections("tcp") if c.status == psutil.CONN_LISTEN}
        (port,) = listening - {int(node.endpoint.rpartition(":")[2])}
        training = Training(client, 40, is_pattern(64 * 1024))
        try:
            for _ in range(8):
                with dealer(f"tcp://127.0.0.1:{port}") as peer:
                    peer.send(frames.pack(FROM_WORKER))  # all as it should be, but for the token
                    for _ in range(100):
                        peer.send(mutated(rng, frames.pack(rng.choices(FROM_WORKER, k=2))))
            until(lambda: node.stderr.count("ignoring") >= 8, lambda: node.output)
            passes = training.passes
            until(lambda: training.passes > passes + 1 or training.wrong, "the training goes on")
        finally:
            training.end()
        assert node.stderr.count("ignoring") == 8 < MOST_STRANGERS
        assert " ended: " not in node.stderr


# ------------------------------------------------------------------------------------------------------------ a fake node


class FakeNode:
    """Answers every message with what `answer` makes of its number, as a node that is out of its mind; see `fake`."""

    def __init__(self, manner: str) -> None:
        self.hellos = 0
        self._manner, self._rng = manner, random.Random(f"{SEED} {manner}")
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.linger = 0
        self._socket.maxmsgsize = frames.MAX_FRAME
        self.endpoint = f"tcp://127.0.0.1:{self._socket.bind_to_random_port('tcp://127.0.0.1')}"
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._ending.is_set():
            if not self._socket.poll(50):
                continue
            identity, frame, *_ = self._socket.recv_multipart()
            hello = any(isinstance(message, m.Hello) for message in frames.unpack(frame, client_frames.TO_NODE))
            self.hellos += hello
            for answer in self._answers(hello):
                self._socket.send_multipart([identity, *answer])

    def _answers(self, hello: bool) -> Iterator[list[bytes]]:
        if self._manner != "at once" and hello:
            yield [frames.pack([m.Welcome(m.WIRE_VERSION, self.endpoint, 2, (), "no such nonce", 1 << 20)])]
        elif self._manner == "never knows us":
            yield [frames.pack([m.Unknown(bytes(16))])]
        elif self._manner == "huge parts":
            for index in range(5):
                yield [frames.pack([m.Part(SESSION, 0, index, b"head", 0, m.MAX_BATCH_BYTES, 0.1)]), bytes(100)]
        else:
            for _ in range(20):
                frame = mutated(self._rng, frames.pack(self._rng.choices(TO_CLIENT, k=2)))
                yield [frame, *[self._rng.randbytes(50) for _ in range(self._rng.choice((0, 0, 1, 4)))]]

    def close(self) -> None:
        """Ends it."""
        self._ending.set()
        self._thread.join(30)
        self._socket.close()
        self._context.term()


TO_CLIENT: list[Any] = [
    m.Welcome(m.WIRE_VERSION, "tcp://127.0.0.1:1", 2, (), "", 0),
    m.Inline(SESSION, 0, 1, b"\x01\x00\xc0", b"", 0.1),
    m.Lent(SESSION, 0, 2, b"\x01\x00\xc0", "0-0-1-0", 65536, 100, 0.1),
    m.Part(SESSION, 0, 3, b"\x01\x00\xc0", 0, 1000, 0.1),
    m.Ended(SESSION, 0, 4),
    m.Failed(SESSION, 0, 5, OOPS),
    m.Progress(SESSION, "busy"),
    m.Retired(("0-0-1-0",)),
    m.Pong(7),
    m.Verdict(SESSION, "parallel", "", False, True, (("batch", b"digest", True),)),
]
MANNERS = ["at once", "after a welcome", "never knows us", "huge parts"]


@pytest.fixture(params=MANNERS)
def fake(request: pytest.FixtureRequest) -> Iterator[FakeNode]:
    made = FakeNode(request.param)
    yield made
    made.close()


def test_a_client_of_a_fake_node(fake: FakeNode) -> None:
    """No hang: an error of feeder's within the time that was given, and few attempts in it."""
    started = time.monotonic()
    with pytest.raises(FeederError):
        FeederClient(fake.endpoint, connect_timeout=2)
        pytest.fail("it can't be served by that")
    assert time.monotonic() - started < 30


def test_a_client_of_a_good_node_and_a_fake_one(tmp_path: Path, fake: FakeNode, caplog: pytest.LogCaptureFixture) -> None:
    """The good one serves it all; the other one is tried once in a while, and named once."""
    psutil = pytest.importorskip("psutil")
    caplog.set_level(logging.WARNING, "feeder.client")
    with serve(tmp_path, f"{SOURCES}:Blocks", "-a", "n=40") as node, FeederClient([node.endpoint, fake.endpoint]) as client:
        training = Training(client, 40, is_pattern(64 * 1024))
        try:
            until(lambda: training.passes > 1 or training.wrong, "the training is under way")
            rss, hellos, before = psutil.Process().memory_info().rss, fake.hellos, time.monotonic()
            until(lambda: fake.hellos >= hellos + 2, "the other one is tried again")
            # With a rest in between, apart from the one that may be under way.
            assert fake.hellos - hellos <= 3 + (time.monotonic() - before)
        finally:
            training.end()
        assert psutil.Process().memory_info().rss < rss + RSS_BYTES
        said = [r.getMessage() for r in caplog.records if fake.endpoint in r.getMessage()]
        assert len(said) <= 4, said  # three lost connections, before it is left alone for a while, and what is wrong with it
