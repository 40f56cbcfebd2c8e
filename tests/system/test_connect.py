"""Finding the server: whichever side starts first, nobody there, somebody else there, another version there."""

from __future__ import annotations

import http.server
import re
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zmq

from feeder_client import FeederClient, FeederError, NodeUnreachable, VersionMismatch
from feeder_wire import client_frames, frames
from feeder_wire import messages as m
from tests.proxy import Proxy
from tests.serving import PATIENCE, SOURCES, Serving, free_port, serve, until


class TestWhoeverStartsFirst:
    def test_the_client_does(self, tmp_path: Path) -> None:
        endpoint = f"tcp://127.0.0.1:{free_port()}"
        got: list[Any] = []

        def train() -> None:
            try:
                with FeederClient(endpoint, connect_timeout=40) as client:
                    got.extend(int(y[0, 0]) for _, y in client)
            except FeederError as e:
                got.append(e)

        trainer = threading.Thread(target=train)
        trainer.start()
        with Serving(tmp_path, f"{SOURCES}:Numbers", "--workers", "1", "--bind", endpoint):
            trainer.join(60)
        assert got == list(range(20))

    def test_the_server_is_up_and_its_workers_are_not(self, tmp_path: Path) -> None:
        """The client waits as long as that takes, whatever its connect_timeout: it is connected, and says what it waits for."""
        (tmp_path / "slow.py").write_text(
            f"from tests.sources import hold\nhold({str(tmp_path)!r}, 'import')\nmade = [1, 2]\n", encoding="utf-8"
        )
        endpoint = f"tcp://127.0.0.1:{free_port()}"
        env = {"PYTHONPATH": str(SOURCES.parents[1])}
        with Serving(tmp_path, "slow.py:made", "--workers", "1", "--bind", endpoint, env=env) as node:
            got: list[Any] = []

            def train() -> None:
                with FeederClient(endpoint, connect_timeout=PATIENCE) as client:
                    got.extend(client)

            until(lambda: list(tmp_path.glob("at-import-*")), "the worker is at its import")
            trainer = threading.Thread(target=train)
            trainer.start()
            node.says(" connected")
            opened = time.monotonic()
            until(lambda: time.monotonic() - opened > 2 * PATIENCE, "twice the time-out goes by")
            assert trainer.is_alive()
            (tmp_path / "go").touch()
            trainer.join(30)
            assert got == [1, 2]


class TestBehindARelay:
    """Docker's, ssh's and load balancers' relays accept connections for a server that is away, and hang up."""

    def test_the_server_comes_late(self, tmp_path: Path) -> None:
        server = f"tcp://127.0.0.1:{free_port()}"
        with Proxy(server) as proxy, ThreadPoolExecutor(1) as pool:
            opening = pool.submit(FeederClient, proxy.endpoint, connect_timeout=60)
            until(lambda: proxy.counters.accepted > 8, "it tries again and again")
            assert not opening.done()
            with serve(tmp_path, f"{SOURCES}:Numbers", bind=server), opening.result(60) as client:
                assert [int(y[0, 0]) for _, y in client] == list(range(20))

    @pytest.mark.parametrize("source", ["Numbers", "sharded"])
    def test_the_server_is_killed_and_comes_back(self, tmp_path: Path, source: str) -> None:
        server = f"tcp://127.0.0.1:{free_port()}"
        with serve(tmp_path, f"{SOURCES}:{source}", bind=server) as node, Proxy(server) as proxy, ThreadPoolExecutor(1) as pool:
            with FeederClient(proxy.endpoint, prefetch=1, connect_timeout=60) as client:
                batches = iter(client)
                got = [next(batches)]
                node.kill()
                reading = pool.submit(lambda: [*got, *batches])
                until(lambda: proxy.counters.accepted > 8, "it tries again and again")
                assert not reading.done()
                with serve(tmp_path, f"{SOURCES}:{source}", bind=server):
                    numbers = [int(batch[1][0, 0]) if source == "Numbers" else batch for batch in reading.result(60)]
                    assert numbers == list(range(20))


class TestNobodyThere:
    def test_it_says_where_and_how_long(self) -> None:
        endpoint = f"tcp://127.0.0.1:{free_port()}"
        with pytest.raises(NodeUnreachable, match=re.escape(f"no server answers at {endpoint} (tried for 0.3 s)")):
            FeederClient(endpoint, connect_timeout=0.3)

    def test_of_several_all_are_named(self) -> None:
        endpoints = [f"tcp://127.0.0.1:{free_port()}" for _ in range(2)]
        with pytest.raises(NodeUnreachable, match=re.escape(", ".join(endpoints))):
            FeederClient(endpoints, connect_timeout=0.3)

    def test_one_of_two_is_enough(self, tmp_path: Path) -> None:
        with serve(tmp_path, f"{SOURCES}:Numbers") as node:
            with FeederClient([f"tcp://127.0.0.1:{free_port()}", node.endpoint], connect_timeout=20) as client:
                assert [int(y[0, 0]) for _, y in client] == list(range(20))

    def test_a_name_that_does_not_exist(self) -> None:
        with pytest.raises(NodeUnreachable, match=re.escape("tcp://no-such-host.invalid:5555")):
            FeederClient("tcp://no-such-host.invalid:5555", connect_timeout=0.3)

    def test_a_notebook_can_try_again(self, tmp_path: Path) -> None:
        """A failed attempt leaves nothing behind (the fixture looks) and does not stand in the way."""
        endpoint = f"tcp://127.0.0.1:{free_port()}"
        with pytest.raises(NodeUnreachable):
            FeederClient(endpoint, connect_timeout=0.2)
        with serve(tmp_path, f"{SOURCES}:Numbers", bind=endpoint), FeederClient(endpoint) as client:
            assert len(list(client)) == 20


@contextmanager
def web_server() -> Iterator[str]:
    """Something that talks HTTP; gives its endpoint."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"tcp://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def talker(words: bytes) -> Iterator[str]:
    """Accepts, says `words`, and then nothing; gives its endpoint."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        listening.settimeout(0.05)
        ending = threading.Event()

        def accept() -> None:
            taken: list[socket.socket] = []
            while not ending.is_set():
                try:
                    connection, _ = listening.accept()
                except TimeoutError:
                    continue
                connection.sendall(words)
                taken.append(connection)
            for connection in taken:
                connection.close()

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield f"tcp://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            ending.set()
            thread.join()


class TestSomebodyElseThere:
    """No hang and no mystery: an error that names the endpoint and says what to check."""

    def test_a_web_server(self) -> None:
        with web_server() as endpoint, pytest.raises(NodeUnreachable, match=re.escape(endpoint)):
            FeederClient(endpoint, connect_timeout=3)

    @pytest.mark.parametrize("words", [b"", b"SSH-2.0-OpenSSH_9.6\r\n", b"\x00" * 64], ids=["silent", "ssh", "zeros"])
    def test_something_that_is_no_feeder(self, words: bytes) -> None:
        with talker(words) as endpoint, pytest.raises(NodeUnreachable, match=re.escape(endpoint)):
            FeederClient(endpoint, connect_timeout=1)

    def test_a_zmq_socket_that_never_answers(self) -> None:
        """Connected is not served: somebody's DEALER that takes our Hello and says nothing."""
        context = zmq.Context()
        with context.socket(zmq.ROUTER) as router:
            router.linger = 0
            port = router.bind_to_random_port("tcp://127.0.0.1")
            with pytest.raises(NodeUnreachable, match=f"127.0.0.1:{port}"):
                FeederClient(f"tcp://127.0.0.1:{port}", connect_timeout=1)
        context.term()

    @pytest.mark.parametrize("words", [b"hello", b"\x91\x91\x05", msgpack.packb([[20, 1]])], ids=["text", "unknown_message", "too_short"])
    def test_a_zmq_socket_that_talks_nonsense(self, words: bytes) -> None:
        with peer(words) as (endpoint, _), pytest.raises(FeederError, match=re.escape(endpoint)):
            FeederClient(endpoint, connect_timeout=3)


@contextmanager
def peer(answer: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """A ROUTER that answers every message with `answer`; gives its endpoint, and what it has heard."""
    context = zmq.Context()
    heard: list[bytes] = []
    ending = threading.Event()
    endpoint: list[str] = []
    ready = threading.Event()

    def run() -> None:
        with context.socket(zmq.ROUTER) as router:
            router.linger = 0
            endpoint.append(f"tcp://127.0.0.1:{router.bind_to_random_port('tcp://127.0.0.1')}")
            ready.set()
            while not ending.is_set():
                if router.poll(50):
                    identity, *rest = router.recv_multipart()
                    heard.extend(rest)
                    router.send_multipart([identity, answer])

    thread = threading.Thread(target=run)
    thread.start()
    assert ready.wait(10)
    try:
        yield endpoint[0], heard
    finally:
        ending.set()
        thread.join()
        context.term()


class TestVersions:
    """Whoever is older is told to upgrade, on the side where somebody looks: the training."""

    def test_a_server_that_refuses_our_version(self) -> None:
        answer = frames.pack([m.Refuse("VersionMismatch", "the client speaks version 1 of feeder's protocol, the server version 2")])
        with peer(answer) as (endpoint, heard), pytest.raises(VersionMismatch, match="the client speaks version 1"):
            FeederClient(endpoint, connect_timeout=10)
        assert client_frames.first_version(heard[:1]) == m.WIRE_VERSION

    @pytest.mark.parametrize("fields", [[], ["more", 7]], ids=["same_fields", "other_fields"])
    def test_a_server_of_another_version(self, fields: list[Any]) -> None:
        welcome = [m.Welcome.CODE, m.WIRE_VERSION + 1, "node", 2, ["/nowhere"], "nonce", 1, *fields]
        with peer(msgpack.packb([welcome])) as (endpoint, _), pytest.raises(VersionMismatch, match=f"version {m.WIRE_VERSION + 1}"):
            FeederClient(endpoint, connect_timeout=10)

    @pytest.mark.parametrize("fields", [[], ["more", 7]], ids=["same_fields", "other_fields"])
    def test_a_client_of_another_version(self, tmp_path: Path, fields: list[Any]) -> None:
        """It is refused in words that any version can read; others are served on."""
        with serve(tmp_path, f"{SOURCES}:Numbers") as node:
            context = zmq.Context()
            with context.socket(zmq.DEALER) as dealer:
                dealer.linger = 0
                dealer.connect(node.endpoint)
                dealer.send(msgpack.packb([[m.Hello.CODE, m.WIRE_VERSION + 1, b"x" * 16, "a client of tomorrow", [], *fields]]))
                assert dealer.poll(20000)
                (answer,) = frames.unpack(dealer.recv(), client_frames.TO_CLIENT)
                assert isinstance(answer, m.Refuse)
                assert answer.kind == "VersionMismatch"
                theirs, ours = m.WIRE_VERSION + 1, m.WIRE_VERSION
                text = f"the client speaks version {theirs} of feeder's protocol, the server version {ours}: upgrade the server"
                assert answer.text == text
            context.term()
            with FeederClient(node.endpoint) as client:
                assert len(list(client)) == 20
        assert "Traceback" not in node.output


class TestHostileClients:
    """Peers that a server outlives; each is named once in the log."""

    @pytest.mark.parametrize(
        "words",
        [
            b"GET / HTTP/1.1\r\n\r\n",
            b"\x91\x91\x05",
            msgpack.packb([[m.Hello.CODE]]),
            msgpack.packb([[m.Welcome.CODE, m.WIRE_VERSION, "n", 1, [], "", 1]]),
            msgpack.packb([[m.Hello.CODE, m.WIRE_VERSION, b"short", "name", []]]),
            msgpack.packb([[m.Hello.CODE, m.WIRE_VERSION, b"x" * 16, "n", []], [m.Release.CODE, ["../../etc/passwd"]]]),
            b"\xdd\xff\xff\xff\xff",
        ],
        ids=["http", "unknown_message", "too_short", "a_nodes_message", "bad_field", "bad_block", "huge_list"],
    )
    def test_nonsense(self, node: Serving, words: bytes) -> None:
        before = node.stderr.count("ignoring a peer")
        context = zmq.Context()
        with context.socket(zmq.DEALER) as dealer:
            dealer.linger = 0
            dealer.connect(node.endpoint)
            dealer.send(words)
            until(lambda: node.stderr.count("ignoring a peer") > before, lambda: node.output)
            dealer.send(words)
            dealer.send_multipart([words, words])
            with FeederClient(node.endpoint) as client:
                assert len(list(client)) == 20
            assert node.stderr.count("ignoring a peer") == before + 1
        context.term()
        assert "Traceback" not in node.output

    def test_a_stranger_on_the_port(self, node: Serving) -> None:
        """A scanner that connects and says something that is no ZMTP at all."""
        host, _, port = node.endpoint.removeprefix("tcp://").rpartition(":")
        for words in (b"", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\x00", b"\xff" + b"\x00" * 200):
            with socket.create_connection((host, int(port)), 10) as stranger:
                stranger.sendall(words)
                with FeederClient(node.endpoint) as client:
                    assert len(list(client)) == 20

    def test_an_unknown_session_is_told_so(self, node: Serving) -> None:
        """A client whose lease ran out begins anew: it is not shut out."""
        context = zmq.Context()
        with context.socket(zmq.DEALER) as dealer:
            dealer.linger = 0
            dealer.connect(node.endpoint)
            for message in (m.Ping(1), m.Ask(b"s" * 16, 0, (0,))):
                dealer.send(frames.pack([message]))
                assert dealer.poll(20000)
                (answer,) = frames.unpack(dealer.recv(), client_frames.TO_CLIENT)
                assert isinstance(answer, m.Unknown)
            dealer.send(frames.pack([m.Hello(m.WIRE_VERSION, b"c" * 16, "again")]))
            assert dealer.poll(20000)
            assert isinstance(frames.unpack(dealer.recv(), client_frames.TO_CLIENT)[0], m.Welcome)
        context.term()


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """One for all hostile clients: it has to outlive them."""
    with serve(tmp_path_factory.mktemp("node"), f"{SOURCES}:Numbers") as node:
        yield node
