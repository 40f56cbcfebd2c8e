"""Batches that never come: their worker is killed after `--batch-timeout`, and they are made again, or given up."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from feeder_client import FeederClient, WorkerCrashed
from tests.serving import QUICK_RESTARTS, SOURCES, Serving, serve

SECONDS = 1.5  # many times what any other batch here takes, also on a machine under load
KILLED = re.compile(
    r"WARNING worker \d ended: killed, for (.+) took longer than 1\.5 s \(--batch-timeout\); a new one starts in 0\.25 s$", re.M
)


def killed_for(node: Serving) -> list[str]:
    """What workers were killed for; each has one line in the log, and nobody ended otherwise."""
    found = KILLED.findall(node.stderr)
    assert len(found) == node.stderr.count(" ended: ")
    return found


@pytest.mark.parametrize("gil", ["true", "false"], ids=["in C code that holds the GIL", "asleep"])
def test_once(tmp_path: Path, gil: str) -> None:
    """It is made again by another one, and the trainer notices nothing."""
    arguments = (f"{SOURCES}:Sticks", "-a", f"folder={tmp_path}", "-a", f"gil={gil}", "--batch-timeout", SECONDS, "--no-hedge")
    with serve(tmp_path, *map(str, arguments), workers=2) as node, FeederClient(node.endpoint, lookahead=False) as client:
        assert list(client) == list(range(12))
        assert killed_for(node) == ["batch 5 of epoch 0 of source 'default'"]
        assert list(client) == list(range(12))


def test_always(tmp_path: Path) -> None:
    """The client is told at that batch, after all before it; all others can be had, and the node goes on."""
    arguments = (f"{SOURCES}:Sticks", "--max-retries", "1", "--batch-timeout", str(SECONDS))
    with serve(tmp_path, *arguments) as node, FeederClient(node.endpoint, lookahead=False) as client:
        assert [client[i] for i in range(5)] == list(range(5))
        with pytest.raises(WorkerCrashed) as caught:
            client[5]
        said = str(caught.value)
        assert said.startswith("batch 5 of epoch 0 of source 'default': the worker that made it died 2 times; the last time: killed, for")
        assert "took longer than 1.5 s (--batch-timeout)" in said
        assert [client[i] for i in range(6, 12)] == list(range(6, 12))
        assert killed_for(node) == ["batch 5 of epoch 0 of source 'default'"] * 2


def test_a_stream(tmp_path: Path) -> None:
    """Another worker goes on where it stood: nothing is lost, nothing doubled."""
    arguments = (f"{SOURCES}:stream_that_sticks", "-a", f"folder={tmp_path}", "--batch-timeout", str(SECONDS))
    with serve(tmp_path, *arguments, workers=2) as node, FeederClient(node.endpoint) as client:
        assert sorted(client) == list(range(20))
        assert killed_for(node) == ["a batch of source 'default'"]


def test_an_item_that_was_made_to_compare_the_copies(tmp_path: Path) -> None:
    """Nobody waits for it but the comparison, which is given up; the item is made again for who asks."""
    arguments = (f"{SOURCES}:Sticks", "-a", f"folder={tmp_path}", "-a", "at=0", "--batch-timeout", str(SECONDS))
    with serve(tmp_path, *arguments, workers=2) as node:
        node.says("(--batch-timeout); a new one starts")
        node.says("agree is not known: worker")
        with FeederClient(node.endpoint) as client:
            assert list(client) == list(range(12))
        assert killed_for(node) == ["batch 0 of epoch 0 of source 'default'"]


def test_loading_and_epochs_that_are_replayed_do_not_count(tmp_path: Path) -> None:
    """A copy is built in the middle of a task where another session has taken the one that was there, and brought to its epoch."""
    arguments = (f"{SOURCES}:SlowToLoad", "-a", f"seconds={SECONDS * 1.3}", "--batch-timeout", str(SECONDS))
    with serve(tmp_path, *arguments) as node, FeederClient(node.endpoint, lookahead=False) as first:
        begun = [list(first) for _ in range(2)]
        with FeederClient(node.endpoint, lookahead=False) as second:
            assert [list(second) for _ in range(2)] == begun
        assert killed_for(node) == []


def test_a_private_server() -> None:
    options = {"batch_timeout": SECONDS, "max_retries": 0}
    with FeederClient.local(f"{SOURCES}:Sticks", workers=1, args={"n": 3, "at": 1}, server=options, lookahead=False) as client:
        assert client[0] == 0
        with pytest.raises(WorkerCrashed, match=r"batch 1 of epoch 0 .* took longer than 1\.5 s \(--batch-timeout\)"):
            client[1]
        assert client[2] == 2


def test_bad_batches_in_a_row(tmp_path: Path) -> None:
    """Each has its tries, and more workers die without a batch in between than the node would stand for one cause: it goes on."""
    arguments = (f"{SOURCES}:Poisoned", "-a", "bad=[3, 4, 5, 6]", "--max-retries", "0")
    constants = {**QUICK_RESTARTS, "feeder_server.supervisor.MAX_CRASHES": 3}
    with serve(tmp_path, *arguments, constants=constants) as node, FeederClient(node.endpoint, lookahead=False) as client:
        got: list[object] = []
        for i in range(12):
            try:
                got.append(client[i])
            except WorkerCrashed as e:
                got.append(type(e))
        assert got == [0, 1, 2, *[WorkerCrashed] * 4, 7, 8, 9, 10, 11]
        assert node.stderr.count("ended: exit code 7") == 4
