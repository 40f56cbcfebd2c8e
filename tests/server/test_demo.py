from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from feeder_server import demo
from feeder_server.demo_figures import Figures, table
from feeder_server.demo_source import LARGEST, SMALLEST, Augmented, Sleeping, size_for
from feeder_wire.errors import ConfigError

SECONDS = {"ready": [0.1, 0.1], "plain": [1.0, 1.0], "threads": [0.5, 0.5], "feeder": [0.2, 0.3]}

# A trainer without Keras: says what it is told to, for every source and way of the plan, and ends when stdin does.
MEASURES = """
import json, sys
plan = json.loads(sys.stdin.readline())
def say(**event): print(json.dumps(event), flush=True)
say(event="trainer", keras="3.0", backend="none")
say(event="note", text="a note with [brackets] and \\u2713")
for part in plan["parts"]:
    for way, epochs in SECONDS.items():
        say(event="begin", source=part["name"], way=way)
        say(event="step", done=1.5)
        say(event="result", source=part["name"], way=way, epochs=epochs, started_seconds=0.4 * (way == "feeder"))
"""
WAITS = "import sys; sys.stdin.read()"
HANGS = "import time; time.sleep(600)"

Fake = Callable[[str], None]


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Puts a script in the trainer's place."""

    def put(script: str) -> None:
        monkeypatch.setattr(demo, "trainer_command", lambda: [sys.executable, "-c", f"SECONDS = {SECONDS!r}\n{script}"])

    return put


def says(**event: Any) -> str:
    return f"import sys; sys.stdin.readline(); print({json.dumps(event)!r}, flush=True)"


def run(**options: Any) -> tuple[int, str]:
    out = io.StringIO()
    return demo.run(quick=True, out=out, **options), out.getvalue()


class TestSources:
    def test_sleeping(self) -> None:
        source = Sleeping(batches=3, seconds=0.02)
        start = time.perf_counter()
        x, y = source[2]
        assert time.perf_counter() - start >= 0.015
        assert len(source) == 3
        assert (x.shape, x.dtype, y.shape, y.dtype) == ((10, 3), np.float32, (10, 2), np.float32)
        assert (y.sum(axis=1) == 1).all()

    def test_augmented(self) -> None:
        source = Augmented(batches=3, size=5)
        x, y = source[0]
        assert len(source) == 3
        assert (x.shape, x.dtype, y.shape, y.dtype) == ((5, 32, 32), np.float32, (5, 1), np.float32)
        assert x.min() >= 0
        assert x.max() <= 1

    @pytest.mark.parametrize("make", [lambda: Sleeping(4, 0.001), lambda: Augmented(4, 3)])
    def test_any_copy_in_any_thread_makes_the_same(self, make: Callable[[], Any]) -> None:
        one, other = make(), make()
        with ThreadPoolExecutor(4) as pool:
            for a, b in zip(pool.map(other.__getitem__, [3, 1, 2, 0]), [one[i] for i in (3, 1, 2, 0)], strict=True):
                np.testing.assert_equal(a, b)
        assert not np.array_equal(one[0][0], one[1][0])

    @pytest.mark.parametrize("source", [Sleeping(2, 0.0), Augmented(2, 1)])
    @pytest.mark.parametrize("index", [-1, 2])
    def test_ends(self, source: Any, index: int) -> None:
        with pytest.raises(IndexError):
            source[index]

    def test_the_size_follows_the_machine(self) -> None:
        assert SMALLEST <= size_for(0.02) < size_for(0.4) <= LARGEST
        assert size_for(1e-9) == SMALLEST
        assert size_for(1e9) == LARGEST


class TestFigures:
    figures = Figures(SECONDS)

    def test_they_are_per_epoch_and_against_plain_fit(self) -> None:
        assert self.figures.seconds("feeder") == pytest.approx(0.25)
        assert self.figures.speed_up("feeder") == pytest.approx(4)
        assert self.figures.speed_up("plain") == 1

    def test_waited_is_what_ready_batches_would_have_saved(self) -> None:
        assert self.figures.waited("plain") == pytest.approx(0.9)
        assert self.figures.waited("feeder") == pytest.approx(0.6)
        assert Figures({"ready": [0.3], "feeder": [0.2]}).waited("feeder") == 0  # noise, no time machine

    def test_spread(self) -> None:
        assert self.figures.spread() == pytest.approx(0.5)

    @pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "ascii"])
    def test_the_table_fits_80_columns_and_any_encoding(self, encoding: str) -> None:
        raw = io.BytesIO()
        console = Console(file=io.TextIOWrapper(raw, encoding, write_through=True), width=80)
        for part in demo.plan(4096, False, 4096):
            console.print(table(part.title, {way: label for way, (label, _) in part.ways().items()}, self.figures))
        lines = raw.getvalue().decode(encoding).splitlines()
        assert max(map(len, lines)) <= 80
        assert len(lines) == 2 * 7  # nothing is folded
        if encoding != "utf-8":
            assert raw.getvalue().isascii()


class TestPlan:
    def test_sleeping_takes_four_and_computing_takes_the_cores(self) -> None:
        sleeping, computing = demo.plan(None, False, 16)
        assert (sleeping.threads, sleeping.workers) == (4, 4)
        assert (computing.threads, computing.workers) == (4, 16)

    def test_a_number_given_is_for_all(self) -> None:
        assert [(part.threads, part.workers) for part in demo.plan(7, True, 2)] == [(7, 7), (7, 7)]

    @pytest.mark.parametrize(("quick", "most"), [(True, 35), (False, 80)])
    def test_it_is_short(self, quick: bool, most: float) -> None:
        assert sum(seconds for part in demo.plan(None, quick, 2) for _, seconds in part.ways().values()) < most

    @pytest.mark.parametrize("workers", [0, -1, 5000])
    def test_no_such_number_of_workers(self, workers: int) -> None:
        with pytest.raises(ConfigError, match=f"--workers {workers}"):
            run(workers=workers)


class TestRun:
    def test_shows_what_was_measured(self, trainer: Fake) -> None:
        trainer(MEASURES)
        code, text = run(workers=4)
        assert code == 0
        assert "Keras 3.0 on none" in text
        assert text.count("feeder, 4 workers          0.20 and 0.30 s (first batch after 0.4 s)") == 2
        rows = [line.split() for line in text.splitlines() if line.endswith("%")]
        assert [row[-4:] for row in rows] == 2 * [
            ["1.00", "1.0", "x", "90%"],
            ["0.50", "2.0", "x", "80%"],
            ["0.25", "4.0", "x", "60%"],
        ]
        assert "waited = 1 - " in text
        assert "differ by up to 50%" in text
        assert text.endswith(f"{demo.NEXT}\n")
        assert "\x1b" not in text
        assert max(map(len, text.splitlines())) <= 80

    @pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
    def test_any_encoding_will_do(self, trainer: Fake, encoding: str) -> None:
        trainer(MEASURES)
        raw = io.BytesIO()
        assert demo.run(quick=True, out=io.TextIOWrapper(raw, encoding, write_through=True)) == 0
        text = raw.getvalue().decode(encoding)
        assert ("a note with [brackets] and " + ("✓" if encoding == "utf-8" else "\\u2713")) in text

    def test_a_bar_on_a_terminal(self, trainer: Fake) -> None:
        trainer(MEASURES)
        out = io.StringIO()
        assert demo.run(quick=True, out=Console(file=out, force_terminal=True, width=80, _environ={"TERM": "xterm"})) == 0
        assert "computing: feeder, " in out.getvalue()
        assert out.getvalue().rindex("\x1b[?25h") > out.getvalue().rindex("\x1b[?25l")  # the cursor is back

    def test_no_keras(self, trainer: Fake) -> None:
        trainer(says(event="missing", text="No module named 'keras'"))
        code, text = run()
        assert code == 2
        assert "No module named 'keras'" in text
        assert 'pip install "keras-feeder[tensorflow]"' in text

    def test_an_error_is_shown(self, trainer: Fake) -> None:
        trainer(says(event="error", text="ValueError: [bold]what[/bold] was wrong"))
        code, text = run()
        assert code == 1
        assert "ValueError: [bold]what[/bold] was wrong" in text

    @pytest.mark.parametrize("code", [1, 3])
    def test_a_trainer_that_dies_without_a_word(self, trainer: Fake, code: int) -> None:
        trainer(f"import os; os.write(2, b'so it ends\\n'); os._exit({code})")
        assert run()[0] == 1
        assert "so it ends" in run()[1]
        assert f"exit code {code}" in run()[1]

    def test_a_trainer_that_falls_silent(self, trainer: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(demo, "SILENT_SECONDS", 0.3)
        trainer(WAITS)
        code, text = run()
        assert code == 1
        assert "has said nothing" in text

    def test_ctrl_c(self, trainer: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupted(self: demo.Trainer) -> Iterator[dict[str, Any]]:
            yield {"event": "trainer", "keras": "3.0", "backend": "none"}
            raise KeyboardInterrupt

        monkeypatch.setattr(demo.Trainer, "events", interrupted)
        trainer(WAITS)
        code, text = run()
        assert code == 130
        assert text.endswith("Interrupted.\n")

    def test_a_trainer_that_does_not_stop_is_killed(self, trainer: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(demo, "SILENT_SECONDS", 0.1)
        monkeypatch.setattr(demo, "STOP_SECONDS", 0.1)
        trainer(HANGS)
        assert run()[0] == 1
