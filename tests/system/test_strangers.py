"""Who is no client at a node's port, and what is no node at the address a client was given."""

from __future__ import annotations

import random
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import zmq

from feeder_client import FeederClient, FeederError
from tests.serving import SOURCES, serve, until
from tests.system.training import Training, is_number

psutil = pytest.importorskip("psutil")
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01NULL" + bytes(16) + bytes(32)
RNG = random.Random(11)
SAID = {
    "nothing": b"",
    "http": b"GET / HTTP/1.1\r\nHost: feeder\r\n\r\n",
    "tls": bytes.fromhex("16030100f1010000ed0303") + RNG.randbytes(200),
    "ssh": b"SSH-2.0-OpenSSH_9.6\r\n",
    "random": RNG.randbytes(3000),
    "half a greeting": GREETING[:11],
    "a greeting": GREETING,
    "a greeting, a wrong frame": GREETING + b"\x04\x05READY" + RNG.randbytes(40),
}


def knock(port: int, words: bytes) -> socket.socket:
    """Connects, says that, and stays."""
    made = socket.create_connection(("127.0.0.1", port), timeout=20)
    with suppress(OSError):  # it has hung up already
        made.sendall(words)
    return made


def test_scanners_and_two_hundred_connections(tmp_path: Path) -> None:
    """Beside a training: it goes on, others come in, the node keeps nothing of it and has next to nothing to do."""
    with serve(tmp_path, f"{SOURCES}:Numbers", "-a", "n=200") as node, FeederClient(node.endpoint) as client:
        port = int(node.endpoint.rpartition(":")[2])
        process = psutil.Process(node.pid)
        count = process.num_handles if hasattr(process, "num_handles") else process.num_fds
        descriptors = count()
        training = Training(client, 200, is_number)
        try:
            for words in list(SAID.values()) * 4:
                knock(port, words).close()
            until(lambda: training.passes or training.wrong, "the training goes on")
            stay = [knock(port, words) for words in list(SAID.values()) * 25]
            passes = training.passes
            until(lambda: training.passes > passes + 1 or training.wrong, "the training goes on")
            with FeederClient(node.endpoint) as another:
                assert all(is_number(i, batch) for i, batch in enumerate(another))
        finally:
            training.end()
        before = sum(process.cpu_times()[:2])
        began = time.monotonic()
        until(lambda: time.monotonic() - began > 2, "two seconds go by")
        assert sum(process.cpu_times()[:2]) - before < 0.8  # as always when nobody asks for anything
        for one in stay:
            one.close()
        # The first message that pyzmq has to watch costs it some, once.
        until(lambda: count() <= descriptors + 12, lambda: f"{count()} descriptors, and {descriptors} before")
        assert client.stats().reconnects == 0
        assert "Traceback" not in node.stderr


@contextmanager
def zmq_socket(kind: int) -> Iterator[str]:
    """Somebody else's ZeroMQ socket, which answers what it can; gives its endpoint."""
    context = zmq.Context()
    ending, ready = threading.Event(), threading.Event()
    endpoint: list[str] = []

    def run() -> None:
        made: Any = context.socket(kind)
        made.linger = 0
        endpoint.append(f"tcp://127.0.0.1:{made.bind_to_random_port('tcp://127.0.0.1')}")
        ready.set()
        while not ending.is_set():
            if kind == zmq.PUB:
                made.send(b"news")
                ending.wait(0.05)
            elif made.poll(50):
                with suppress(zmq.ZMQError):  # REP throws away what has no envelope, and PULL has no answer
                    made.recv_multipart(zmq.NOBLOCK)
                    made.send(b"welcome", zmq.NOBLOCK)
        made.close()

    thread = threading.Thread(target=run)
    thread.start()
    assert ready.wait(20)
    try:
        yield endpoint[0]
    finally:
        ending.set()
        thread.join(20)
        context.term()


@pytest.mark.parametrize("kind", [zmq.REP, zmq.PUB, zmq.PULL, zmq.DEALER], ids=["rep", "pub", "pull", "dealer"])
def test_another_zmq_socket_where_a_node_should_be(kind: int) -> None:
    """An error that names the endpoint, in the time that was given."""
    with zmq_socket(kind) as endpoint:
        began = time.monotonic()
        with pytest.raises(FeederError, match=re.escape(endpoint)):
            FeederClient(endpoint, connect_timeout=2)
        assert time.monotonic() - began < 30
