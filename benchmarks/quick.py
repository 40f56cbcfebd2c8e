"""The claims of feeder's first day, against its peers in the same run: ``python -m benchmarks.quick [--rounds N] [--markdown FILE]``.

Each measurement runs in a fresh process, the order is rotated from round to round, and what is compared is always of one round:
figures differ from machine to machine and hour to hour, ratios within a round hardly. Shown are medians, and the lowest and the
highest round in brackets. A peer that is not installed is shown as absent.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SOURCES = Path(__file__).with_name("sources.py")
WORKERS = 2
SECONDS = 3.0
LENGTHS = {"big": 200, "stacked": 100, "inplace": 100, "small": 2000, "cpu": 25}  # batches of a pass, at SECONDS
CPU_BATCH_SECONDS = 0.040


@dataclass(frozen=True)
class Task:
    """What a measuring process is told."""

    seconds: float
    loops: int  # of pure Python for one batch of `cpu`

    def length(self, work: str) -> int:
        """Batches of one pass."""
        return max(4, round(LENGTHS[work] * min(1.0, self.seconds / SECONDS)))

    def args(self, work: str) -> dict[str, int]:
        """Arguments of the source."""
        return {"length": self.length(work), **({"loops": self.loops} if work == "cpu" else {})}


# ------------------------------------------------------------------------------------------------ measurements, one process each


def rate(one_pass: Callable[[], Iterable[Any]], length: int, seconds: float) -> float:
    """Batches per second over at least `seconds`, after one pass to warm up; passes follow each other without a break."""
    batches = itertools.chain.from_iterable(one_pass() for _ in itertools.repeat(None))
    for _ in range(length):
        x, _y = next(batches)
    if len(x) not in (32, 64):
        raise RuntimeError(f"that is not the batch that was to be measured: {x.shape}")
    started = time.perf_counter()
    for count, _batch in enumerate(batches, 1):  # noqa: B007
        elapsed = time.perf_counter() - started
        if elapsed >= seconds:
            break
    return count / elapsed


def feeder(work: str, transport: str = "auto") -> Callable[[Task], float]:
    """Batches per second from a private server on this machine."""

    def measure(task: Task) -> float:
        from feeder_client import FeederClient

        target = f"{SOURCES}:{work.capitalize()}"
        with FeederClient.local(target, workers=WORKERS, args=task.args(work), transport=transport) as client:
            return rate(lambda: client, task.length(work), task.seconds)

    return measure


def over_tcp(task: Task) -> float:
    """Big batches per second through a socket, without keys, as between two machines that trust their network."""
    from feeder_client import FeederClient

    server = served(f"{SOURCES}:Big", "-a", f"length={task.length('big')}", workers=WORKERS)
    with server as endpoint, FeederClient(endpoint, transport="tcp") as client:
        return rate(lambda: client, task.length("big"), task.seconds)


@contextmanager
def served(*arguments: str, workers: int) -> Iterator[str]:
    """A server of its own, on a free port of loopback; gives its endpoint."""
    command = [sys.executable, "-m", "feeder_server.cli", "serve", *arguments, "-b", "tcp://127.0.0.1:0", "-w", str(workers)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            assert server.stdout is not None
            yield server.stdout.readline().split()[-1]
        finally:
            server.terminate()


def data_loader(work: str) -> Callable[[Task], float | None]:
    """Batches per second from torch's DataLoader, as its documentation recommends for batches that are whole already."""

    def measure(task: Task) -> float | None:
        if importlib.util.find_spec("torch") is None:
            return None
        import torch
        from torch.utils.data import DataLoader, Dataset

        from benchmarks import sources

        class Tensors(Dataset):  # type: ignore[type-arg]
            def __init__(self) -> None:
                self._source = getattr(sources, work.capitalize())(**task.args(work))

            def __len__(self) -> int:
                return task.length(work)

            def __getitem__(self, index: int) -> Any:
                return tuple(torch.from_numpy(array) for array in self._source[index])

        # batch_size=None: no automatic batching, so no collating either.
        loader = DataLoader(Tensors(), batch_size=None, num_workers=WORKERS, persistent_workers=True)
        return rate(lambda: loader, task.length(work), task.seconds)

    return measure


def memcpy(task: Task) -> float:
    """Copies of one big batch per second, by one thread, into memory that is there already."""
    import numpy as np

    from benchmarks.sources import Big

    x, _ = Big(1)[0]
    target = np.empty_like(x)

    def one_pass() -> Iterable[Any]:
        for _ in range(10):
            np.copyto(target, x)
            yield target, None

    return rate(one_pass, 10, task.seconds)


def one_thread(task: Task) -> float:
    """Batches of `cpu` per second, made by the training thread itself."""
    from benchmarks.sources import Cpu

    source = Cpu(**task.args("cpu"))
    return rate(lambda: (source[i] for i in range(len(source))), 4, task.seconds)


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


MEASUREMENTS: dict[str, tuple[str, str, Callable[[Task], float | str | None]]] = {
    "big feeder": ("big: feeder, same host", "batches/s", feeder("big")),
    "big tcp": ("big: feeder, over tcp", "batches/s", over_tcp),
    "big curve": ("big: feeder, over tcp, encrypted", "batches/s", feeder("big", "tcp")),
    "stacked": ("big, stacked from 64 pictures: feeder, same host", "batches/s", feeder("stacked")),
    "inplace": ("big, stacked into feeder_server.empty: feeder, same host", "batches/s", feeder("inplace")),
    "big torch": ("big: torch DataLoader, tensors", "batches/s", data_loader("big")),
    "big memcpy": ("big: one memcpy, one thread", "batches/s", memcpy),
    "small feeder": ("small: feeder, same host", "batches/s", feeder("small")),
    "small torch": ("small: torch DataLoader, tensors", "batches/s", data_loader("small")),
    "cpu feeder": ("cpu: feeder, 2 workers", "batches/s", feeder("cpu")),
    "cpu thread": ("cpu: one thread in process", "batches/s", one_thread),
    "start feeder": ("start: first batch of a fresh server, 4 workers", "s", first_batch),
    "start python": ("start: python -c 'import numpy, zmq'", "s", bare_python),
}

# ------------------------------------------------------------------------------------------------------------------- the run

Results = dict[str, list[float | None]]
"""For each measurement its rounds; None: the peer is absent."""


def in_fresh_process(name: str, task: Task) -> Any:
    """What one measurement gives, made in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.quick", "--one", name, "--seconds", str(task.seconds), "--loops", str(task.loops)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"measuring {name!r} failed:\n{done.stderr.strip()}")
    return json.loads(done.stdout.splitlines()[-1])


def run(rounds: int, task: Task, say: Callable[[str], None]) -> Results:
    """All rounds."""
    titles = {name: title for name, (title, _, _) in MEASUREMENTS.items()}
    return rotated(titles, rounds, lambda name: in_fresh_process(name, task), say)


def rotated(titles: Mapping[str, str], rounds: int, measure: Callable[[str], float | None], say: Callable[[str], None]) -> Results:
    """All rounds. The order is rotated, so that nobody always comes first, or after the same neighbour's heat."""
    names = list(titles)
    results: Results = {name: [] for name in names}
    for number in range(rounds):
        turn = number * len(names) // rounds
        for name in names[turn:] + names[:turn]:
            say(f"round {number + 1} of {rounds}: {titles[name]}")
            results[name].append(measure(name))
    return results


def spread(values: Iterable[float | None]) -> str:
    """Median, and lowest to highest in brackets; ``absent`` where there is nothing."""
    there = [value for value in values if value is not None]
    if not there:
        return "absent"
    median, low, high = (_figure(value) for value in (statistics.median(there), min(there), max(there)))
    return median if low == high else f"{median} ({low} to {high})"


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def ratios(results: Results, upper: str, lower: str) -> list[float | None]:
    """Round by round."""
    return [a / b if a is not None and b else None for a, b in zip(results[upper], results[lower], strict=True)]


@dataclass(frozen=True)
class Claim:
    """A goal, and what was measured: `values` by round, to be at least (or `at_most`) `goal`."""

    text: str
    values: list[float | None]
    goal: float | None = None
    unit: str = " x"
    at_most: bool = False

    def row(self) -> tuple[str, str, str, str]:
        """Claim, figure, goal, verdict."""
        there = [value for value in self.values if value is not None]
        figure = spread(self.values) + (self.unit if there else "")
        if self.goal is None:
            return self.text, figure, "", ""
        aim = f"at {'most' if self.at_most else 'least'} {_figure(self.goal)}{self.unit}"
        if not there:
            return self.text, figure, aim, "not measured"
        median = statistics.median(there)
        return self.text, figure, aim, "yes" if (median <= self.goal if self.at_most else median >= self.goal) else "NO"


def claims(results: Results, loaded: str) -> list[Claim]:
    """What feeder promises, with what came out."""
    allowed = [1.5 * (bare or 0.0) + 0.5 for bare in results["start python"]]
    needed = [a / b if a is not None else None for a, b in zip(results["start feeder"], allowed, strict=True)]
    return [
        Claim("big batches, same host: feeder / DataLoader", ratios(results, "big feeder", "big torch"), 2.5),
        Claim("small batches: feeder", results["small feeder"], 10_000, " batches/s"),
        Claim("pure Python: 2 workers / one thread", ratios(results, "cpu feeder", "cpu thread"), 1.8),
        Claim("first batch / (1.5 x bare Python + 0.5 s)", needed, 1.0, at_most=True),
        Claim(f"frameworks in a NumPy-only worker: {loaded or 'none'}", [float(bool(loaded))], 0, "", at_most=True),
        Claim("big batches, stacked: into feeder_server.empty / into a new array", ratios(results, "inplace", "stacked")),
        Claim("big batches, over tcp: feeder / DataLoader", ratios(results, "big tcp", "big torch")),
        Claim("big batches, same host: feeder / one memcpy", ratios(results, "big feeder", "big memcpy")),
        Claim("small batches: feeder / DataLoader", ratios(results, "small feeder", "small torch")),
    ]


# ---------------------------------------------------------------------------------------------------------------- the report


def machine() -> list[str]:
    """What it was measured on, with what."""
    model = platform.processor() or platform.machine()
    if sys.platform == "linux":
        found = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        model = found[0] if found else model
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = [f"Python {platform.python_version()}"]
    for name in ("keras-feeder", "numpy", "pyzmq", "torch"):
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{name} absent")
    try:
        command = ["git", "describe", "--always", "--dirty"]
        commit = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:  # no git here
        commit = ""
    lines = [f"{model}, {cores} cores, {platform.system()} {platform.release()}", ", ".join(versions), f"commit {commit or 'unknown'}"]
    if hasattr(os, "getloadavg"):
        lines.append(f"load before the run {os.getloadavg()[0]:.2f} (a quiet machine shows less than 0.2)")
    return lines


Table = tuple[tuple[str, ...], list[tuple[str, ...]]]


def tables(results: Results, loaded: str) -> list[Table]:
    """Claims, and the figures behind them: heads and rows."""
    figures = [(title, spread(results[name]), unit) for name, (title, unit, _) in MEASUREMENTS.items()]
    return [
        (("claim", "measured", "goal", "met"), [claim.row() for claim in claims(results, loaded)]),
        (("measurement", "median (lowest to highest)", "unit"), figures),
    ]


def markdown(made: list[Table], about: list[str], command: str) -> str:
    """The report as Markdown."""
    lines = [f"`{command}`", "", *(f"* {line}" for line in about)]
    for head, rows in made:
        lines += ["", f"| {' | '.join(head)} |", f"| {' | '.join('---' for _ in head)} |"]
        lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Entry point; see the module."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quick", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="how often each is measured [3]")
    parser.add_argument("--seconds", type=float, default=SECONDS, metavar="S", help=f"how long each is measured in a round [{SECONDS:g}]")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables there, too")
    parser.add_argument("--one", choices=[*MEASUREMENTS, "frameworks"], help=argparse.SUPPRESS)
    parser.add_argument("--loops", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        task = Task(options.seconds, options.loops)
        measure = frameworks if options.one == "frameworks" else MEASUREMENTS[options.one][2]
        print(json.dumps(measure(task)))
        return
    if options.rounds < 1 or options.seconds <= 0:
        parser.error("--rounds and --seconds are above 0")

    from rich.console import Console
    from rich.table import Table as RichTable

    from benchmarks.sources import loops_for

    console = Console()
    about = machine()
    task = Task(options.seconds, loops_for(CPU_BATCH_SECONDS))
    with console.status("") as status:
        results = run(options.rounds, task, status.update)
        loaded = in_fresh_process("frameworks", task)
    made = tables(results, loaded)
    for line in about:
        console.print(line, highlight=False, markup=False)
    for head, rows in made:
        table = RichTable(*head)
        for row in rows:
            table.add_row(*row)
        console.print(table)
    if options.markdown:
        command = f"python -m benchmarks.quick --rounds {options.rounds} --seconds {options.seconds:g}"
        options.markdown.write_text(markdown(made, about, command), encoding="utf-8")


if __name__ == "__main__":
    main()
