"""Memory of worker, node and client, and CPU time per GB: ``python -m benchmarks memory [--rounds N]``. Linux tells all of it.

Own memory (USS) is what would come back if the process ended; PSS shares what several processes map among them; RSS counts that in full
for each. The source is NumPy-only and holds 10 kB, but for two: one imports Keras for the base class of its `Sequence`, one holds 1 GiB.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from benchmarks.job import WORKS, Job
from benchmarks.measuring import BASE_CLASS, SOURCES, AbsentError, server
from benchmarks.peers import PEERS, rate_of
from benchmarks.program import Found, Measurement, Program, Row
from benchmarks.report import Claim, Table, quotients

WORKERS = 4
HELD = 1024
"""MiB of the array that every worker looks at. Without sharing four times that much is needed."""
LOADERS = ("torch", "torch-numpy", "torch-spawn")
KINDS = ("uss", "pss", "rss")


def feeder(quick: bool = False) -> dict[str, float]:
    """Megabytes of a worker (the largest of them), of the node, and of a process that only reads batches."""
    import psutil

    from feeder_client import FeederClient

    with server(f"{SOURCES}:Small", "-a", "length=1000000", workers=WORKERS) as (endpoint, process), FeederClient(endpoint) as client:
        batches = iter(client)
        while client.stats().workers < WORKERS:
            next(batches)
        for _ in range(50 if quick else 2000):
            next(batches)
        found = {"worker": _largest(process.pid)}
        found |= {"node": _memory(psutil.Process(process.pid)), "client": _memory(psutil.Process())}
    return {f"{who} {kind}": value for who, kinds in found.items() for kind, value in kinds.items()}


def base_class(light: bool, quick: bool = False) -> dict[str, float]:
    """Megabytes of a worker whose source imports Keras for a base class and no more, with the stand-ins for that and without."""
    from feeder_client import FeederClient

    options = () if light else ("--no-light-imports",)
    with server(BASE_CLASS, "-a", "length=100", *options, workers=1) as (endpoint, process), FeederClient(endpoint) as client:
        next(iter(client))
        return _largest(process.pid)


def held(shared: bool, quick: bool = False) -> dict[str, float]:
    """Megabytes of all workers together, each of which has read the whole of a large array."""
    import psutil

    from feeder_client import FeederClient

    options = ("-a", f"megabytes={16 if quick else HELD}", "-a", f"shared={shared}", "-a", "length=1000000")
    with server(f"{SOURCES}:Rows", *options, workers=WORKERS) as (endpoint, process), FeederClient(endpoint) as client:
        batches = iter(client)
        for _ in range(200):  # after that many the copies were compared, for which each makes some
            next(batches)
        workers = psutil.Process(process.pid).children(recursive=True)
        return {"pss": sum(_memory(worker)["pss"] for worker in workers)}


def _largest(pid: int) -> dict[str, float]:
    """A worker's, of a node that is process `pid`: below a launcher of a virtual environment, on Windows, there is one more process."""
    import psutil

    return max((_memory(one) for one in psutil.Process(pid).children(recursive=True)), key=lambda kinds: kinds["uss"])


def bare(quick: bool = False) -> dict[str, float]:
    """Megabytes of a Python that has imported NumPy and pyzmq, and waits."""
    import psutil

    script = "import numpy, zmq; print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        found = _memory(psutil.Process(process.pid))
        process.stdin.close()
    return found


def peer(name: str, quick: bool = False) -> dict[str, float]:
    """Megabytes per producer of all processes below this one."""
    import importlib.util

    import psutil

    missing = [package for package in PEERS[name].needs if importlib.util.find_spec(package) is None]
    if missing:
        raise AbsentError(f"not installed: {', '.join(missing)}")
    job = Job("small", 1.0)
    with PEERS[name].open(job) as batches:
        for _ in range(50 if quick else 500):
            next(batches)
        below = [_memory(process) for process in psutil.Process().children(recursive=True)]
    return {kind: sum(one[kind] for one in below) / job.producers for kind in KINDS}


def cpu(name: str, quick: bool = False) -> dict[str, float]:
    """CPU seconds of all processes per GB of big batches."""
    return {"per_gb": rate_of(name, Job("big", 0.3 if quick else 2.0).to_dict())["cpu"] / WORKS["big"].bytes * 1e9}


def _memory(process: Any) -> dict[str, float]:
    """Megabytes."""
    found = process.memory_full_info()
    if not hasattr(found, "pss"):
        raise AbsentError("this system doesn't tell which memory is shared")
    return {kind: getattr(found, kind) / 1e6 for kind in KINDS}


def claims(found: Found) -> list[Claim]:
    """Goals 6 and 7."""
    loaders = [
        [value for value in one if value is not None] for one in zip(*(found.of(f"cpu-{n}", "per_gb") for n in LOADERS), strict=True)
    ]
    sparing = [min(values, default=None) for values in loaders]
    return [
        Claim("6. own memory of a NumPy-only worker", found.of("feeder", "worker uss"), 45.0, " MB", at_most=True),
        Claim(
            "7. big: CPU seconds per GB, feeder / the most sparing DataLoader",
            quotients(found.of("cpu-feeder", "per_gb"), sparing),
            0.25,
            at_most=True,
        ),
        Claim(
            "4 workers and an array of 1 GiB: each its own / `shared`", quotients(found.of("held", "pss"), found.of("held-shared", "pss"))
        ),
        Claim(
            "own memory of a worker, Keras for a base class: it is loaded / stand-ins",
            quotients(found.of("base-loaded", "uss"), found.of("base-light", "uss")),
        ),
    ]


MEASUREMENTS = {
    "bare": Measurement("a Python with NumPy and pyzmq", "benchmarks.memory:bare"),
    "feeder": Measurement("feeder, 4 workers", "benchmarks.memory:feeder"),
    **{f"peer-{name}": Measurement(PEERS[name].title, "benchmarks.memory:peer", {"name": name}) for name in (*LOADERS, "grain")},
    **{
        f"cpu-{name}": Measurement(f"CPU: {PEERS[name].title}", "benchmarks.memory:cpu", {"name": name})
        for name in ("feeder", *LOADERS, "grain")
    },
    "base-light": Measurement("Keras for a base class, stand-ins", "benchmarks.memory:base_class", {"light": True}),
    "base-loaded": Measurement("Keras for a base class, it is loaded", "benchmarks.memory:base_class", {"light": False}),
    "held-shared": Measurement("4 workers, 1 GiB shared", "benchmarks.memory:held", {"shared": True}),
    "held": Measurement("4 workers, 1 GiB each", "benchmarks.memory:held", {"shared": False}),
}
ROWS = [
    *(Row(f"a Python with NumPy and pyzmq: {kind.upper()}", "bare", kind, "MB") for kind in KINDS),
    *(Row(f"feeder, {who}: {kind.upper()}", "feeder", f"{who} {kind}", "MB") for who in ("worker", "node", "client") for kind in KINDS),
    *(
        Row(f"{PEERS[name].title}, per worker: {kind.upper()}", f"peer-{name}", kind, "MB")
        for name in (*LOADERS, "grain")
        for kind in KINDS[:2]
    ),
    *(Row(f"a worker that imports Keras for a base class: {kind.upper()}", "base-light", kind, "MB") for kind in KINDS),
    *(Row(f"the same with `--no-light-imports`: {kind.upper()}", "base-loaded", kind, "MB") for kind in KINDS),
    Row("4 workers that read an array of 1 GiB, each its own: PSS together", "held", "pss", "MB"),
    Row("the same with `feeder_server.shared`: PSS together", "held-shared", "pss", "MB"),
    *(Row(f"big: CPU seconds per GB, {PEERS[name].title}", f"cpu-{name}", "per_gb", "s/GB") for name in ("feeder", *LOADERS, "grain")),
]
PROGRAM = Program("memory", __doc__ or "", MEASUREMENTS, ROWS, claims, packages=("keras-feeder", "numpy", "pyzmq", "torch", "grain"))


def main(arguments: Sequence[str] | None = None) -> list[Table]:
    """Entry point; see the module. Returns what it shows, the goals first."""
    return PROGRAM.main(arguments)


if __name__ == "__main__":
    main()
