"""Batches that can't be had, with ``on_error="skip"``: the budget, the report, what comes in their place, and the position after them."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from feeder_client.client import FeederClient
from feeder_client.core import Core
from feeder_client.position import Position
from feeder_client.skips import FIRST_WORDS, MOST_LINES, Missing, Skipped, Skips, budget_from, stand_ins
from feeder_client.waiting import PassEnded
from feeder_wire import messages as m
from feeder_wire.errors import ConfigError, FeederError, RemoteError, SourceError, UnsupportedBatch, WorkerCrashed
from tests.client.test_core import SESSION, Server, make

KINDS = {"WorkerCrashed": WorkerCrashed, "UnsupportedBatch": UnsupportedBatch, "SourceError": SourceError}


def breaking(*bad: int, kind: str = "SourceError") -> Callable[[Server, int, int, int], None]:
    """A server that can't make the batches `bad`."""

    def answer(server: Server, node: int, epoch: int, index: int) -> None:
        if index not in bad:
            server.send(node, epoch, index)
            return
        error = RemoteError(kind, "ValueError", ("ValueError",), f"picture {index} is broken", "Traceback: ...", "worker 0")
        server.core.failed_batch(node, m.Failed(SESSION, epoch, index, error))

    return answer


def skipping(*bad: int, kind: str = "SourceError", budget: int | float = 100, of: str = "indexed", **options: Any) -> tuple[Core, Server]:
    core, server = make(kind=of, skip_budget=budget, **options)
    server.answer = breaking(*bad, kind=kind)
    return core, server


def iterated(core: Core, n: int | None = None) -> list[Any]:
    """One pass as `FeederClient` reads it, with None for what was passed over."""
    core.begin_pass(anew=True)
    got: list[Any] = []
    for i in range(n or core.num_batches or 0):
        try:
            got.append(core.get(i, Missing.PASS_OVER))
        except Skipped:
            got.append(None)
    core.end_pass()
    return got


def reports(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if "could not be had" in r.getMessage()]


class TestOptions:
    def test_what_is_meant(self) -> None:
        assert budget_from("raise", None) is None
        assert budget_from("skip", None) == 0.05
        assert budget_from("skip", 0) == 0
        assert budget_from("skip", 7) == 7
        assert budget_from("skip", 1.0) == 1.0

    @pytest.mark.parametrize(
        ("on_error", "budget", "words"),
        [
            ("ignore", None, "on_error='ignore'"),
            (True, None, "on_error=True"),
            ("raise", 5, "add on_error='skip'"),
            ("skip", -1, "skip_budget=-1"),
            ("skip", 0.0, r"skip_budget=0\.0"),
            ("skip", 1.5, r"skip_budget=1\.5"),
            ("skip", True, "skip_budget=True"),
            ("skip", "5%", "skip_budget='5%'"),
            ("skip", float("nan"), "skip_budget=nan"),
        ],
    )
    def test_what_can_not_be(self, on_error: Any, budget: Any, words: str) -> None:
        with pytest.raises(ConfigError, match=words):
            FeederClient("tcp://127.0.0.1:1", on_error=on_error, skip_budget=budget)


class TestBudget:
    @pytest.mark.parametrize(
        ("budget", "length", "given", "allowed"),
        [(3, 10, 0, 3), (0, 10, 0, 0), (0.05, 100, 0, 5), (0.05, 7, 0, 1), (0.1, 30, 5, 3), (0.05, None, 3, 1), (0.05, None, 200, 10)],
    )
    def test_how_many(self, budget: int | float, length: int | None, given: int, allowed: int) -> None:
        assert Skips("x", budget).allowed(length, given) == allowed

    def test_the_one_too_many(self) -> None:
        skips = Skips("x", 2)
        assert skips.add((0, 1), SourceError("a"), 10, 2)
        assert not skips.add((0, 1), SourceError("a"), 10, 2), "the same one again costs nothing"
        assert skips.add((0, 2), SourceError("b"), 10, 3)
        for _ in range(2):
            with pytest.raises(WorkerCrashed, match=r"^2 batches of this pass were skipped, and skip_budget=2 allows no more; .*: c$"):
                skips.add((0, 3), WorkerCrashed("c"), 10, 4)
        skips.enter(1)
        assert skips.add((1, 3), WorkerCrashed("c"), 10, 4), "each pass has its own"

    def test_the_error_is_still_what_the_user_raised(self) -> None:
        core, _ = skipping(1, 2, budget=1)
        core.begin_pass()
        core.get(0, Missing.PASS_OVER)
        with pytest.raises(Skipped):
            core.get(1, Missing.PASS_OVER)
        for _ in range(2):  # also where it is asked for again
            with pytest.raises(ValueError, match="picture 2 is broken") as caught:
                core.get(2, Missing.PASS_OVER)
            assert isinstance(caught.value, SourceError)
            assert "skip_budget=1 allows no more" in str(caught.value)
        assert core.get(3, Missing.PASS_OVER) == (0, 3)

    def test_nothing_may_be_skipped(self) -> None:
        core, _ = skipping(0, budget=0)
        with pytest.raises(SourceError, match="0 batches of this pass"):
            core.get(0, Missing.STAND_IN)


class TestLog:
    def test_the_first_few_at_once_and_all_at_the_end_of_the_pass(self, caplog: pytest.LogCaptureFixture) -> None:
        core, _ = skipping(*range(2, 28), num_batches=30, workers=1)
        for epoch in range(2):
            caplog.clear()
            iterated(core)
            (report,) = reports(caplog)
            assert report.startswith(
                f"26 batches of pass {epoch + 1} over source 'train' could not be had and were skipped:\n    SourceError: "
            )
            assert report.count("\n") == MOST_LINES + 1
            assert report.endswith(f"and {26 - MOST_LINES} more")
            first = [r.getMessage() for r in caplog.records if r.getMessage().startswith("skipped ")]
            assert len(first) == FIRST_WORDS
            assert f"batch 2 of epoch {epoch} of source 'train'" in first[0]
            assert "Traceback" not in report
            assert caplog.records[-1].levelno == logging.WARNING
        caplog.clear()
        core.close()
        assert not caplog.records

    def test_of_a_pass_that_was_left(self, caplog: pytest.LogCaptureFixture) -> None:
        core, _ = skipping(1, num_batches=6)
        core.begin_pass()
        for i in range(3):
            core.get(i, Missing.STAND_IN)
        assert not reports(caplog)
        core.close()
        (report,) = reports(caplog)
        assert report.startswith("1 batch of pass 1 over source 'train' could not be had and was skipped:")


class TestIndexed:
    @pytest.mark.parametrize("kind", KINDS)
    def test_iterated(self, kind: str) -> None:
        core, _ = skipping(0, 3, kind=kind)
        for epoch in range(3):
            assert iterated(core) == [None, (epoch, 1), (epoch, 2), None, (epoch, 4), (epoch, 5)]
        assert (core.stats().skipped, core.stats().batches) == (6, 12)

    def test_the_last_ones(self) -> None:
        """The pass ends all the same, and the next one begins."""
        core, _ = skipping(4, 5)
        assert iterated(core) == [(0, 0), (0, 1), (0, 2), (0, 3), None, None]
        assert iterated(core)[0] == (1, 0)

    def test_what_says_nothing_about_the_batch_is_raised(self) -> None:
        core, _ = skipping(1, kind="ConfigError")
        with pytest.raises(ConfigError):
            iterated(core)

    def test_without_the_option(self) -> None:
        core, server = make()
        server.answer = breaking(1)
        for missing in Missing:
            with pytest.raises(SourceError):
                core.get(1, missing)

    def test_who_asks_for_one_gets_the_error(self) -> None:
        core, _ = skipping(1)
        with pytest.raises(SourceError):
            core.get(1)

    def test_the_batch_before_it_stands_in(self) -> None:
        """The same one whatever came before; and where it is asked for again, it is no other one."""
        core, _ = skipping(2, 3)
        core.begin_pass()
        assert [core.get(i, Missing.STAND_IN) for i in range(6)] == [(0, 0), (0, 1), (0, 1), (0, 1), (0, 4), (0, 5)]
        core.begin_pass()
        assert [core.get(i, Missing.STAND_IN) for i in range(6)] == [(1, 0), (1, 1), (1, 1), (1, 1), (1, 4), (1, 5)]
        assert (core.stats().skipped, core.stats().batches) == (4, 12)

    def test_the_first_one(self) -> None:
        """The last one stands in, before its turn, and is made again when that comes."""
        core, server = skipping(0)
        assert core.get(0, Missing.STAND_IN) == (0, 5), "looked at"
        core.begin_pass(anew=True)
        assert [core.get(i, Missing.STAND_IN) for i in range(6)] == [(0, i) for i in (5, 1, 2, 3, 4, 5)]
        assert core.stats().skipped == 1
        assert server.asked.count((0, 0, 0)) == 1, "one that kills its workers isn't tried again"
        assert core.stats().stored + core.stats().owed <= 6, "what stood in doesn't stay in the window"

    def test_shuffled(self) -> None:
        plain, _ = make(num_batches=8)
        core, _ = skipping(5, num_batches=8)
        orders = []
        for each in (plain, core):
            each.begin_pass(shuffle=True)
            orders.append([each.get(i, Missing.STAND_IN)[1] for i in (3, 1, 7, 0, 2, 6, 4, 5)])
        assert orders[1] == [4 if i == 5 else i for i in orders[0]]

    def test_nothing_can_be_had(self) -> None:
        core, _ = skipping(*range(6))
        core.begin_pass()
        for _ in range(2):
            with pytest.raises(SourceError, match="picture 0"):
                core.get(0, Missing.STAND_IN)

    def test_stand_ins(self) -> None:
        assert list(stand_ins((3, 2), 5)) == [(3, 1), (3, 0), (3, 4), (3, 3)]
        assert list(stand_ins((0, 0), 1)) == []
        endless = stand_ins((0, 1), None)
        assert [next(endless) for _ in range(3)] == [(0, 0), (0, 2), (0, 3)]


class TestPosition:
    @pytest.mark.parametrize("missing", [Missing.PASS_OVER, Missing.STAND_IN])
    @pytest.mark.parametrize("upto", range(1, 7))
    def test_what_was_skipped_counts_as_given(self, missing: Missing, upto: int) -> None:
        """Taken up after any number of batches, the rest is what would have come."""
        core, _ = skipping(2, 3, 5)
        whole = list(read(core, missing))
        core, _ = skipping(2, 3, 5)
        begun = list(itertools.islice(read(core, missing), upto))
        state = core.where(Position.state)
        again, _ = skipping(2, 3, 5)
        again.load_state(state)
        rest = list(read(again, missing)) if len(begun) < len(whole) else []
        assert begun + rest == whole

    def test_what_was_trained_on(self) -> None:
        """A skipped batch is none that was trained on: it goes along with the one before it."""
        core, _ = skipping(0, 2, 3, 5)
        core.where(Position.track)
        assert [batch for batch in iterated(core) if batch] == [(0, 1), (0, 4)]
        given = [given_of(core)]
        for _ in range(2):
            core.where(lambda position: position.trained(1))
            given.append(given_of(core))
        assert given == [{0}, {0, 1, 2, 3}, {0, 1, 2, 3, 4, 5}]

    def test_stand_ins_were_trained_on(self) -> None:
        core, _ = skipping(0, 2, 3, 5)
        core.where(Position.track)
        core.begin_pass()
        for i in range(6):
            core.get(i, Missing.STAND_IN)
        for i in range(6):
            core.where(lambda position: position.trained(1))
            assert given_of(core) == set(range(i + 1))


def read(core: Core, missing: Missing) -> Iterator[Any]:
    core.begin_pass()
    for i in range(core.pass_length or 0):
        try:
            yield core.get(i, missing)
        except Skipped:
            continue


def given_of(core: Core) -> set[int]:
    start, run, rest = core.where(Position.state)["place"]["given"]
    return {*range(start, run), *rest}


class TestStreams:
    @pytest.mark.parametrize("missing", [Missing.PASS_OVER, Missing.STAND_IN])
    def test_whatever_comes_next_stands_in(self, missing: Missing) -> None:
        """Nothing comes twice, and a pass has all its steps."""
        core, _ = stream(1, 2, 6, steps=4)
        for expected in ([0, 3, 4, 5], [7, 8, 9, 10]):
            core.begin_pass()
            assert [core.get(i, missing)[1] for i in range(4)] == expected
        assert (core.stats().skipped, core.stats().batches) == (3, 8)

    def test_in_runs(self, caplog: pytest.LogCaptureFixture) -> None:
        core, server = stream(1, 4)
        answer = server.answer
        assert answer is not None

        def ending(server: Server, node: int, run: int, index: int) -> None:
            if index < 6:
                answer(server, node, run, index)
            else:
                server.core.ended(node, run, index)

        server.answer = ending
        for run in range(2):
            caplog.clear()
            got = []
            with pytest.raises(PassEnded):
                while True:
                    got.append(core.get_in_run())
            assert sorted(got) == [(run, i) for i in (0, 2, 3, 5)]
            (report,) = reports(caplog)
            assert report.startswith(f"2 batches of pass {run + 1} over")

    def test_a_share_of_what_has_no_length(self) -> None:
        """Of the batches that came so far."""
        core, _ = stream(5, 6, 7, budget=0.2)
        got: list[Any] = []
        with pytest.raises(FeederError, match="1 batches of this pass were skipped"):
            while True:
                got.append(core.get_in_run()[1])
        assert got == [0, 1, 2, 3, 4]

    def test_an_empty_stream_is_no_batch_that_could_be_skipped(self) -> None:
        core, server = stream(steps=4)
        server.answer = lambda server, node, run, index: server.core.ended(node, run, index)
        core.begin_pass()
        with pytest.raises(SourceError, match="without giving a batch"):
            core.get(0, Missing.STAND_IN)

    def test_the_position(self) -> None:
        """What was skipped isn't asked for again."""
        core, _ = stream(1, 2, 5, steps=4)
        core.where(Position.track)
        core.begin_pass()
        assert [core.get(i, Missing.STAND_IN)[1] for i in range(3)] == [0, 3, 4]
        core.where(lambda position: position.trained(1))
        again, server = stream(1, 2, 5, steps=4)
        again.load_state(core.where(Position.state))
        again.begin_pass()
        assert [again.get(i, Missing.STAND_IN)[1] for i in range(3)] == [3, 4, 6]
        assert not {(0, 0, 1), (0, 0, 2)} & set(server.asked)


def stream(*bad: int, budget: int | float = 100, **options: Any) -> tuple[Core, Server]:
    return skipping(*bad, kind="WorkerCrashed", budget=budget, of="stream", num_batches=-1, workers=1, **options)
