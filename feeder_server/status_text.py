"""A report in words, for a terminal of 80 columns or a file. PURE.

Nothing but letters that every code page has, and what came from another machine is shown escaped where it isn't printable: a text
must not move the cursor.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from feeder_server.report import Report, SourceReport
from feeder_server.sample import size_text

WIDTH = 80
_LABEL = 11


def lines(report: Report, width: int = WIDTH) -> list[str]:
    """What `feeder-server status` prints."""
    restarted = f"{report.restarts:,} restarted" if report.restarts else "none was restarted"
    twice = f"{report.retried:,} made again, {report.given_up:,} given up, {report.hedged:,} overdue and made twice"
    speed = f"{report.batches_per_second:,.1f} batches/s, {report.bytes_per_second / 1e6:,.1f} MB/s"
    out = [
        f"feeder-server {shown(report.version)} at {shown(report.endpoint)}, up for {duration(report.up_seconds)}",
        *row("workers", f"{report.workers_up} of {report.workers} up, {restarted}", width),
        *row("clients", f"{report.clients:,}", width),
        *row("made", f"{report.batches:,} batches, {report.bytes / 1e6:,.1f} MB; now {speed}", width),
        *row("asked", f"{report.queued:,} queued, {report.under_way:,} under way", width),
        *(row("mended", twice, width) if report.retried or report.given_up or report.hedged else []),
        *row("now", report.state, width),
    ]
    for source in report.sources:
        out += ["", *source_lines(source, width)]
    if report.cut:
        out += ["", "There is more than one message holds: the rest was left out."]
    return out


def source_lines(source: SourceReport, width: int = WIDTH) -> list[str]:
    """What is known of one source."""
    out = [f"source {shown(source.name)!r}", *row("is", what(source), width)]
    if source.batch_lines:
        out += row("batch", f"{size_text(source.batch_bytes)}", width)
        out += [" " * _LABEL + shown(line) for line in source.batch_lines]
    for warning in source.warnings:
        out += row("warning", warning, width)
    if source.batch_seconds:
        out += row("takes", f"{source.batch_seconds * 1000:.3g} ms per batch in one worker", width)
    if source.kind:
        out += row("copies", copies(source), width)
    for note in source.notes:
        out += row("note", note, width)
    if source.generators:
        out += row("random", f"seeded by feeder before each batch: {', '.join(source.generators)}", width)
    return out


def what(source: SourceReport) -> str:
    """What a source is, in a line."""
    if not source.kind:
        return "being loaded"
    count = "no end, or none that is known" if source.num_batches is None else f"{source.num_batches:,} batches per pass"
    if source.kind == "stream":
        parts = "each worker makes its part of it" if source.sharded else f"each of {source.workers} workers runs a copy of it"
        return f"a stream, {count}; {parts if source.workers > 1 else 'one worker runs it'}"
    state = "it is told about epochs" if source.stateful else "it is not told about epochs"
    return f"indexed, {count}; {state}; {source.workers} worker{'s' * (source.workers != 1)}"


def copies(source: SourceReport) -> str:
    """What comparing the copies has shown."""
    if source.kind == "stream":
        return "not compared: a stream has no batch that two of them would have to agree in"
    if source.num_batches == 0:
        return "not compared: there is no batch"
    if not source.outcome:
        return "not all compared yet"
    return f"{source.outcome}: {source.outcome_text}"


def row(label: str, text: str, width: int = WIDTH) -> Iterator[str]:
    """A labelled line, cut into several where it is long."""
    wrapped = textwrap.wrap(shown(text), max(20, width - _LABEL), break_long_words=False, break_on_hyphens=False) or [""]
    for i, line in enumerate(wrapped):
        yield f"  {label if i == 0 else '':<{_LABEL - 2}}{line}"


def shown(text: str) -> str:
    """A text of somebody else's on one line, with nothing in it that a terminal would obey."""
    joined = " ".join(text.split("\n"))
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in joined)


def duration(seconds: float) -> str:
    """Seconds as people say them: the two largest units."""
    whole = int(seconds)
    for size, unit, smaller, name in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // smaller} {name}"
    return f"{seconds:.1f} s"
