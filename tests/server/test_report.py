"""What a node says of itself, as it travels: whole, of bounded length, and nothing else is taken for it."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import pytest

from feeder_server.report import Report, Reporter, Snapshot, SourceReport, from_text, of_source, to_text
from feeder_server.sample import Sample
from feeder_server.work import Source

SOURCE = SourceReport(
    name="größe",
    kind="indexed",
    num_batches=10,
    workers=4,
    stateful=True,
    sharded=False,
    outcome="parallel",
    outcome_text="the copies agree",
    notes=("a note",),
    batch_seconds=0.25,
    batch_bytes=4000,
    batch_lines=("batch  float32 (10, 100)  4 kB",),
    warnings=("batch is float64",),
    generators=("source.rng",),
)
REPORT = Report(
    "0.1.0", "tcp://127.0.0.1:5555", 12.5, "waiting for a client", 4, 3, 1, 5, 6, 7, 0, 100, 10**9, 1.5, 2.5, 3, 4, False, (SOURCE,)
)
SNAPSHOT = Snapshot(3, 4, 0, 100, 10**9, 3, 4, 1, (SOURCE,))


def changed(**changes: Any) -> str:
    return json.dumps({**asdict(REPORT), **changes})


def changed_source(**changes: Any) -> str:
    return changed(sources=[{**asdict(SOURCE), **changes}])


def test_there_and_back() -> None:
    text = to_text(REPORT)
    assert from_text(text) == REPORT
    assert text.isascii() and "\n" not in text


def test_a_newer_node_says_more() -> None:
    assert from_text(changed(weather="fine")) == REPORT
    assert from_text(changed_source(colour="green")) == REPORT


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{}",
        '"text"',
        "[" * 100_000,
        changed(workers="4"),
        changed(workers=True),
        changed(workers=1.5),
        changed(cut=1),
        changed(bytes=10**400),
        changed(up_seconds=float("inf")),
        changed(up_seconds=float("nan")),
        changed(up_seconds=10**400),
        changed(endpoint=None),
        changed(sources=None),
        changed(sources=[[]]),
        changed(sources={}),
        changed_source(name=3),
        changed_source(batch_lines="x"),
        changed_source(batch_lines=[1]),
        changed_source(num_batches="10"),
        json.dumps({key: value for key, value in asdict(REPORT).items() if key != "state"}),
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        from_text(text)


def test_what_is_too_much_is_left_out_descriptions_first() -> None:
    many = replace(REPORT, sources=tuple(replace(SOURCE, name=f"source {i}") for i in range(50)))
    whole = to_text(many, 100_000)
    assert not from_text(whole).cut
    some = from_text(to_text(many, len(whole) - 1))
    assert some.cut and len(some.sources) == 50
    assert {s.batch_lines for s in some.sources} == {()} and {s.outcome for s in some.sources} == {"parallel"}
    for most in (5000, 1000):
        text = to_text(many, most)
        assert len(text) <= most
        assert from_text(text).cut and len(from_text(text).sources) < 50


def test_what_is_known_of_a_source() -> None:
    source = Source("train", frozenset({0, 1}))
    loading = of_source(source)
    assert (loading.kind, loading.num_batches, loading.workers, loading.batch_lines) == ("", None, 2, ())
    source.kind, source.num_batches, source.stateful = "indexed", 7, True
    source.sample = Sample(("batch  int",), 5, ("a warning",), ("source.rng",))
    known = of_source(source)
    assert (known.num_batches, known.stateful, known.batch_bytes) == (7, True, 5)
    assert (known.batch_lines, known.warnings, known.generators) == (("batch  int",), ("a warning",), ("source.rng",))
    assert known.notes == ()
    source.kind, source.num_batches = "stream", -1
    assert of_source(source).num_batches is None
    assert "shard_index" in of_source(source).notes[0]


def test_the_reporter_knows_the_rate_and_the_time() -> None:
    reporter = Reporter(started=100.0)
    reporter.look(SNAPSHOT, 110.0)
    said = from_text(reporter.text(replace(SNAPSHOT, batches=150, nbytes=SNAPSHOT.nbytes + 5000), "tcp://a:1", 112.0))
    assert (said.batches_per_second, said.bytes_per_second, said.up_seconds) == (25.0, 2500.0, 12.0)
    assert (said.workers_up, said.workers, said.restarts, said.endpoint) == (3, 4, 1, "tcp://a:1")
    assert said.state == "1 worker is starting"
    assert said.sources == (SOURCE,)
