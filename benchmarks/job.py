"""What a peer is asked for: the work, with how many producers; and how fast it was.

    with peer.open(job) as batches:      an endless iterator of (x, y), from `job.producers` processes or threads
        figures(batches, job)            batches per second, and CPU seconds of all processes for each

All peers iterate over one pass that never ends while it is measured: what a peer does between passes is not in these figures.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks import sources

ENDLESS = 1_000_000
"""Batches of a pass: more than anybody makes in one measurement."""


@dataclass(frozen=True)
class Work:
    """One of the workloads. `bytes` of one batch; `producers` that make it; `batch` is the length of its first axis."""

    title: str
    source: str
    bytes: int
    producers: int
    batch: int


WORKS = {
    "big": Work("float32 (64, 224, 224, 3) and int64 (64,), ready in memory", "Big", 38_535_680, 2, 64),
    "mid": Work("float32 (32, 104, 104, 3) and int64 (32,), ready in memory", "Mid", 4_153_600, 2, 32),
    "small": Work("float32 (32, 26, 3) and int64 (32,), ready in memory", "Small", 10_240, 2, 32),
    "cpu": Work("about 40 ms of pure Python, float32 (32, 64, 64, 3)", "Cpu", 1_573_120, 2, 32),
    "sleep": Work("50 ms of sleep, float32 (32, 26, 3)", "Sleep", 10_240, 4, 32),
}
WARM_SECONDS = 1.0
SLEEP_SECONDS = 0.050
CPU_SECONDS = 0.040


@dataclass(frozen=True)
class Job:
    """One measurement."""

    work: str
    seconds: float  # that are measured
    loops: int = 0  # of pure Python for one batch of `cpu`
    source: str = ""  # another class of sources.py than the work's
    length: int = ENDLESS

    @property
    def producers(self) -> int:
        """Processes or threads that make batches."""
        return WORKS[self.work].producers

    @property
    def batch(self) -> int:
        """Length of the first axis."""
        return WORKS[self.work].batch

    @property
    def attribute(self) -> str:
        """The class in sources.py."""
        return self.source or WORKS[self.work].source

    @property
    def args(self) -> dict[str, float]:
        """Its arguments."""
        more: dict[str, dict[str, float]] = {"cpu": {"loops": self.loops}, "sleep": {"seconds": SLEEP_SECONDS}}
        return {"length": self.length, **more.get(self.work, {})}

    def make(self) -> Any:
        """The source, in this process."""
        return getattr(sources, self.attribute)(**self.args)

    def to_dict(self) -> dict[str, Any]:
        """For another process."""
        return asdict(self)


Batches = Iterator[Any]
Open = Callable[[Job], AbstractContextManager[Batches]]


@dataclass(frozen=True)
class Peer:
    """Somebody who brings batches.

    Args:
        title: for tables.
        settings: how it is used here, in the words of its documentation where there are some.
        open: gives the iterator.
        works: what it can do.
        needs: packages (as they are imported) that it can't do without.
        serves: False for what brings nothing anywhere: a floor to hold the others against.
    """

    title: str
    settings: str
    open: Open
    works: tuple[str, ...] = tuple(WORKS)
    needs: tuple[str, ...] = ()
    serves: bool = True


def figures(batches: Batches, job: Job) -> Mapping[str, float]:
    """Batches per second, and CPU seconds per batch of this process and all below it, over at least `job.seconds`.

    Warm-up, not measured: for as long, but a second at most, and two batches at least. Memory is touched for the first time then, queues
    fill, and feeder compares its workers' copies.
    """
    warm = time.perf_counter() + min(job.seconds, WARM_SECONDS)
    for seen, (x, _y) in enumerate(batches):
        if len(x) != job.batch:
            raise RuntimeError(f"that is not the batch that was to be measured: {x.shape}")
        if seen and time.perf_counter() >= warm:
            break
    cpu, started = cpu_seconds(), time.perf_counter()
    end = started + job.seconds
    for count, _batch in enumerate(batches, 1):  # noqa: B007
        if time.perf_counter() >= end:
            break
    took = time.perf_counter() - started
    return {"rate": count / took, "cpu": (cpu_seconds() - cpu) / count, "batches": float(count)}


def cpu_seconds() -> float:
    """Of this process and all processes below it, also of those that have ended."""
    import psutil

    me = psutil.Process()
    total = 0.0
    for process in [me, *me.children(recursive=True)]:
        try:
            total += sum(process.cpu_times()[:4])  # user and system, and the same of children that were waited for
        except psutil.Error:  # it has just ended
            continue
    return total
