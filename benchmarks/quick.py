"""The claims of feeder's first day, against its peers in the same run: ``python -m benchmarks quick [--rounds N] [--markdown FILE]``.

Each measurement runs in a fresh process, the order is rotated from round to round, and what is compared is always of one round:
figures differ from machine to machine and hour to hour, ratios within a round hardly. Shown are medians, and the lowest and the
highest round in brackets. A peer that is not installed is shown as absent.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.job import CPU_SECONDS, Job
from benchmarks.measuring import SOURCES, above_zero, at_least_one, measure, rotated, tell
from benchmarks.peers import rate_of
from benchmarks.report import Claim, Results, Table, claims_table, machine, markdown, quotients, ratios, show, spread
from benchmarks.sources import loops_for

WORKERS = 2
SECONDS = 3.0
LIMIT_SECONDS = 120.0


@dataclass(frozen=True)
class Task:
    """What a measuring process is told."""

    seconds: float
    loops: int  # of pure Python for one batch of `cpu`


# ------------------------------------------------------------------------------------------------ measurements, one process each


def rate(work: str, peer: str) -> Callable[[Task], float]:
    """Batches per second."""
    return lambda task: rate_of(peer, Job(work, task.seconds, task.loops).to_dict())["rate"]


def first_batch(task: Task) -> float:
    """Seconds from ``FeederClient.local(...)`` to the first batch, with 4 workers."""
    from feeder_client import FeederClient

    started = time.perf_counter()
    with FeederClient.local(f"{SOURCES}:Small", workers=4, args={"length": 100}) as client:
        next(iter(client))
        return time.perf_counter() - started


def bare_python(task: Task) -> float:
    """Seconds that a Python takes to import NumPy and pyzmq, and to end."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import numpy, zmq"], check=True)
    return time.perf_counter() - started


def frameworks(task: Task) -> str:
    """The frameworks that workers with a NumPy-only source have loaded. Not timed."""
    from feeder_client import FeederClient

    with FeederClient.local(f"{SOURCES}:Loaded", workers=WORKERS) as client:
        return ",".join(sorted({batch["frameworks"] for batch in client} - {""}))


MEASUREMENTS: dict[str, tuple[str, str, Callable[[Task], float]]] = {
    "big feeder": ("big: feeder, same host", "batches/s", rate("big", "feeder")),
    "big tcp": ("big: feeder, over tcp", "batches/s", rate("big", "feeder-tcp")),
    "big curve": ("big: feeder, over tcp, encrypted", "batches/s", rate("big", "feeder-curve")),
    "stacked": ("big, stacked from 64 pictures: feeder, same host", "batches/s", rate("big", "feeder-stacked")),
    "inplace": ("big, stacked into feeder_server.empty: feeder, same host", "batches/s", rate("big", "feeder-empty")),
    "big torch": ("big: torch DataLoader, tensors", "batches/s", rate("big", "torch")),
    "big memcpy": ("big: one memcpy, one thread", "batches/s", rate("big", "memcpy")),
    "small feeder": ("small: feeder, same host", "batches/s", rate("small", "feeder")),
    "small torch": ("small: torch DataLoader, tensors", "batches/s", rate("small", "torch")),
    "cpu feeder": ("cpu: feeder, 2 workers", "batches/s", rate("cpu", "feeder")),
    "cpu thread": ("cpu: one thread in process", "batches/s", rate("cpu", "in-process")),
    "start feeder": ("start: first batch of a fresh server, 4 workers", "s", first_batch),
    "start python": ("start: python -c 'import numpy, zmq'", "s", bare_python),
}

# ------------------------------------------------------------------------------------------------------------------- the run


def one(name: str, seconds: float, loops: int) -> dict[str, Any]:
    """One measurement, in this process."""
    task = Task(seconds, loops)
    return {"value": frameworks(task) if name == "frameworks" else MEASUREMENTS[name][2](task)}


def in_fresh_process(name: str, task: Task) -> Any:
    """What one measurement gives, made in a process of its own; None: it is absent."""
    outcome = measure("benchmarks.quick:one", {"name": name, "seconds": task.seconds, "loops": task.loops}, LIMIT_SECONDS)
    if outcome.why:
        tell(f"  absent: {outcome.why}")
    return outcome.get("value")


def run(rounds: int, task: Task, say: Callable[[str], None]) -> Results:
    """All rounds."""
    titles = {name: title for name, (title, _, _) in MEASUREMENTS.items()}
    return rotated(titles, rounds, lambda name: in_fresh_process(name, task), say)


def claims(results: Results, loaded: str | None) -> list[Claim]:
    """What feeder promises, with what came out."""
    allowed = [1.5 * bare + 0.5 if bare else None for bare in results["start python"]]
    needed = quotients(results["start feeder"], allowed)
    found = [None if loaded is None else float(bool(loaded))]
    return [
        Claim("big batches, same host: feeder / DataLoader", ratios(results, "big feeder", "big torch"), 2.5),
        Claim("small batches: feeder", results["small feeder"], 10_000, " batches/s"),
        Claim("pure Python: 2 workers / one thread", ratios(results, "cpu feeder", "cpu thread"), 1.8),
        Claim("first batch / (1.5 x bare Python + 0.5 s)", needed, 1.0, at_most=True),
        Claim(f"frameworks in a NumPy-only worker: {loaded or 'none'}", found, 0, "", at_most=True),
        Claim("big batches, stacked: into feeder_server.empty / into a new array", ratios(results, "inplace", "stacked")),
        Claim("big batches, over tcp: feeder / DataLoader", ratios(results, "big tcp", "big torch")),
        Claim("big batches, same host: feeder / one memcpy", ratios(results, "big feeder", "big memcpy")),
        Claim("small batches: feeder / DataLoader", ratios(results, "small feeder", "small torch")),
    ]


def tables(results: Results, loaded: str | None) -> list[Table]:
    """Claims, and the figures behind them."""
    figures: list[tuple[str, ...]] = [(title, spread(results[name]), unit) for name, (title, unit, _) in MEASUREMENTS.items()]
    return [claims_table(claims(results, loaded)), Table(("measurement", "median (lowest to highest)", "unit"), figures)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; see the module."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks quick", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=at_least_one, default=3, metavar="N", help="how often each is measured [3]")
    parser.add_argument("--seconds", type=above_zero, default=SECONDS, metavar="S", help=f"how long, in each round [{SECONDS:g}]")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables there, too")
    options = parser.parse_args(arguments)
    about = machine()
    task = Task(options.seconds, loops_for(CPU_SECONDS))
    results = run(options.rounds, task, tell)
    made = tables(results, in_fresh_process("frameworks", task))
    show(made, about)
    if options.markdown:
        command = f"python -m benchmarks quick --rounds {options.rounds} --seconds {options.seconds:g}"
        options.markdown.write_text(markdown(made, about, command), encoding="utf-8")


if __name__ == "__main__":
    main()
