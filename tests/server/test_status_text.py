"""A report in words: it fits, it can be printed anywhere, and it says what is so."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from feeder_server.report import SourceReport
from feeder_server.status_text import copies, duration, lines, row, shown, source_lines, what
from tests.server.test_report import REPORT, SOURCE


def test_it_fits_and_every_code_page_has_its_letters() -> None:
    long = replace(SOURCE, name="train", outcome_text="word " * 100, warnings=("warning " * 40,), generators=("source.rng",) * 30)
    said = lines(replace(REPORT, sources=(long, long)))
    assert max(map(len, said)) <= 80
    "\n".join(said).encode("ascii")
    assert max(map(len, lines(replace(REPORT, sources=(long,)), width=120))) > 100


def test_everything_is_there() -> None:
    text = "\n".join(lines(REPORT))
    for part in (
        "feeder-server 0.1.0 at tcp://127.0.0.1:5555, up for 12.5 s",
        "3 of 4 up, 1 restarted",
        "clients  0",
        "100 batches, 1,000.0 MB; now 1.5 batches/s, 0.0 MB/s",
        "3 queued, 4 under way",
        "mended   5 made again, 6 given up, 7 overdue and made twice",
        "waiting for a client",
        "source 'größe'",
        "indexed, 10 batches per pass; it is told about epochs; 4 workers",
        "batch    4 kB",
        "batch  float32 (10, 100)  4 kB",
        "250 ms per batch in one worker",
        "warning  batch is float64",
        "copies   parallel: the copies agree",
        "note     a note",
        "seeded by feeder before each batch: source.rng",
    ):
        assert part in text
    assert "left out" not in text
    assert "mended" not in "\n".join(lines(replace(REPORT, retried=0, given_up=0, hedged=0)))
    assert "left out" in "\n".join(lines(replace(REPORT, cut=True)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": ""}, "being loaded"),
        (
            {"num_batches": None, "stateful": False, "workers": 1},
            "no end, or none that is known; it is not told about epochs; 1 worker",
        ),
        ({"kind": "stream", "num_batches": None}, "each of 4 workers runs a copy of it"),
        ({"kind": "stream", "sharded": True}, "each worker makes its part of it"),
        ({"kind": "stream", "workers": 1}, "one worker runs it"),
    ],
)
def test_what_a_source_is(changes: dict[str, Any], words: str) -> None:
    assert words in what(replace(SOURCE, **changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": "stream", "outcome": "stream", "outcome_text": ""}, "not compared: a stream"),
        ({"num_batches": 0}, "not compared: there is no batch"),
        ({"outcome": "", "outcome_text": ""}, "not all compared yet"),
        ({"outcome": "single", "outcome_text": "they disagree"}, "single: they disagree"),
    ],
)
def test_what_comparing_has_shown(changes: dict[str, Any], words: str) -> None:
    assert copies(replace(SOURCE, **changes)).startswith(words)


def test_a_source_that_loads_has_nothing_else_to_say() -> None:
    loading = SourceReport("train", "", None, 4, False, False, "", "", (), 0.0, 0, (), (), ())
    assert source_lines(loading) == ["source 'train'", "  is       being loaded"]


def test_a_text_from_elsewhere_does_not_move_the_cursor() -> None:
    assert shown("a\x1b[2Jb\r\nc\td") == "a\\x1b[2Jb\\r c\\td"
    hostile = replace(
        REPORT, version="\x1b[31m", endpoint="\x07", state="\x9b", sources=(replace(SOURCE, name="\x1b", batch_lines=("\x1b",)),)
    )
    assert all(line.isprintable() for line in lines(hostile))


def test_rows() -> None:
    assert list(row("label", "")) == ["  label    "]
    assert list(row("label", "one two", 13)) == ["  label    one two"], "never narrower than can be read"
    assert list(row("label", "word " * 5, 31)) == ["  label    word word word word", "           word"]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.04, "0.0 s"), (59.9, "59.9 s"), (60, "1 min 0 s"), (3599, "59 min 59 s"), (3661, "1 h 1 min"), (90_000, "1 d 1 h")],
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words
