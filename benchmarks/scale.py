"""Many workers and many servers: ``python -m benchmarks scale [--rounds N]``. What one batch costs the node and the client in CPU time.

The workers sleep, the longer the more of them there are, so that they make the same number of batches per second altogether: what is
left is what a batch costs those that carry it. Batches are small (10 kB).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from benchmarks.measuring import SOURCES, server
from benchmarks.program import Found, Measurement, Program, Row
from benchmarks.report import Claim, Table, quotients

WORKERS = (1, 16, 64, 256)
NODES = (1, 4, 16)
RATE = 200
"""Batches per second of all workers together."""
BATCHES = 1000
START_SECONDS = 240.0


def workers(count: int, quick: bool = False) -> dict[str, float]:
    """One node with so many workers."""
    return _cost(1, count, quick)


def nodes(count: int, quick: bool = False) -> dict[str, float]:
    """So many nodes with one worker each, and one client."""
    return _cost(count, 1, quick)


def _cost(nodes: int, per_node: int, quick: bool) -> dict[str, float]:
    import psutil

    from feeder_client import FeederClient

    total = nodes * per_node
    seconds = total / RATE
    args = ["-a", "length=1000000", "-a", f"seconds={seconds}"]
    with ExitStack() as stack:
        running = [stack.enter_context(server(f"{SOURCES}:Sleep", *args, workers=per_node)) for _ in range(nodes)]
        client = stack.enter_context(FeederClient([endpoint for endpoint, _ in running]))
        batches = iter(client)
        _everybody_works(client, batches, nodes, total)
        processes = [psutil.Process(process.pid) for _, process in running]
        count = 20 if quick else BATCHES
        before, mine, started = sum(map(_used, processes)), time.process_time(), time.perf_counter()
        for _ in range(count):
            next(batches)
        took = time.perf_counter() - started
        return {
            "node": (sum(map(_used, processes)) - before) / count * 1e6,
            "client": (time.process_time() - mine) / count * 1e6,
            "rate": count / took,
        }


def _everybody_works(client: Any, batches: Any, nodes: int, total: int) -> None:
    """Reads on until all are there, and then two batches of each."""
    deadline = time.monotonic() + START_SECONDS
    stats = client.stats()
    while stats.workers < total or stats.nodes < nodes:
        if time.monotonic() > deadline:
            raise RuntimeError(f"only {stats.workers} of {total} workers on {stats.nodes} of {nodes} nodes")
        next(batches)
        stats = client.stats()
    for _ in range(2 * total):
        next(batches)


def _used(process: Any) -> float:
    """CPU seconds of this process, its children left out."""
    times = process.cpu_times()
    return float(times.user + times.system)


def claims(found: Found) -> list[Claim]:
    """Goal 6, its second half: 'does not grow' is held to 1.5 x, for a figure of microseconds is not exact."""
    lone, alone = found.of("workers-1", "node"), found.of("nodes-1", "client")
    return [
        *(
            Claim(f"6. node's CPU per batch: {n} workers / 1", quotients(found.of(f"workers-{n}", "node"), lone), 1.5, at_most=True)
            for n in WORKERS[1:]
        ),
        *(Claim(f"client's CPU per batch: {n} nodes / 1", quotients(found.of(f"nodes-{n}", "client"), alone)) for n in NODES[1:]),
    ]


MEASUREMENTS = {
    **{f"workers-{n}": Measurement(f"one node, {n} worker{'s' * (n > 1)}", "benchmarks.scale:workers", {"count": n}) for n in WORKERS},
    **{f"nodes-{n}": Measurement(f"{n} node{'s' * (n > 1)} of one worker", "benchmarks.scale:nodes", {"count": n}) for n in NODES},
}
ROWS = [
    Row(f"{asked.title}: {title}", name, figure, unit)
    for name, asked in MEASUREMENTS.items()
    for title, figure, unit in (
        ("CPU per batch of the nodes", "node", "us"),
        ("CPU per batch of the client", "client", "us"),
        ("batches per second", "rate", ""),
    )
]
PROGRAM = Program("scale", __doc__ or "", MEASUREMENTS, ROWS, claims, limit=400.0)


def main(arguments: Sequence[str] | None = None) -> list[Table]:
    """Entry point; see the module. Returns what it shows, the goals first."""
    return PROGRAM.main(arguments)


if __name__ == "__main__":
    main()
