"""What a connection sends home, and when: a block released twice would be written under the eyes of its next reader."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from feeder_client.connection import Connection, Keys
from feeder_wire import messages as m
from feeder_wire.arena import ArenaWriter
from feeder_wire.security import KeyPair

SESSION = b"s" * 16


@pytest.fixture
def connection() -> Iterator[Connection]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    made = Connection("tcp://127.0.0.1:1", context, None, True, lambda: None)
    made.open(m.Hello(m.WIRE_VERSION, b"c" * 16, "test"))
    yield made
    made.socket.linger = 0
    made.close()
    context.destroy(linger=0)


def welcome(connection: Connection, folder: Path, nonce: str = "n") -> None:
    (folder / "nonce").write_text(nonce)
    connection._welcome(m.Welcome(m.WIRE_VERSION, "node", 1, (str(folder),), nonce, 1 << 30))


def lend(connection: Connection, writer: ArenaWriter) -> str:
    block = writer.take(10_000)
    connection._borrow(m.Lent(SESSION, 0, 0, b"", block.name, block.size, 10_000, 0.0))
    return block.name


def released(connection: Connection) -> list[str]:
    connection._out.clear()
    connection.return_blocks()
    return [name for message in connection._out if isinstance(message, m.Release) for name in message.blocks]


def test_a_block_goes_home_once(connection: Connection, tmp_path: Path) -> None:
    welcome(connection, tmp_path)
    assert connection.loan is not None
    name = lend(connection, ArenaWriter([str(tmp_path)], 0, 1, 1 << 20))
    connection.loan.give_back(name)
    assert released(connection) == [name]
    assert released(connection) == []


def test_what_a_hello_left_out_is_not_released_again(connection: Connection, tmp_path: Path) -> None:
    welcome(connection, tmp_path)
    assert connection.loan is not None
    writer = ArenaWriter([str(tmp_path)], 0, 1, 1 << 20)
    kept, gone = lend(connection, writer), lend(connection, writer)
    connection.loan.give_back(gone)  # while the connection is broken
    assert connection.holds() == (kept,)  # goes into the Hello, and frees the other one
    assert released(connection) == []
    connection.loan.give_back(kept)
    assert released(connection) == [kept]


def test_a_restarted_node_gets_nothing_of_the_old_one(connection: Connection, tmp_path: Path) -> None:
    welcome(connection, tmp_path)
    old = connection.loan
    assert old is not None
    name = lend(connection, ArenaWriter([str(tmp_path)], 0, 1, 1 << 20))
    welcome(connection, tmp_path, nonce="another")
    old.give_back(name)
    assert released(connection) == []


class TestHandshakesThatAreClosed:
    """By a server that is starting, by a tunnel whose far end is not there, or by a server with another key: libzmq can't tell which."""

    KEYS = Keys(KeyPair.fresh(), KeyPair.fresh().public)

    @pytest.mark.parametrize(
        ("keys", "mechanism", "blamed"),
        [
            (True, "CURVE", True),
            (True, "NULL", True),
            (True, "", True),
            (True, None, False),
            (False, "CURVE", True),
            (False, "NULL", False),
            (False, "", True),
            (False, None, False),
        ],
    )
    def test_often_it_is_the_keys_if_there_is_a_server(
        self, connection: Connection, monkeypatch: pytest.MonkeyPatch, keys: bool, mechanism: str | None, blamed: bool
    ) -> None:
        monkeypatch.setattr("feeder_client.connection.mechanism_at", lambda endpoint: mechanism)
        connection.keys = self.KEYS if keys else None
        assert [connection._refuses_handshakes() for _ in range(6)] == [False, False, blamed] * 2

    def test_not_where_the_server_has_let_us_in_before(
        self, connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("feeder_client.connection.mechanism_at", lambda endpoint: "CURVE")
        connection.keys = self.KEYS
        welcome(connection, tmp_path)
        assert not any(connection._refuses_handshakes() for _ in range(50))
