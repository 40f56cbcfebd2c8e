"""Looking at what is no node, or no node of ours: each is told from the others. Peers are sockets of this process."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import zmq

from feeder_server.report import to_text
from feeder_server.status import Keys, Visitor, check_mechanism
from feeder_wire import frames
from feeder_wire import messages as m
from feeder_wire.errors import AuthenticationError, ConfigError, FeederError, NodeUnreachable, VersionMismatch
from feeder_wire.security import KeyPair
from tests.server.test_report import REPORT
from tests.serving import free_port

WELCOME = m.Welcome(m.WIRE_VERSION, "tcp://x", 1, (), "nonce", 1)


@contextmanager
def listener(answer: bytes | None) -> Iterator[str]:
    """Something that is no ZeroMQ: it says `answer` to whoever connects, or nothing at all, or (None) hangs up."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        server.settimeout(0.02)
        done = threading.Event()

        def serve() -> None:
            with ExitStack() as held:
                while not done.is_set():
                    try:
                        connection, _ = server.accept()
                    except TimeoutError:
                        continue
                    if answer is None:
                        connection.close()
                        continue
                    held.enter_context(connection)
                    connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"tcp://127.0.0.1:{server.getsockname()[1]}"
        finally:
            done.set()
            thread.join()


@contextmanager
def peer(*answers: bytes | list[Any]) -> Iterator[str]:
    """A ROUTER that answers each message with the next of `answers`: messages of ours, or bytes."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        router.linger = 0
        port = router.bind_to_random_port("tcp://127.0.0.1")
        done = threading.Event()

        def serve() -> None:
            left = list(answers)
            while not done.is_set():
                if router.poll(20):
                    identity, *_ = router.recv_multipart()
                    if left:
                        answer = left.pop(0)
                        router.send_multipart([identity, answer if isinstance(answer, bytes) else frames.pack(answer)])

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"tcp://127.0.0.1:{port}"
        finally:
            done.set()
            thread.join()


def refused(kind: type[FeederError], endpoint: str, keys: Keys | None = None, timeout: float = 20.0, within: float = 15.0) -> str:
    started = time.monotonic()
    with pytest.raises(kind) as caught:
        with Visitor(endpoint, keys, timeout) as visitor:
            visitor.look()
    assert type(caught.value) is kind
    assert time.monotonic() - started < within
    assert "\n" not in str(caught.value)
    assert endpoint in str(caught.value)
    return str(caught.value)


def keys() -> Keys:
    return Keys(KeyPair.fresh(), KeyPair.fresh().public)


def test_what_a_node_says() -> None:
    with peer([WELCOME], [m.Retired(()), m.Pong(1), m.Status(to_text(REPORT))], [m.Status(to_text(REPORT))]) as endpoint:
        with Visitor(endpoint) as visitor:
            assert visitor.look() == visitor.look() == REPORT


def test_nothing_is_there() -> None:
    said = refused(NodeUnreachable, f"tcp://127.0.0.1:{free_port()}", timeout=0.3)
    assert "nothing answers at" in said and "tried for 0.3 s" in said


def test_a_name_that_nobody_has() -> None:
    assert "nothing answers" in refused(NodeUnreachable, f"tcp://{'x' * 70}.invalid:1", timeout=0.3)


@pytest.mark.parametrize("answer", [b"HTTP/1.0 400 Bad Request\r\n\r\n", b"SSH-2.0-OpenSSH_9.6\r\n", b"\xff" * 64, b"\xff", b"", None])
@pytest.mark.parametrize("locked", [False, True])
def test_what_is_no_zeromq(answer: bytes | None, locked: bool) -> None:
    with listener(answer) as endpoint:
        assert "it does not speak ZeroMQ" in refused(NodeUnreachable, endpoint, keys() if locked else None)


def test_a_node_that_comes_up_while_it_is_looked_for() -> None:
    port = free_port()
    found: list[object] = []

    def look() -> None:
        with Visitor(f"tcp://127.0.0.1:{port}", timeout=20) as visitor:
            found.append(visitor.look())

    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        thread = threading.Thread(target=look)
        thread.start()
        router.linger = 0
        router.bind(f"tcp://127.0.0.1:{port}")
        for answer in (WELCOME, m.Status(to_text(REPORT))):
            assert router.poll(20_000)
            router.send_multipart([router.recv_multipart()[0], frames.pack([answer])])
        thread.join()
    assert found == [REPORT]


def test_a_peer_that_says_nothing() -> None:
    with peer() as endpoint:
        assert "does not answer as a feeder-server does (waited for 0.5 s)" in refused(NodeUnreachable, endpoint, timeout=0.5)


@pytest.mark.parametrize("answer", [b"hello", b"", b"\x91\x91\x63"])
def test_a_peer_that_says_something_else(answer: bytes) -> None:
    with peer(answer) as endpoint:
        assert "not as a feeder-server does" in refused(NodeUnreachable, endpoint)


def test_a_node_that_goes_away_between_two_looks() -> None:
    with peer([WELCOME]) as endpoint:
        assert "does not answer any more" in refused(NodeUnreachable, endpoint, timeout=1)


@pytest.mark.parametrize(
    ("answers", "kind", "words"),
    [
        (
            ([m.Welcome(99, "tcp://x", 1, (), "", 1)],),
            VersionMismatch,
            f"speaks version 99 of feeder's protocol, this one version {m.WIRE_VERSION}: upgrade this",
        ),
        ((b"\x91\x93\x14\x63\x01",), VersionMismatch, "version 99"),
        (([m.Refuse("VersionMismatch", "the client speaks version 1")],), VersionMismatch, "this feeder-server speaks version 1"),
        (([WELCOME], [m.Refuse("ProtocolError", "message 10 is unknown here")]), VersionMismatch, "upgrade it (message 10"),
        (([WELCOME], [m.Status("{}")]), VersionMismatch, "can't be read (it has no 'version')"),
        (([WELCOME], [m.Unknown(bytes(16))]), NodeUnreachable, "was restarted meanwhile"),
        (([WELCOME], [m.Goodbye("", "\x1b[2J\nbye")]), NodeUnreachable, "has ended: \\x1b[2J bye"),
        (([WELCOME], [m.Goodbye("", "it got SIGTERM")]), NodeUnreachable, "has ended: it got SIGTERM"),
    ],
)
def test_a_node_that_does_not_fit(answers: tuple[Any, ...], kind: type[FeederError], words: str) -> None:
    with peer(*answers) as endpoint:
        assert words in refused(kind, endpoint)


@pytest.mark.parametrize(
    ("mechanism", "locked", "words"),
    [
        ("CURVE", False, "wants keys: give --keys"),
        ("NULL", True, "has no keys: leave out --keys"),
        ("PLAIN", False, "no feeder-server"),
        ("", True, "no feeder-server"),
    ],
)
def test_keys_by_the_greeting(mechanism: str, locked: bool, words: str) -> None:
    with pytest.raises(NodeUnreachable, match=words):
        check_mechanism("tcp://a:1", mechanism, locked)
    check_mechanism("tcp://a:1", "NULL", False)
    check_mechanism("tcp://a:1", "CURVE", True)


def test_keys_for_a_node_that_has_none() -> None:
    with peer() as endpoint:
        assert "has no keys" in refused(AuthenticationError, endpoint, keys())


@pytest.mark.parametrize("endpoint", ["", "127.0.0.1:5", "tcp://127.0.0.1:0", "ipc:///tmp/x"])
def test_what_is_no_endpoint(endpoint: str) -> None:
    visit: Callable[[], Visitor] = lambda: Visitor(endpoint)  # noqa: E731
    with pytest.raises(ConfigError):
        visit()
