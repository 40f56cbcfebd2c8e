"""What a running node shows: the words, the rates, and how often."""

from __future__ import annotations

import io
import logging
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from feeder_server import display
from feeder_server.display import QUIET_SECONDS, LiveDisplay, LogDisplay, describe
from feeder_server.report import Rate, Snapshot, SourceReport, waiting_for


def source(name: str, kind: str) -> SourceReport:
    """A source of which nothing else is known."""
    return SourceReport(name, kind, None, 4, False, False, "", "", (), 0.0, 0, (), (), ())


def look(**changes: Any) -> Snapshot:
    """A node with nothing wrong, and the changes."""
    plain = {
        "ready": 4, "workers": 4, "clients": 1, "batches": 100, "nbytes": 10**9, "queued": 0, "under_way": 0, "restarts": 0,
        "sources": (source("train", "indexed"),),
    }  # fmt: skip
    return Snapshot(**{**plain, **changes})


class TestRate:
    def test_one_look_is_no_rate(self) -> None:
        assert Rate().of(look(), 5.0) == (0.0, 0.0)

    def test_per_second(self) -> None:
        rate = Rate()
        rate.of(look(batches=100, nbytes=0), 10.0)
        assert rate.of(look(batches=150, nbytes=5000), 12.0) == (25.0, 2500.0)

    def test_two_looks_at_one_moment(self) -> None:
        rate = Rate()
        rate.of(look(batches=1), 10.0)
        assert rate.of(look(batches=2), 10.0) == (0.0, 0.0)

    def test_what_is_long_past_is_forgotten(self) -> None:
        rate = Rate(span_seconds=3.0)
        for second in range(100):
            found = rate.of(look(batches=1000 * min(second, 50), nbytes=0), float(second))
            assert found[0] == (1000.0 if 0 < second <= 50 else 0.0 if second >= 54 or second == 0 else found[0])
        assert len(rate._looks) < 6

    def test_after_a_long_time_without_looks_it_is_still_the_mean_over_that_time(self) -> None:
        rate = Rate()
        rate.of(look(batches=0), 0.0)
        assert rate.of(look(batches=100), 1000.0)[0] == 0.1


class TestWords:
    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"sources": (source("train", ""), source("val", "")), "ready": 0}, "loading train, val"),
            ({"sources": (source("train", "indexed"), source("val", "")), "ready": 0}, "loading val"),
            ({"ready": 1}, "3 workers are starting"),
            ({"ready": 3}, "1 worker is starting"),
            ({"clients": 0}, "waiting for a client"),
            ({"clients": 0, "ready": 3}, "1 worker is starting"),
            ({"queued": 7, "under_way": 4}, "7 batches queued: the workers are the limit"),
            ({"under_way": 4}, "4 batches in the making"),
            ({}, "the clients have all they asked for"),
        ],
    )
    def test_what_it_waits_for(self, changes: dict[str, Any], words: str) -> None:
        assert waiting_for(look(**changes)) == words

    def test_one_line(self) -> None:
        line = describe(look(ready=3, clients=2, under_way=1), (12.345, 480e6))
        assert line == "workers 3/4 | 12.3 batches/s | 480.0 MB/s | clients 2 | 100 batches | 1 worker is starting"

    def test_restarts_are_named_when_there_are_some(self) -> None:
        assert "restarts" not in describe(look(), (0, 0))
        assert "| restarts 3 |" in describe(look(restarts=3), (0, 0))


class TestLog:
    @pytest.fixture
    def now(self, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        """The time; its only item may be changed."""
        made = [1000.0]
        monkeypatch.setattr(display, "time", SimpleNamespace(monotonic=lambda: made[0]))
        return made

    def test_says_something_now_and_then_and_only_while_something_happens(self, now: list[float], caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "feeder.node")
        said = []
        with LogDisplay() as shown:
            for half_second in range(200):
                now[0] = 1000.0 + 0.5 * half_second
                caplog.clear()
                shown.look(look(batches=min(half_second, 90)))
                said += [(now[0] - 1000.0, r.getMessage()) for r in caplog.records]
        assert [when for when, _ in said] == [0.0, 10.0, 20.0, 30.0, 40.0, 50.0], "batches stop coming after 45 seconds"
        assert "| 2.0 batches/s |" in said[2][1]
        assert QUIET_SECONDS == 10.0


class TestLive:
    def test_a_line_on_the_terminal_that_goes_away(self) -> None:
        out = io.StringIO()
        console = Console(file=out, force_terminal=True, width=200, legacy_windows=False)
        with LiveDisplay(console) as shown:
            shown.look(look(sources=(source("[red]odd[/red]", ""),)))
            shown._live.refresh()
        assert "workers 4/4 | 0.0 batches/s" in out.getvalue()
        assert "loading [red]odd[/red]" in out.getvalue(), "names are no markup"
        assert out.getvalue().rstrip().endswith("\x1b[2K"), "the line was erased"

    def test_a_narrow_terminal_gets_one_line(self) -> None:
        out = io.StringIO()
        with LiveDisplay(Console(file=out, force_terminal=True, width=30, legacy_windows=False)) as shown:
            shown.look(look())
            shown._live.refresh()
        assert "…" in out.getvalue()
