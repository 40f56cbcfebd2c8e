"""The relay that tests put between a client and a node does to the bytes what its methods say."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, nullcontext, suppress

import pytest

from tests.proxy import Proxy
from tests.serving import ON_WINDOWS, until


class Echo:
    """Sends back what it gets, until the peer closes; counts the connections."""

    def __init__(self) -> None:
        self.ends: list[socket.socket] = []
        self._closing = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            end, _ = self._listener.accept()
            if self._closing:
                end.close()
                return
            self.ends.append(end)
            self._threads.append(threading.Thread(target=self._serve, args=(end,)))
            self._threads[-1].start()

    def _serve(self, end: socket.socket) -> None:
        with end, suppress(OSError):
            while data := end.recv(65536):
                end.sendall(data)

    def close(self) -> None:
        self._closing = True
        for end in self.ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        socket.create_connection(self._listener.getsockname(), 10).close()
        for thread in self._threads:
            thread.join(30)
        self._listener.close()


@pytest.fixture
def echo() -> Iterator[Echo]:
    with closing(Echo()) as made:
        yield made


@pytest.fixture
def proxy(echo: Echo) -> Iterator[Proxy]:
    with Proxy(echo.endpoint, seed=3) as made:
        yield made


def connect(proxy: Proxy) -> socket.socket:
    host, _, port = proxy.endpoint.removeprefix("tcp://").rpartition(":")
    return socket.create_connection((host, int(port)), 20)


def receive(end: socket.socket, nbytes: int) -> bytes:
    """Up to so many bytes: fewer where the connection ends before."""
    got = b""
    with suppress(ConnectionError):
        while len(got) < nbytes and (data := end.recv(nbytes - len(got))):
            got += data
    return got


def broken(end: socket.socket) -> bool:
    try:
        return end.recv(1) == b""
    except ConnectionError:
        return True


BYTES = random.Random(1).randbytes(300_000)


def send(end: socket.socket, data: bytes) -> None:
    with suppress(OSError):
        end.sendall(data)


def exchange(proxy: Proxy, data: bytes = b"hello") -> bytes:
    """What comes back of `data` on a new connection."""
    with connect(proxy) as end:
        sender = threading.Thread(target=send, args=(end, data))
        sender.start()
        got = receive(end, len(data))
        sender.join(30)
        return got


@pytest.mark.skipif(ON_WINDOWS, reason="accept itself says there that the connection was reset")
@pytest.mark.parametrize("resets", [True, False])
def test_what_was_not_accepted_may_not_be_reset(resets: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.proxy.RESETS_BEFORE_ACCEPT", resets)
    with socket.create_server(("127.0.0.1", 0)) as server, Proxy(f"tcp://127.0.0.1:{server.getsockname()[1]}") as proxy:
        with connect(proxy) as end:
            end.sendall(b"hello")
            until(lambda: proxy.counters.up_bytes == 5, "it is connected")
            proxy.drop()
        accepted, _ = server.accept()
        with accepted, pytest.raises(ConnectionResetError) if resets else nullcontext():
            assert (accepted.recv(5), accepted.recv(1)) == (b"hello", b"")


def test_it_relays(proxy: Proxy) -> None:
    assert exchange(proxy, BYTES) == BYTES
    until(lambda: proxy.counters.open == 0, "the end of the connection has gone through")
    counted = proxy.counters
    assert (counted.accepted, counted.up_bytes, counted.down_bytes) == (1, len(BYTES), len(BYTES))
    assert (counted.refused, counted.dropped, counted.swallowed_bytes) == (0, 0, 0)


def test_in_small_pieces_and_late(proxy: Proxy) -> None:
    proxy.chop(2000)
    proxy.delay(0.05, jitter=0.02)
    started = time.monotonic()
    assert exchange(proxy, BYTES) == BYTES
    assert time.monotonic() - started >= 0.1  # there and back


def test_a_slow_line(proxy: Proxy) -> None:
    proxy.throttle(400_000, "down")
    started = time.monotonic()
    assert exchange(proxy, BYTES) == BYTES
    assert time.monotonic() - started >= 0.6


def test_cut_and_restored(proxy: Proxy, echo: Echo) -> None:
    with connect(proxy) as end:
        end.sendall(b"x")
        assert receive(end, 1) == b"x"
        proxy.cut()
        assert broken(end)
    with suppress(ConnectionError):  # it may be over before `connect` has come back
        assert exchange(proxy) == b""
    proxy.restore()
    assert exchange(proxy) == b"hello"
    assert (proxy.counters.dropped, proxy.counters.refused) == (1, 1)


def test_dropped_after_so_many_bytes(proxy: Proxy) -> None:
    proxy.drop_after(1000)
    got = exchange(proxy, BYTES)
    assert BYTES.startswith(got) and len(got) <= 1000
    assert proxy.counters.down_bytes == 1000
    assert exchange(proxy, BYTES) == BYTES


@pytest.mark.parametrize("direction", ["up", "down"])
def test_half_open(proxy: Proxy, echo: Echo, direction: str) -> None:
    """Nothing comes through, nobody hears of it, and the old connection stays deaf."""
    with connect(proxy) as end:
        end.sendall(b"x")
        assert receive(end, 1) == b"x"
        proxy.half_open("up" if direction == "up" else "down")
        end.sendall(BYTES)
        until(lambda: proxy.counters.swallowed_bytes == len(BYTES), "all is swallowed")
        proxy.restore()
        end.sendall(b"y")
        until(lambda: proxy.counters.swallowed_bytes == len(BYTES) + 1, "that too")
        assert exchange(proxy) == b"hello"
        end.setblocking(False)
        with pytest.raises(BlockingIOError):
            end.recv(1)
    if direction == "up":
        until(lambda: proxy.counters.open == 1, "the last one is closed, the deaf one stands")
        assert echo.ends[0].fileno() != -1


def test_a_peer_that_does_not_read(proxy: Proxy) -> None:
    proxy.stop_reading("up")
    with connect(proxy) as end:
        end.setblocking(False)
        sent = 0
        with pytest.raises(BlockingIOError):
            while True:
                sent += end.send(bytes(65536))
        assert proxy.counters.up_bytes == 0
        end.settimeout(20)
        proxy.restore()
        assert receive(end, sent) == bytes(sent)


def test_all_of_several_are_dropped(proxy: Proxy) -> None:
    """Both have something to be written in the same turn, and the first one's bytes break the other one too."""
    with connect(proxy) as one, connect(proxy) as two:
        until(lambda: proxy.counters.open == 2, "both are there")
        proxy.stop_reading("up")
        for end in (one, two):
            end.sendall(b"x" * 10)
        proxy.drop_after(5, "up")
        proxy._set("up", paused=False)
        assert broken(one)
        assert broken(two)
    until(lambda: not proxy.counters.open, "they are gone")
    assert proxy.counters.dropped == 2
    assert exchange(proxy) == b"hello"


def test_nobody_behind_it() -> None:
    with closing(Echo()) as echo:
        endpoint = echo.endpoint
    with Proxy(endpoint) as proxy, suppress(ConnectionError):  # as above
        with connect(proxy) as end:
            assert broken(end)
