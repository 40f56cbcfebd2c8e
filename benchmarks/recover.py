"""kill -9 of a worker, and of a server: ``python -m benchmarks recover [--rounds N]``. For how long does the training stand still?

A stall is the longest time between two batches from the kill on; batches sleep 20 ms. Every batch is checked: none is missing, none comes
twice, and all come in order.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from benchmarks.measuring import ROOT, SOURCES, server
from benchmarks.program import Found, Measurement, Program, Row
from benchmarks.report import Claim, Table

SECONDS = 0.020
WORKERS = 4
BEFORE, AFTER = 150, 400
"""Batches until the kill, and after it."""

_ARGS = ["-a", "length=1000000", "-a", f"seconds={SECONDS}"]


def worker(quick: bool = False) -> dict[str, float]:
    """One worker of four."""
    import psutil

    from feeder_client import FeederClient

    with server(f"{SOURCES}:Sleep", *_ARGS, workers=WORKERS) as (endpoint, process), FeederClient(endpoint) as client:
        return _stall(client, WORKERS, lambda: psutil.Process(process.pid).children()[0].kill(), quick)


def node(quick: bool = False) -> dict[str, float]:
    """One server of two."""
    from feeder_client import FeederClient

    with ExitStack() as stack:
        running = [stack.enter_context(server(f"{SOURCES}:Sleep", *_ARGS, workers=WORKERS // 2)) for _ in range(2)]
        client = stack.enter_context(FeederClient([endpoint for endpoint, _ in running]))
        return _stall(client, WORKERS, running[0][1].kill, quick)


def only_node(quick: bool = False) -> dict[str, float]:
    """The only server; another one is started in its place at once, as an init system does it."""
    from feeder_client import FeederClient

    with ExitStack() as stack:
        endpoint, process = stack.enter_context(server(f"{SOURCES}:Sleep", *_ARGS, workers=WORKERS))
        client = stack.enter_context(FeederClient(endpoint))

        def replace() -> None:
            process.kill()
            process.wait()
            command = [sys.executable, "-m", "feeder_server.cli", "serve", f"{SOURCES}:Sleep", *_ARGS, "-b", endpoint, "-w", str(WORKERS)]
            again = stack.enter_context(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            stack.callback(again.terminate)

        return _stall(client, WORKERS, replace, quick)


def _stall(client: Any, workers: int, kill: Callable[[], None], quick: bool) -> dict[str, float]:
    """Milliseconds: the longest gap after `kill`, the median one and the longest before it."""
    batches = enumerate(iter(client))
    index = 0
    while index < (20 if quick else BEFORE) or client.stats().workers < workers:
        index, batch = next(batches)
        _check(index, batch)
    usual = _gaps(batches, 20 if quick else BEFORE)
    kill()
    after = _gaps(batches, 40 if quick else AFTER)
    return {"stall": max(after) * 1e3, "usual": statistics.median(usual) * 1e3, "longest": max(usual) * 1e3}


def _gaps(batches: Any, count: int) -> list[float]:
    found = []
    last = time.perf_counter()
    for _ in range(count):
        index, batch = next(batches)
        now = time.perf_counter()
        found.append(now - last)
        last = now
        _check(index, batch)
    return found


def _check(index: int, batch: Any) -> None:
    if batch[1][0] != index:
        raise RuntimeError(f"batch {batch[1][0]} came in place of batch {index}")


def claims(found: Found) -> list[Claim]:
    """No goal was set for these."""
    return [
        Claim("a worker of four is killed: the training stands still for", found.of("worker", "stall"), unit=" ms"),
        Claim("a server of two is killed: the training stands still for", found.of("node", "stall"), unit=" ms"),
        Claim("the only server is killed and started again: the training stands still for", found.of("only-node", "stall"), unit=" ms"),
    ]


MEASUREMENTS = {
    "worker": Measurement("a worker of four is killed", "benchmarks.recover:worker"),
    "node": Measurement("a server of two is killed", "benchmarks.recover:node"),
    "only-node": Measurement("the only server is killed and started again", "benchmarks.recover:only_node"),
}
ROWS = [
    Row(f"{asked.title}: {title}", name, figure, "ms")
    for name, asked in MEASUREMENTS.items()
    for title, figure in (("longest gap afterwards", "stall"), ("longest gap before", "longest"), ("median gap before", "usual"))
]
PROGRAM = Program("recover", __doc__ or "", MEASUREMENTS, ROWS, claims)


def main(arguments: Sequence[str] | None = None) -> list[Table]:
    """Entry point; see the module. Returns what it shows, the goals first."""
    return PROGRAM.main(arguments)


if __name__ == "__main__":
    main()
