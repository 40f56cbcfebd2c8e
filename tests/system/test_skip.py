"""Training goes on without the batches that can't be had, from real nodes: the user's code raises, or its workers die over them."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from feeder_client import FeederClient, SourceError, WorkerCrashed
from tests.serving import QUICK_RESTARTS, SOURCES, serve


def test_workers_that_die(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Each batch that kills them has its tries, once a pass, and the report names them with the exit code."""
    arguments = (f"{SOURCES}:Poisoned", "-a", "bad=[3, 4, 11]", "--max-retries", "1")
    options = {"on_error": "skip", "skip_budget": 0.25, "lookahead": False}
    with serve(tmp_path, *arguments, constants=QUICK_RESTARTS) as node, FeederClient(node.endpoint, **options) as client:
        good = [i for i in range(12) if i not in (3, 4, 11)]
        assert list(client) == good
        assert node.stderr.count("ended: exit code 7") == 6
        (report,) = [r.getMessage() for r in caplog.records if "could not be had" in r.getMessage()]
        assert report.startswith("3 batches of pass 1 over source 'default' could not be had and were skipped:\n")
        for i in (3, 4, 11):
            assert f"    WorkerCrashed: batch {i} of epoch 0 of source 'default': the worker that made it died 2 times" in report
        assert report.count("exit code 7") == 3
        assert client.stats().skipped == 3
        assert client.stats().batches == 9
        assert client.state_dict()["place"]["given"] == [0, 12, []]
        with pytest.raises(WorkerCrashed, match="batch 3 of epoch 1"):
            [client[i] for i in range(12)]


def test_code_that_raises(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Several passes, with look-ahead and several workers; and one batch more than the budget allows is the end."""
    with serve(tmp_path, f"{SOURCES}:Broken", "-a", "n=20", workers=2) as node:
        with FeederClient(node.endpoint, on_error="skip") as client:
            for _ in range(3):
                assert [int(x[0, 0]) for x, _ in client] == [i for i in range(20) if i != 4]
            assert client.stats().skipped == 3
        reports = [r for r in caplog.records if "could not be had" in r.getMessage()]
        assert len(reports) == 3
        assert all(r.levelno == logging.WARNING and "picture 4 is broken" in r.getMessage() for r in reports)
        with FeederClient(node.endpoint, on_error="skip", skip_budget=0) as client:
            with pytest.raises(ValueError, match=r"skip_budget=0 allows no more(.|\n)*picture 4 is broken") as caught:
                list(client)
            assert isinstance(caught.value, SourceError)


def test_a_stream(tmp_path: Path) -> None:
    """A generator can't go on after an error, so the rest of its run is skipped too, as far as the budget goes."""
    with serve(tmp_path, f"{SOURCES}:broken_stream", "-a", "n=6", "-a", "at=3") as node:
        with FeederClient(node.endpoint, on_error="skip", skip_budget=2) as client, pytest.raises(SourceError, match="skip_budget=2"):
            list(client)
