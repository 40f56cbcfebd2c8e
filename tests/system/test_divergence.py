"""Copies that agree or don't, with real workers: what the training gets, and what it is told."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from feeder_client import DivergentSource, FeederClient
from tests.serving import ANY_PORT, Serving, serve, until

SOURCES = Path(__file__).with_name("divergent.py")
IDS = list(range(48))


def outcome(client: FeederClient) -> str:
    return client._core.roster.nodes[0].outcome


def passes(client: FeederClient, count: int) -> list[list[Any]]:
    return [list(client) for _ in range(count)]


def ids(batches: list[Any]) -> list[int]:
    return [int(i) for batch in batches for i in batch[1]]


def pixels(batches: list[Any]) -> bytes:
    return b"".join(batch[0].tobytes() for batch in batches)


@pytest.mark.parametrize(
    ("name", "word"), [("Exact", "parallel"), ("Augmented", "not reproducible"), ("Lazy", "warmed"), ("Cursor", "single")]
)
def test_every_sample_once_whatever_the_source(tmp_path: Path, name: str, word: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "feeder.client")
    with serve(tmp_path, f"{SOURCES}:{name}", workers=1) as one, FeederClient(one.endpoint) as client:
        reference = passes(client, 3)
        assert outcome(client) == "one worker"
    with serve(tmp_path, f"{SOURCES}:{name}", workers=3) as node, FeederClient(node.endpoint) as client:
        early = passes(client, 1)  # while they are compared
        until(lambda: outcome(client), lambda: node.output)
        assert outcome(client) == word and f"workers, {word}, " in repr(client)
        got = early + passes(client, 2)
    assert [sorted(ids(batches)) for batches in got] == [IDS] * 3
    if name != "Cursor":
        assert [ids(batches) for batches in got] == [ids(batches) for batches in reference]
    if name in ("Exact", "Lazy"):
        assert [pixels(batches) for batches in got] == [pixels(batches) for batches in reference]
    warned = [record.getMessage() for record in caplog.records if "copies of source" in record.getMessage()]
    assert len(warned) == (name in ("Augmented", "Cursor"))
    assert {"Augmented": "batch[0] differs", "Cursor": "self.cursor"}.get(name, "") in "".join(warned)


def test_a_server_that_is_to_end_when_copies_disagree(tmp_path: Path) -> None:
    arguments = (f"{SOURCES}:Cursor", "--workers", "2", "--bind", ANY_PORT, "--on-divergence", "error")
    with Serving(tmp_path, *arguments) as node:
        assert node.wait() == 3, node.output
        assert "the copies of source 'default' disagree" in node.stderr and "self.cursor" in node.stderr


def test_a_second_trainer_and_a_restarted_worker_see_the_same(tmp_path: Path) -> None:
    with serve(tmp_path, f"{SOURCES}:Lazy", workers=3) as node:
        runs = []
        for _ in range(2):
            with FeederClient(node.endpoint) as client:
                until(lambda client=client: outcome(client), lambda: node.output)  # type: ignore[misc]
                runs.append([pixels(batches) for batches in passes(client, 2)])
    assert runs[0] == runs[1]


def test_a_node_with_other_data_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = "import numpy as np\nDATA = [np.arange(8) + int(open('start').read()) + 8 * i for i in range(10)]\n"
    for folder, start in (("a", 0), ("b", 1000)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "data.py").write_text(text, encoding="utf-8")
        (tmp_path / folder / "start").write_text(str(start))
    with serve(tmp_path / "a", "data.py:DATA") as a, serve(tmp_path / "b", "data.py:DATA") as b:
        with FeederClient(a.endpoint) as first:
            want = list(first)
        with FeederClient([a.endpoint, b.endpoint]) as client:
            until(lambda: any(n.error for n in client._core.roster.nodes), lambda: a.output + b.output)
            wrong = [n.error for n in client._core.roster.nodes if n.error]
            assert len(wrong) == 1 and isinstance(wrong[0], DivergentSource) and "batch 0 has other data in batch" in str(wrong[0])
            got = list(client)
    # Which of the two was the first is chance; never are they mixed.
    starts = {int(np.asarray(batch)[0]) - 8 * i for i, batch in enumerate(got)}
    assert len(got) == len(want) and starts in ({0}, {1000})
    assert sum("is left out" in record.getMessage() for record in caplog.records) == 1
