"""Clients that are let in and ask for too much: they harm themselves, and the others are served. And nobody at all."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import zmq

from feeder_client import FeederClient
from feeder_server.status import Visitor
from feeder_wire import client_frames, frames
from feeder_wire import messages as m
from tests.serving import SOURCES, Serving, arena_bytes, arenas, serve, until
from tests.system.training import Training, is_number

psutil = pytest.importorskip("psutil")
SESSION = b"a greedy session"
MEMORY = 32 << 20


@contextmanager
def greedy(node: Serving, source: str) -> Iterator[zmq.Socket[bytes]]:
    """A connection that has opened a session, and from then on takes in one message at a time, if at all."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as made:
        made.linger = 0
        made.rcvhwm = 1
        made.connect(node.endpoint)
        made.send(frames.pack([m.Hello(m.WIRE_VERSION, b"a greedy client!", "greedy"), m.Open(SESSION, source, False)]))
        found: list[Any] = []
        while not any(isinstance(message, m.Opened) for message in found):
            assert made.poll(20_000)
            found += frames.unpack(made.recv(), client_frames.TO_CLIENT)
        yield made


@pytest.mark.parametrize("kilobytes", [30, 1000], ids=["small", "parts"])
def test_who_asks_and_never_reads(tmp_path: Path, kilobytes: int) -> None:
    sources = (f"numbers={SOURCES}:Numbers", f"blocks={SOURCES}:Blocks", "-a", "blocks.n=20000", "-a", f"blocks.kilobytes={kilobytes}")
    others = arenas()
    with serve(tmp_path, *sources, "--memory", str(MEMORY), workers=2) as node, FeederClient(node.endpoint, "numbers") as client:
        process = psutil.Process(node.pid)
        training = Training(client, 20, is_number)
        try:
            until(lambda: training.passes > 2 or training.wrong, "the training is under way")
            before = process.memory_info().rss
            with greedy(node, "blocks") as peer:
                peer.send(frames.pack([m.Ask(SESSION, 0, tuple(range(400_000 // kilobytes)))]))  # 400 MB
                began = time.monotonic()
                while time.monotonic() - began < 5:
                    peer.send(frames.pack([m.Ping(1)]))  # it is alive
                    passes = training.passes
                    until(lambda passes=passes: training.passes > passes or training.wrong, "the training goes on")  # type: ignore[misc]
                assert process.memory_info().rss < before + 2 * MEMORY
                assert arena_bytes(others) < 2 * MEMORY
        finally:
            training.end()
        assert "restarts" not in node.stderr and "Traceback" not in node.stderr


def test_an_absurd_epoch(tmp_path: Path) -> None:
    """To come to epoch 2**62 all before it would have to be replayed: an error says so, and workers are free for others at once."""
    with serve(tmp_path, f"default={SOURCES}:Epochs", f"numbers={SOURCES}:Numbers", workers=2) as node:
        with greedy(node, "default") as peer:
            peer.rcvhwm = 0
            peer.send(frames.pack([m.Ask(SESSION, 2**62, (0, 1, 2, 3))]))
            failed: list[Any] = []
            while len(failed) < 4:
                assert peer.poll(20_000)
                failed += [one for one in frames.unpack(peer.recv(), client_frames.TO_CLIENT) if isinstance(one, m.Failed)]
            assert "4611686018427387904" in failed[0].error.message
            with FeederClient(node.endpoint, "numbers") as client:
                assert all(is_number(i, batch) for i, batch in enumerate(client))


def test_a_far_epoch_that_nobody_wants_any_more(tmp_path: Path) -> None:
    """Who asked for it has left: the workers don't go on replaying what comes before it."""
    (tmp_path / "slow.py").write_text(
        "import time\n"
        "class Slow:\n"
        "    def __len__(self): return 4\n"
        "    def on_epoch_end(self): time.sleep(0.05)\n"
        "    def __getitem__(self, i): return i, f'sample {i:08}'\n"
    )
    with serve(tmp_path, "slow.py:Slow", workers=2) as node:
        with greedy(node, "default") as peer:
            peer.send(frames.pack([m.Ask(SESSION, 5000, (0, 1, 2, 3))]))  # four minutes
            until(lambda: busy(node) >= 2, "the workers are at it")
            peer.send(frames.pack([m.Close(SESSION)]))
            with FeederClient(node.endpoint) as client:
                assert [i for i, _ in client] == [0, 1, 2, 3]
            until(lambda: busy(node) == 0, "both workers are free")
        assert "Traceback" not in node.stderr


def busy(node: Serving) -> int:
    """Tasks that the workers are at."""
    with Visitor(node.endpoint, timeout=20) as visitor:
        return visitor.look().under_way


def test_nobody(tmp_path: Path) -> None:
    """A node that waits for clients has next to nothing to do."""
    with serve(tmp_path, f"{SOURCES}:Numbers", workers=2) as node:
        processes = [psutil.Process(pid) for pid in (node.pid, *node.workers)]
        until(lambda: "agree" in node.stderr, lambda: node.output)
        before = sum(sum(process.cpu_times()[:2]) for process in processes)
        began = time.monotonic()
        until(lambda: time.monotonic() - began > 3, "three seconds go by")
        assert sum(sum(process.cpu_times()[:2]) for process in processes) - before < 0.6
        with FeederClient(node.endpoint) as client:
            assert len(list(client)) == 20
