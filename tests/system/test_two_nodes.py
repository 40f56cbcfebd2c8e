"""Several nodes that serve one source: the work goes to who gets it done, and whatever dies, every batch comes once and in order."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from feeder_client import FeederClient
from tests.serving import ANY_PORT, POLITE, SOURCES, Serving, free_port, serve, until
from tests.sources import pattern

SLEEPY = f"{SOURCES}:Sleepy"


def test_the_faster_one_does_more(tmp_path: Path) -> None:
    """One takes ten times as long for a batch as the other; the order is that of the source all the same."""
    with (
        serve(tmp_path, SLEEPY, "-a", "name=fast", "-a", "seconds=0.005") as fast,
        serve(tmp_path, SLEEPY, "-a", "name=slow", "-a", "seconds=0.05") as slow,
        FeederClient([slow.endpoint, fast.endpoint]) as client,
    ):
        for _ in range(2):
            got = list(client)
            assert [i for i, *_ in got] == list(range(60))
        by = Counter(name for _, name, _ in got)
        assert set(by) == {"fast", "slow"}
        # On a busy machine it takes longer to bring a batch than the fast one to make it; otherwise ten to one.
        assert by["fast"] > 2 * by["slow"]
        assert client.stats().nodes == 2


@pytest.mark.parametrize("kilobytes", [0, 64], ids=["small", "blocks"])
def test_one_is_killed_in_mid_pass(tmp_path: Path, kilobytes: int) -> None:
    """What it owed is made by the other: nothing lost, nothing doubled, in order; and the next passes are whole too."""
    arguments = (f"{SOURCES}:Holds", "-a", f"folder={tmp_path}", "-a", f"kilobytes={kilobytes}", "--workers", "1", "--bind", ANY_PORT)
    with Serving(tmp_path, *arguments) as one, Serving(tmp_path, *arguments) as two:
        with FeederClient([one.endpoint, two.endpoint], connect_timeout=5) as client:
            batches = iter(client)
            got = [next(batches) for _ in range(8)]
            # Somebody is at batch 10 and holds; that node is killed, and the other one makes it again.
            until(lambda: list(tmp_path.glob("at-10-*")), "a worker is at batch 10")
            holding = int(next(tmp_path.glob("at-10-*")).name.rpartition("-")[2])
            victim = one if holding in one.workers else two
            victim.kill()
            (tmp_path / "go").touch()
            got += list(batches)
            assert numbers(got, kilobytes) == list(range(30))
            assert numbers(list(client), kilobytes) == list(range(30))
            stats = client.stats()
            assert stats.nodes == 1
            assert stats.retries >= 1
            assert stats.batches == 60


def numbers(batches: list[object], kilobytes: int) -> list[int]:
    """Which batches these are."""
    if not kilobytes:
        return batches  # type: ignore[return-value]
    known = {pattern(i, 256).tobytes(): i for i in range(30)}
    return [known[bytes(batch[:256])] for batch in batches]  # type: ignore[index]


def test_both_are_killed_and_one_comes_back(tmp_path: Path) -> None:
    """On the same port, in mid-pass: the client has waited for it, and goes on where it was."""
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    arguments = (f"{SOURCES}:Holds", "-a", f"folder={tmp_path}", "--workers", "1", "--bind")
    with Serving(tmp_path, *arguments, ANY_PORT) as one, Serving(tmp_path, *arguments, endpoint) as two:
        with FeederClient([one.endpoint, two.endpoint], connect_timeout=60) as client:
            batches = iter(client)
            got = [next(batches) for _ in range(8)]
            for node in (one, two):
                node.kill()
            (tmp_path / "go").touch()
            with serve(tmp_path, f"{SOURCES}:Holds", "-a", f"folder={tmp_path}", bind=endpoint):
                got += list(batches)
                assert got == list(range(30))
                assert client.stats().reconnects >= 2


def test_a_single_node_is_restarted_in_mid_pass(tmp_path: Path) -> None:
    """The epoch goes on too, not only the batches: the new node's copy is brought to where the old one was."""
    with serve(tmp_path, f"{SOURCES}:Epochs") as undisturbed, FeederClient(undisturbed.endpoint) as client:
        expected = [list(client) for _ in range(3)]
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    with Serving(tmp_path, f"{SOURCES}:Epochs", "--workers", "1", "--bind", endpoint) as first:
        with FeederClient(first.endpoint, connect_timeout=60) as client:
            got = [list(client)]
            batches = iter(client)
            second = [next(batches) for _ in range(5)]
            first.kill()
            with serve(tmp_path, f"{SOURCES}:Epochs", workers=2, bind=endpoint):
                got.append(second + list(batches))
                got.append(list(client))
                assert got == expected


def test_a_node_that_is_stopped_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Stopped in good order: the client is told, and the others go on."""
    with serve(tmp_path, SLEEPY, "-a", "seconds=0.01") as one, serve(tmp_path, SLEEPY, "-a", "seconds=0.01") as two:
        with FeederClient([one.endpoint, two.endpoint]) as client:
            batches = iter(client)
            got = [next(batches)[0] for _ in range(10)]
            one.stop()
            got += [i for i, *_ in batches]
            assert got == list(range(60))
        assert f"lost the connection to {one.endpoint}: the server was stopped (it got {POLITE})" in caplog.text


def test_a_node_that_comes_late_helps(tmp_path: Path) -> None:
    late = f"tcp://127.0.0.1:{free_port()}"
    with serve(tmp_path, SLEEPY, "-a", "name=first", "-a", "seconds=0.01") as first, FeederClient([first.endpoint, late]) as client:
        assert client[0][:2] == (0, "first")
        with serve(tmp_path, SLEEPY, "-a", "name=late", "-a", "seconds=0.01", bind=late):
            until(lambda: client.stats().nodes == 2, lambda: repr(client))
            assert Counter(name for _, name, _ in client)["late"] > 5
