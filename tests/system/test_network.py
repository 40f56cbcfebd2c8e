"""What networks do, over sockets: cuts, half-open connections, peers that don't read, slow and long lines.

Whatever happens, a pass is every batch once, in order, with the right bytes. One node for all; heartbeats come more often than in
earnest, so that a dead connection is found in three seconds.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import zmq

from feeder_client import FeederClient, FeederError
from feeder_client.connection import Connection
from feeder_client.payload import Payload
from feeder_wire import frames
from feeder_wire import messages as m
from tests.proxy import Proxy
from tests.serving import PATIENCE, SOURCES, Serving, free_port, serve, until
from tests.system.test_keys import keygen
from tests.system.training import Right, is_number, is_pattern

KILOBYTES = 1500  # of a batch that comes in parts
HEARTBEAT, DEAD = 0.5, 3.0 * PATIENCE
CONSTANTS = {"feeder_wire.frames.HEARTBEAT_SECONDS": HEARTBEAT, "feeder_wire.frames.DEAD_SECONDS": DEAD}
SMALL, PARTS = ("small", 300, is_number), ("parts", 12, is_pattern(KILOBYTES * 1024))
Source = tuple[str, int, Right]
both_sizes = pytest.mark.parametrize("source", [SMALL, PARTS], ids=["small", "parts"])


@pytest.fixture(autouse=True)
def quick_heartbeats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "HEARTBEAT_SECONDS", HEARTBEAT)
    monkeypatch.setattr(frames, "DEAD_SECONDS", DEAD)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("node")
    small = (f"small={SOURCES}:Numbers", "-a", f"small.n={SMALL[1]}")
    parts = (f"parts={SOURCES}:Blocks", "-a", f"parts.n={PARTS[1]}", "-a", f"parts.kilobytes={KILOBYTES}")
    with serve(folder, *small, *parts, workers=2, constants=CONSTANTS) as node:
        yield node


@contextmanager
def reading(node: Serving, source: Source, **options: Any) -> Iterator[tuple[Proxy, FeederClient]]:
    """A client of the node, with a relay in between."""
    with Proxy(node.endpoint, seed=1) as proxy:
        with FeederClient(proxy.endpoint, source[0], transport="tcp", connect_timeout=60, **options) as client:
            yield proxy, client


def read_pass(client: FeederClient, source: Source, disturb: Callable[[int], None] = lambda i: None) -> None:
    """One pass, with something done after each batch."""
    _, n, right = source
    got = 0
    for i, batch in enumerate(client):
        assert right(i, batch), f"batch {i}"
        got += 1
        disturb(i)
    assert got == n


def cut_for_a_while(proxy: Proxy, refusals: int, reset: bool = True) -> None:
    """Until the client has tried again more than so many times."""
    proxy.cut(reset=reset)
    refused = proxy.counters.refused
    until(lambda: proxy.counters.refused > refused + refusals, "it tries again")
    proxy.restore()


class TestCut:
    @both_sizes
    def test_again_and_again(self, node: Serving, source: Source) -> None:
        """After any number of bytes: in the greeting, between two batches, in the middle of a part."""
        rng = random.Random(4)
        with reading(node, source, prefetch=4) as (proxy, client):
            proxy.chop(20_000)
            drops = 0

            def disturb(i: int) -> None:
                nonlocal drops
                if proxy.counters.dropped == drops or i == 0:
                    return
                drops = proxy.counters.dropped
                proxy.drop_after(rng.choice((1, 50, 300, 2_000, 300_000)), rng.choice(("up", "down", "down")))

            for _ in range(3):
                proxy.drop_after(rng.randint(1, 3000))
                drops = -1
                read_pass(client, source, disturb)
            assert proxy.counters.dropped >= 4
            assert client.stats().reconnects >= 3

    @both_sizes
    def test_and_restored(self, node: Serving, source: Source) -> None:
        with reading(node, source, prefetch=2) as (proxy, client):

            def disturb(i: int) -> None:
                if i % 4 == 1 and i < 12:
                    cut_for_a_while(proxy, refusals=1, reset=i != 5)

            read_pass(client, source, disturb)
            read_pass(client, source)
            assert client.stats().reconnects >= 3

    def test_of_two_nodes_one_for_good(self, node: Serving, tmp_path: Path) -> None:
        """What it owed is asked of the other one at once, not when its connect_timeout is over."""
        with serve(tmp_path, f"parts={SOURCES}:Blocks", "-a", f"n={PARTS[1]}", "-a", f"kilobytes={KILOBYTES}") as other:
            with Proxy(node.endpoint) as proxy:
                with FeederClient([proxy.endpoint, other.endpoint], "parts", transport="tcp", connect_timeout=600, hedge=False) as client:
                    until(lambda: client.stats().nodes == 2, lambda: repr(client))
                    proxy.throttle(3_000_000, "down")  # so that it is in the middle of something

                    def disturb(i: int) -> None:
                        if i == 4:
                            proxy.cut()

                    read_pass(client, PARTS, disturb)
                    read_pass(client, PARTS)
                    assert client.stats().nodes == 1
                    assert proxy.counters.down_bytes > KILOBYTES * 1024

    def test_a_tunnel_whose_far_end_comes_late(self, tmp_path: Path) -> None:
        """What forwards a port takes a connection and closes it again while nobody is behind it: that is no wrong key."""
        with Proxy(f"tcp://127.0.0.1:{free_port()}") as proxy:
            got: list[Any] = []

            def train() -> None:
                try:
                    with FeederClient(proxy.endpoint, connect_timeout=60) as client:
                        got.extend(client)
                except FeederError as e:
                    got.append(e)

            trainer = threading.Thread(target=train)
            trainer.start()
            until(lambda: proxy.counters.accepted > 4 or got, "the client has tried")
            with serve(tmp_path, f"{SOURCES}:Prints", bind=proxy.target):
                trainer.join(60)
        assert got == list(range(20))

    def test_with_keys(self, tmp_path: Path) -> None:
        """A connection that breaks in the handshake, and often, is not taken for a wrong key."""
        keygen(tmp_path / "server")
        keygen(tmp_path / "clients", "trainer")
        arguments = (f"parts={SOURCES}:Blocks", "-a", f"n={PARTS[1]}", "-a", f"kilobytes={KILOBYTES}")
        with serve(tmp_path, *arguments, "--keys", "server", "--authorized-clients", "clients") as node:
            keys = {"keys": tmp_path / "clients/trainer.key_secret", "server_key": tmp_path / "server/feeder.key"}
            with reading(node, PARTS, prefetch=2, **keys) as (proxy, client):

                def disturb(i: int) -> None:
                    if i in (2, 6):
                        cut_for_a_while(proxy, refusals=5)

                read_pass(client, PARTS, disturb)
                read_pass(client, PARTS)
                assert client.stats().reconnects >= 2


class TestSilence:
    """The connection stands, and nothing comes any more: heartbeats find out, and the client goes on."""

    @pytest.mark.parametrize("fault", ["half_open", "stop_reading"])
    @pytest.mark.parametrize("direction", ["up", "down", "both"])
    def test_in_mid_pass(self, node: Serving, fault: str, direction: str) -> None:
        with reading(node, PARTS, prefetch=2) as (proxy, client):

            def disturb(i: int) -> None:
                if i == 3:
                    proxy.throttle(10_000_000, "down")  # so that it is in the middle of something
                    getattr(proxy, fault)(direction)
                    until(lambda: client.stats().reconnects, "the client has found out")
                    proxy.restore()

            read_pass(client, PARTS, disturb)
            reconnects = client.stats().reconnects
            read_pass(client, PARTS)
            assert client.stats().reconnects == reconnects


class TestSlow:
    def test_a_line_on_which_one_batch_takes_longer_than_a_connection_may_be_silent(self, node: Serving) -> None:
        """Heartbeats queue up behind it. What still flows is not given up."""
        rate = 2.5 * m.CHUNK_BYTES / DEAD  # a part in time, a batch not
        assert KILOBYTES * 1024 / rate > DEAD / 2
        with reading(node, ("parts", 2, PARTS[2]), rank=0, world_size=4) as (proxy, client):
            proxy.throttle(rate, "down")
            for i in range(2):
                assert PARTS[2](4 * i, client[i])
            assert client.stats().reconnects == 0

    def test_a_line_that_was_quick_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """On a quick line parts are so large that they would break it now. That happens once: of a new connection nothing is known."""
        sizes: list[int] = []
        piece = Connection._piece

        def noted(self: Connection, part: m.Part, rest: list[zmq.Frame]) -> Payload | None:
            sizes.append(len(rest[0]))
            return piece(self, part, rest)

        monkeypatch.setattr(Connection, "_piece", noted)
        kilobytes, rate = 1200, 2.5 * m.CHUNK_BYTES / DEAD
        constants = {**CONSTANTS, "feeder_server.line.QUICK_RATE": 10 * rate}
        source = ("parts", 12, is_pattern(kilobytes * 1024))
        arguments = (f"parts={SOURCES}:Blocks", "-a", "parts.n=12", "-a", f"parts.kilobytes={kilobytes}")
        with serve(tmp_path, *arguments, workers=1, constants=constants) as node, reading(node, source, prefetch=2) as (proxy, client):

            def sees_large_parts() -> bool:
                read_pass(client, source)
                return max(sizes) == m.QUICK_CHUNK_BYTES

            until(sees_large_parts, "parts are large")
            assert client.stats().reconnects == 0
            proxy.throttle(rate, "down")
            for i, batch in zip(range(4), client, strict=False):
                assert source[2](i, batch)
            assert max(sizes[-5:]) == m.CHUNK_BYTES, "the last batch came in small parts"
            assert client.stats().reconnects == 1

    def test_a_long_line(self, node: Serving) -> None:
        """A second there and a second back: nothing breaks, and what is asked for ahead arrives together."""
        with reading(node, SMALL) as (proxy, client):
            proxy.delay(1.0, jitter=0.1)
            read_pass(client, SMALL)
            assert client.stats().reconnects == 0
            proxy.drop()
            read_pass(client, SMALL)
