"""`--workers auto`: as many as a training has use for, with real workers; and all the promises hold meanwhile."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import pytest

from feeder_client import FeederClient, receiver
from feeder_server.status import Visitor
from tests.serving import ANY_PORT, QUICK_RESTARTS, SOURCES, Serving, serve, until

CORES = {"feeder_server.cores.usable_cores": "lambda: 3"}
QUICK = {
    **CORES,
    **QUICK_RESTARTS,
    "feeder_server.scaling.LEAST_SECONDS": 1.0,
    "feeder_server.scaling.PERIOD": 0.05,
    # On a busy machine more workers may bring nothing, and a training wait at any time; what is done then has tests of its own.
    "feeder_server.autoscale.HELPED": -10.0,
    "feeder_server.autoscale.FIRST_REST": 0.5,
}


@pytest.fixture(autouse=True)
def _frequent_pings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiver, "PING_SECONDS", 0.1)


def test_up_while_the_training_waits_and_down_when_it_does_not(tmp_path: Path) -> None:
    source = (f"{SOURCES}:Sleepy", "-a", "n=12", "-a", "seconds=0.05")
    with serve(tmp_path, *source, workers="auto", constants=QUICK) as node:
        assert len(node.workers) == 1
        with FeederClient(node.endpoint) as client:
            passes = Counter[tuple[int, ...]]()

            def one_pass(step: float = 0.0) -> int:
                numbers = []
                for i, _, _ in client:
                    numbers.append(int(i))
                    time.sleep(step)  # the training's own work
                passes[tuple(numbers)] += 1
                return client.stats().workers

            until(lambda: one_pass() == 3, lambda: f"{client.stats()}, {node.output}")
            until(lambda: len(node.workers) == 3, lambda: f"{node.workers}, {node.output}")
            assert client.verdict().startswith("input-bound")
            until(lambda: one_pass(0.2) == 1, lambda: f"{client.stats()}, {node.output}")
            until(lambda: len(node.workers) == 1, lambda: f"{node.workers}, {node.output}")
            one_pass()
            assert set(passes) == {tuple(range(12))}, "whoever came and went, each pass has each batch once, in order"
        with Visitor(node.endpoint) as visitor:
            report = visitor.look()
        assert (report.restarts, report.retried, report.given_up) == (0, 0, 0)
        assert "2 workers instead of 1: the training waits for data" in node.stderr
        assert "the others have nothing to do, the training is the limit" in node.stderr


def test_copies_that_disagree_go_on_with_the_one(tmp_path: Path) -> None:
    """The second worker shows that there can't be a second one. No batch is lost by that."""
    path = tmp_path / "cursor.py"
    path.write_text(
        "import time\nclass Cursor:\n    at = -1\n    def __len__(self): return 10**6\n"
        "    def __getitem__(self, i):\n        time.sleep(0.1)\n        self.at += 1\n        return self.at, 'sample %08d' % self.at\n"
    )
    with serve(tmp_path, f"{path}:Cursor", workers="auto", constants=QUICK) as node, FeederClient(node.endpoint) as client:
        batches = iter(client)
        seen = [int(next(batches)[0])]

        def alone() -> bool:
            seen.append(int(next(batches)[0]))
            return "no other may serve" in node.stderr and len(node.workers) == 1

        until(alone, lambda: node.output)
        assert seen == list(range(len(seen)))


def test_a_stream_has_all_at_once(tmp_path: Path) -> None:
    with serve(tmp_path, f"{SOURCES}:sharded", workers="auto", constants=CORES) as node, FeederClient(node.endpoint) as client:
        until(lambda: len(node.workers) == 3, lambda: node.output)
        assert client.stats().workers == 3


def test_the_only_one_that_keeps_dying_ends_the_server(tmp_path: Path) -> None:
    """The places of others are no reason to go on: nobody is in them."""
    (tmp_path / "dies.py").write_text("import os\nos._exit(3)\n")
    with Serving(tmp_path, "dies.py:Dies", "--workers", "auto", "--bind", ANY_PORT, constants=QUICK) as node:
        assert node.wait() == 5, node.output
        assert "exit code 3" in node.stderr


def test_in_a_private_server() -> None:
    with FeederClient.local(f"{SOURCES}:Numbers", workers="auto") as client:
        assert len(list(client)) == 20
        assert client.stats().workers == 1
