"""What is told of a running node: to the live line and the log, and to whoever asks with `feeder-server status`. No clock, no socket.

    dispatch ──▶ Snapshot ──▶ display.py
                    └───────▶ Report ──to_text──▶ Status message ──from_text──▶ status.py

The JSON of a `Status` has the fields of `Report` under their names; docs/operations.md describes them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from typing import Any, TypeVar

from feeder_server.comparing import remarks
from feeder_server.dispatch import Dispatch
from feeder_server.work import Send, Source
from feeder_wire.messages import MAX_TEXT, Progress

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SourceReport:
    """One source of a node. `kind` is empty while it loads, `outcome` while its copies are not all compared, see probe.py."""

    name: str
    kind: str
    num_batches: int | None  # of a pass; None: not known, or endless
    workers: int  # that serve it
    stateful: bool
    sharded: bool
    outcome: str
    outcome_text: str
    notes: tuple[str, ...]
    batch_seconds: float  # that a worker takes for one, lately; 0: none made yet
    batch_bytes: int
    batch_lines: tuple[str, ...]  # what one is made of, see sample.py
    warnings: tuple[str, ...]
    generators: tuple[str, ...]  # the random generators of its own that are seeded, by name


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One look at a node."""

    ready: int
    workers: int
    clients: int
    batches: int
    nbytes: int
    queued: int
    under_way: int
    restarts: int
    sources: tuple[SourceReport, ...]
    retried: int = 0  # batches whose worker died, and that another one was given
    given_up: int = 0  # of those, after too many tries
    hedged: int = 0  # batches that were overdue, and that a second worker was given too


@dataclass(frozen=True, slots=True)
class Report:
    """A `Snapshot` with what makes it useful elsewhere. `cut`: something was left out, for the whole would have been too long."""

    version: str
    endpoint: str
    up_seconds: float
    state: str
    workers: int
    workers_up: int
    restarts: int
    retried: int
    given_up: int
    hedged: int
    clients: int
    batches: int
    bytes: int
    batches_per_second: float
    bytes_per_second: float
    queued: int
    under_way: int
    cut: bool
    sources: tuple[SourceReport, ...]


class Rate:
    """Batches and bytes per second, over the last few looks."""

    def __init__(self, span_seconds: float = 3.0) -> None:
        self._span = span_seconds
        self._looks: list[tuple[float, int, int]] = []

    def of(self, snapshot: Snapshot, now: float) -> tuple[float, float]:
        """(batches/s, bytes/s) at `now`, which comes from a monotonic clock."""
        self._looks.append((now, snapshot.batches, snapshot.nbytes))
        while len(self._looks) > 2 and now - self._looks[0][0] > self._span:
            self._looks.pop(0)
        then, batches, nbytes = self._looks[0]
        elapsed = now - then
        if elapsed <= 0:
            return 0.0, 0.0
        return (snapshot.batches - batches) / elapsed, (snapshot.nbytes - nbytes) / elapsed


def snapshot_of(dispatch: Dispatch, clients: int, restarts: int) -> Snapshot:
    """One look at a node that has so many clients, and has restarted so many workers."""
    return Snapshot(
        ready=sum(slot.ready for slot in dispatch.slots),
        workers=dispatch.awake,
        clients=clients,
        batches=dispatch.made_batches,
        nbytes=dispatch.made_bytes,
        queued=sum(len(session.queue) for session in dispatch.sessions.values()),
        under_way=sum(len(slot.jobs) for slot in dispatch.slots),
        restarts=restarts,
        sources=tuple(of_source(source, dispatch.workers_of(number)) for number, source in enumerate(dispatch.sources)),
        retried=dispatch.retried,
        given_up=dispatch.given_up,
        hedged=dispatch.hedged,
    )


def progress(dispatch: Dispatch, now: float) -> list[Send]:
    """What each client that waits for something is told of it; `now` as for `Dispatch.assign`."""
    out = []
    for session_id, (queued, making) in dispatch.waiting().items():
        session = dispatch.sessions[session_id]
        source = dispatch.sources[session.source]
        if not source.kind:
            text = f"the workers are loading source {source.name!r}"
        elif making:
            shown = [
                f"worker {slot} has had batch {index} of epoch {epoch} for {now - since:.0f} s" for slot, (epoch, index), since in making
            ]
            what = ", ".join(shown[:4])
            text = f"{what}; {queued} more are queued"
        else:
            ready = sum(slot.ready for slot in dispatch.slots)
            text = f"{queued} batches are queued and no worker is free: {ready} of {dispatch.awake} are up"
        out.append(Send(session.client, Progress(session_id, text)))
    return out


def waiting_for(snapshot: Snapshot) -> str:
    """What the node is waiting for, in a few words."""
    loading = [source.name for source in snapshot.sources if not source.kind]
    if loading:
        return f"loading {', '.join(loading)}"
    if snapshot.ready < snapshot.workers:
        missing = snapshot.workers - snapshot.ready
        return f"{missing} workers are starting" if missing > 1 else "1 worker is starting"
    if not snapshot.clients:
        return "waiting for a client"
    if snapshot.queued:
        return f"{snapshot.queued} batches queued: the workers are the limit"
    if snapshot.under_way:
        return f"{snapshot.under_way} batches in the making"
    return "the clients have all they asked for"


def of_source(source: Source, workers: int | None = None) -> SourceReport:
    """What is known of a source just now. `workers` make it; None: all that may."""
    sample = source.sample
    return SourceReport(
        name=source.name,
        kind=source.kind,
        num_batches=None if source.num_batches < 0 else source.num_batches,
        workers=len(source.slots) if workers is None else workers,
        stateful=source.stateful,
        sharded=source.sharded,
        outcome=source.outcome,
        outcome_text=source.outcome_text,
        notes=remarks(source),
        batch_seconds=source.seconds,
        batch_bytes=sample.nbytes if sample else 0,
        batch_lines=sample.lines if sample else (),
        warnings=sample.warnings if sample else (),
        generators=sample.generators if sample else (),
    )


class Reporter:
    """Makes the reports of one node. `now`, `started`: of a monotonic clock."""

    def __init__(self, started: float) -> None:
        self._started = started
        self._rate = Rate()

    def look(self, snapshot: Snapshot, now: float) -> None:
        """Take in how things are, a few times a second, so that there is a rate when somebody asks."""
        self._rate.of(snapshot, now)

    def text(self, snapshot: Snapshot, endpoint: str, now: float) -> str:
        """What a `Status` holds, for a node that looks like this."""
        rate = self._rate.of(snapshot, now)
        report = Report(
            version=version(),
            endpoint=endpoint,
            up_seconds=round(now - self._started, 3),
            state=waiting_for(snapshot),
            workers=snapshot.workers,
            workers_up=snapshot.ready,
            restarts=snapshot.restarts,
            retried=snapshot.retried,
            given_up=snapshot.given_up,
            hedged=snapshot.hedged,
            clients=snapshot.clients,
            batches=snapshot.batches,
            bytes=snapshot.nbytes,
            batches_per_second=round(rate[0], 3),
            bytes_per_second=round(rate[1], 3),
            queued=snapshot.queued,
            under_way=snapshot.under_way,
            cut=False,
            sources=snapshot.sources,
        )
        return to_text(report)


@cache
def version() -> str:
    """The version of feeder that is installed."""
    from importlib import metadata  # a few dozen modules, for those who are asked

    try:
        return metadata.version("keras-feeder")
    except metadata.PackageNotFoundError:  # run from a copy that was never installed
        return "unknown"


def to_text(report: Report, most: int = MAX_TEXT) -> str:
    """As one line of JSON in ASCII, of at most `most` characters: what is too much is left out, the last sources first."""
    text = json.dumps(asdict(report))
    if len(text) <= most:
        return text
    bare = [replace(s, batch_lines=(), warnings=(), generators=(), notes=(), outcome_text="") for s in report.sources]
    report = replace(report, cut=True, sources=tuple(bare))
    while len(text := json.dumps(asdict(report))) > most and report.sources:
        report = replace(report, sources=report.sources[: len(report.sources) // 2])
    return text


def from_text(text: str) -> Report:
    """Read what `to_text` wrote, here or on another machine; fields that are not known are left alone.

    Raises:
        ValueError: it is something else.
    """
    try:
        found = json.loads(text)
    except RecursionError:
        raise ValueError("not a report") from None
    values = _values(Report, found)
    if not isinstance(values["sources"], list):
        raise ValueError("the sources of a report are a list")
    sources = tuple(_built(SourceReport, _values(SourceReport, each)) for each in values["sources"])
    return _built(Report, {**values, "sources": sources})


def _values(cls: type, found: object) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise ValueError("an object was expected")
    missing = [f.name for f in fields(cls) if f.name not in found]
    if missing:
        raise ValueError(f"it has no {missing[0]!r}")
    return {f.name: found[f.name] for f in fields(cls)}


def _built(cls: type[T], values: dict[str, Any]) -> T:
    for f in fields(cls):  # type: ignore[arg-type]
        value = values[f.name]
        if f.type == "tuple[str, ...]":
            if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
                raise ValueError(f"{f.name!r} is no list of texts")
            values[f.name] = tuple(value)
        elif f.type in _TYPES and type(value) not in _TYPES[f.type]:
            raise ValueError(f"{f.name!r} is {type(value).__name__}")
        elif isinstance(value, (int, float)) and not abs(value) < 1 << 63:  # also inf and nan, which JSON in Python has
            raise ValueError(f"{f.name!r} is too large")
    return cls(**values)


# By the text of the annotation. Not isinstance: True is an int for that.
_TYPES: dict[Any, Iterable[type]] = {
    "str": (str,),
    "int": (int,),
    "int | None": (int, type(None)),
    "float": (float, int),
    "bool": (bool,),
}
