"""CURVE keys on a real node: who is let in, and what the others are told."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import zmq

from feeder_client import AuthenticationError, ConfigError, FeederClient
from tests.serving import COMMAND, SOURCES, Serving, serve, until

PROMPT = 15.0  # seconds; far below the connect_timeout, far above what it takes


def keygen(folder: Path, name: str = "feeder") -> None:
    subprocess.run([*COMMAND, "keygen", str(folder), "--name", name], check=True, capture_output=True, timeout=60)


@dataclass(frozen=True)
class Locked:
    """A node with keys; `folder` holds those of the server, of a client that is let in, and of one that isn't."""

    node: Serving
    folder: Path

    def connect(self, keys: str | None = "clients/trainer.key_secret", server_key: str | None = "server/feeder.key") -> FeederClient:
        return FeederClient(
            self.node.endpoint,
            keys=self.folder / keys if keys else None,
            server_key=self.folder / server_key if server_key else None,
            connect_timeout=60,
        )


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Locked]:
    folder = tmp_path_factory.mktemp("keys")
    keygen(folder / "server")
    keygen(folder / "clients", "trainer")
    keygen(folder / "others", "stranger")
    arguments = (f"{SOURCES}:Numbers", "--keys", "server", "--authorized-clients", "clients")
    with serve(folder, *arguments) as node:
        yield Locked(node, folder)


def refused(connect: Callable[[], FeederClient]) -> str:
    """What a client is told that is not let in; promptly, not when its connect_timeout is over."""
    started = time.monotonic()
    with pytest.raises(AuthenticationError) as caught:
        connect()
    assert time.monotonic() - started < PROMPT
    return str(caught.value)


def test_who_is_authorized_is_let_in(locked: Locked) -> None:
    for keys, server_key in (("clients/trainer.key_secret", "server/feeder.key"), ("clients", "server")):
        with locked.connect(keys, server_key) as client:
            assert len(list(client)) == 20


def test_another_key(locked: Locked) -> None:
    said = refused(lambda: locked.connect("others/stranger.key_secret"))
    assert said.startswith(locked.node.endpoint)
    assert "--authorized-clients" in said


def test_no_keys(locked: Locked) -> None:
    said = refused(lambda: locked.connect(None, None))
    assert said.startswith(locked.node.endpoint)
    assert "pass keys= and server_key=" in said


def test_a_server_with_another_key_than_expected(locked: Locked) -> None:
    """A server in the middle, or an old key file."""
    said = refused(lambda: locked.connect(server_key="others/stranger.key"))
    assert said.startswith(locked.node.endpoint)
    assert "server_key=" in said


def test_keys_for_a_server_without(locked: Locked, tmp_path: Path) -> None:
    with serve(tmp_path, f"{SOURCES}:Numbers") as node:
        said = refused(lambda: Locked(node, locked.folder).connect())
    assert said.startswith(node.endpoint)
    assert "no keys at all" in said


def test_another_key_where_the_refusal_is_quicker_than_the_first_word(locked: Locked, monkeypatch: pytest.MonkeyPatch) -> None:
    """libzmq drops the pipe of a connection that was refused; a socket without one would make the thread that sends wait for ever."""
    connect = zmq.Socket.connect

    def connect_and_lose(self: zmq.Socket[bytes], endpoint: str) -> None:
        connect(self, endpoint)
        if self.type == zmq.DEALER:
            until(lambda: not self.get(zmq.EVENTS) & zmq.POLLOUT, "it is refused")

    monkeypatch.setattr(zmq.Socket, "connect", connect_and_lose)
    assert "--authorized-clients" in refused(lambda: locked.connect("others/stranger.key_secret"))


def test_those_who_were_refused_disturb_nobody(locked: Locked) -> None:
    with locked.connect() as client:
        passes = iter(client)
        next(passes)
        refused(lambda: locked.connect("others/stranger.key_secret"))
        assert len(list(passes)) == 19
    assert "Traceback" not in locked.node.output


def test_one_of_two_lets_us_in_only_after_its_restart(locked: Locked, tmp_path: Path) -> None:
    """What was refused is tried again now and then: its --authorized-clients may be other ones by then."""
    arguments = (f"{SOURCES}:Numbers", "--keys", locked.folder / "server", "--authorized-clients")
    with ExitStack() as stack:
        other = stack.enter_context(serve(tmp_path, *arguments, locked.folder / "others"))
        keys, server = locked.folder / "clients", locked.folder / "server"
        client = stack.enter_context(FeederClient([locked.node.endpoint, other.endpoint], keys=keys, server_key=server, connect_timeout=60))
        assert [batch[0][0, 0] for batch in client] == list(range(20))
        assert client.stats().nodes == 1
        endpoint = other.endpoint
        assert other.stop() == 0
        stack.enter_context(serve(tmp_path, *arguments, locked.folder / "clients", bind=endpoint))
        until(lambda: client.stats().nodes == 2, lambda: repr(client))
        assert [batch[0][0, 0] for batch in client] == list(range(20))


@pytest.mark.parametrize(
    ("keys", "server_key", "said"),
    [
        ("clients/trainer.key_secret", None, "belong together"),
        (None, "server/feeder.key", "belong together"),
        ("clients/trainer.key", "server/feeder.key", "holds no secret key"),
        ("nowhere", "server/feeder.key", "can't read the key file"),
        ("clients/trainer.key_secret", "nowhere", "can't read the key file"),
    ],
)
def test_key_files_that_do_not_fit(locked: Locked, keys: str | None, server_key: str | None, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        locked.connect(keys, server_key)


def test_batches_of_both_kinds_travel(locked: Locked, tmp_path: Path) -> None:
    """Over a bind that others can reach, which keys allow; large ones in parts, and encrypted."""
    server, clients = locked.folder / "server", locked.folder / "clients"
    arguments = (f"{SOURCES}:Blocks", "-a", "n=20", "--keys", server, "--authorized-clients", clients)
    with serve(tmp_path, *arguments, bind="tcp://0.0.0.0:0") as node:
        endpoint = node.endpoint.replace("0.0.0.0", "127.0.0.1")
        with FeederClient(endpoint, keys=clients, server_key=server, transport="tcp") as client:
            assert len(list(client)) == 20
