"""A server that is asked politely to end: what it has begun is finished, the rest is made by others, and nothing is made twice."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from feeder_client import FeederClient
from tests.serving import Serving, free_port, posix_signals, serve, until
from tests.system.slow_sources import made

# Ctrl-Break, its twin on Windows, goes through the same handler: tests/server/test_serve.py.
pytestmark = posix_signals
SOURCES = Path(__file__).with_name("slow_sources.py")
WHOLE = list(range(40))
KEPT = ("--no-hedge",)


def both_hold(folder: Path) -> None:
    """Waits until both workers are in the middle of a batch."""
    until(lambda: len(list(folder.glob("at-*"))) == 2, "both workers are in the middle of a batch")


def drain(node: Serving, folder: Path) -> None:
    """Asks it to end while both of its workers are in the middle of a batch, then lets them go on; it ends in good order."""
    both_hold(folder)
    node.signal("SIGTERM")
    # Two, and the one that each worker may have been given ahead.
    until(lambda: re.search(r"finishing: [234] batches are under way", node.stderr), lambda: node.output)
    (folder / "go").touch()
    assert node.wait() == 0, node.output


@pytest.mark.parametrize("transport", ["auto", "tcp"])
def test_others_make_what_it_has_not_begun(tmp_path: Path, transport: str) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
    (second / "go").touch()
    source = f"{SOURCES}:AllHold"
    with serve(tmp_path, source, "-a", f"folder={first}", *KEPT, workers=2) as one:
        with serve(tmp_path, source, "-a", f"folder={second}", *KEPT, workers=2) as two:
            with FeederClient([one.endpoint, two.endpoint], lookahead=False, hedge=False, transport=transport, prefetch=12) as client:
                until(lambda: client.stats().nodes == 2, lambda: repr(client))
                batches = iter(client)
                got = [next(batches) for _ in range(14)]
                drain(one, first)
                got += list(batches)
                assert [i for i, _ in got] == WHOLE
                assert client.stats().nodes == 1
                assert "it got SIGTERM" in one.stderr
            both = made(first) + made(second)
            # Items 0 and 1 and a few more are made once per server, to compare their copies.
            assert {i: n for i, n in both.items() if i >= 16} == dict.fromkeys(range(16, 40), 1)


def test_one_that_comes_in_its_place_goes_on(tmp_path: Path) -> None:
    """The only server: its client waits, and gets the rest from the next one on that port."""
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    arguments = (f"{SOURCES}:AllHold", "-a", f"folder={tmp_path}", *KEPT)
    with (
        serve(tmp_path, *arguments, workers=2, bind=endpoint) as one,
        FeederClient(endpoint, lookahead=False, connect_timeout=60) as client,
    ):
        batches = iter(client)
        got = [next(batches) for _ in range(14)]
        drain(one, tmp_path)
        with serve(tmp_path, *arguments, workers=2, bind=endpoint):
            got += list(batches)
        assert [i for i, _ in got] == WHOLE
        assert {i: n for i, n in made(tmp_path).items() if i >= 16} == dict.fromkeys(range(16, 40), 1)


def test_a_stream(tmp_path: Path) -> None:
    """What it had begun is delivered; the one in its place goes on behind that."""
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    arguments = (f"{SOURCES}:counting", "-a", f"folder={tmp_path}")
    with serve(tmp_path, *arguments, workers=2, bind=endpoint) as one, FeederClient(endpoint, connect_timeout=60) as client:
        batches = iter(client)
        got = [next(batches) for _ in range(8)]
        drain(one, tmp_path)
        with serve(tmp_path, *arguments, workers=2, bind=endpoint):
            got += list(batches)
        assert sorted(got) == WHOLE


def test_what_takes_for_ever_is_left(tmp_path: Path) -> None:
    arguments = (f"{SOURCES}:AllHold", "-a", f"folder={tmp_path}", *KEPT, "--drain-timeout", "0.3")
    with serve(tmp_path, *arguments, workers=2) as node, FeederClient(node.endpoint, lookahead=False) as client:
        batches = iter(client)
        assert [next(batches)[0] for _ in range(14)] == list(range(14))
        both_hold(tmp_path)
        node.signal("SIGTERM")
        assert node.wait() == 0, node.output
        assert "not finished in 0.3 s (--drain-timeout): the rest is left to others" in node.stderr


def test_nothing_to_finish(tmp_path: Path) -> None:
    """Without clients, and with one that has all it wants, it ends without a word about that."""
    arguments = (f"{SOURCES}:AllHold", "-a", f"folder={tmp_path}")
    with serve(tmp_path, *arguments) as node:
        node.signal("SIGTERM")
        assert node.wait() == 0
        assert "finishing" not in node.stderr
    with serve(tmp_path, *arguments, "-a", "at=40") as node, FeederClient(node.endpoint, lookahead=False) as client:
        assert len(list(client)) == 40
        node.signal("SIGTERM")
        assert node.wait() == 0
        assert "finishing" not in node.stderr
