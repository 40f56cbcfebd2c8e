"""Who is there: told apart without ZeroMQ's help."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import zmq

from feeder_wire.greeting import mechanism_at
from feeder_wire.security import KeyPair, secure_server
from tests.proxy import Proxy
from tests.serving import free_port


@contextmanager
def listening(keys: bool) -> Iterator[str]:
    """A ZeroMQ socket; gives its endpoint."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        if keys:
            secure_server(router, KeyPair.fresh())
        yield f"tcp://127.0.0.1:{router.bind_to_random_port('tcp://127.0.0.1')}"


@pytest.mark.parametrize(("keys", "expected"), [(False, "NULL"), (True, "CURVE")])
def test_a_zeromq_socket(keys: bool, expected: str) -> None:
    with listening(keys) as endpoint:
        assert mechanism_at(endpoint) == expected
        with Proxy(endpoint) as proxy:
            assert mechanism_at(proxy.endpoint) == expected
            proxy.chop(1)
            assert mechanism_at(proxy.endpoint) == expected


@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_line_on_which_nothing_gets_through(direction: str) -> None:
    with listening(False) as endpoint, Proxy(endpoint) as proxy:
        proxy.stop_reading(direction)  # type: ignore[arg-type]
        assert mechanism_at(proxy.endpoint) is None


def test_nobody() -> None:
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    assert mechanism_at(endpoint) is None
    with Proxy(endpoint) as proxy:
        assert mechanism_at(proxy.endpoint) is None
    assert mechanism_at("tcp://no-such-host.invalid:5555") is None
    assert mechanism_at("tcp://" + "x" * 70 + ".invalid:5555") is None


def test_a_web_server() -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        assert mechanism_at(f"tcp://127.0.0.1:{server.server_port}") in ("", None)  # it may wait for the end of a line
        thread.join(20)
        assert not thread.is_alive()


def test_who_says_something_else() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def shout() -> None:
            with server.accept()[0] as connection:
                connection.sendall(b"220 mail.example.com ESMTP\r\n")
                connection.recv(100)

        thread = threading.Thread(target=shout)
        thread.start()
        assert mechanism_at(f"tcp://127.0.0.1:{server.getsockname()[1]}") == ""
        thread.join(20)
