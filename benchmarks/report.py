"""Figures as a report: medians and spreads, goals, tables as Markdown, and what it was all measured on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.measuring import ROOT

Values = Sequence["float | None"]
"""One figure by round; None: it could not be measured in that round."""

Results = dict[str, list["float | None"]]
"""For each measurement its rounds."""

PACKAGES = ("keras-feeder", "numpy", "pyzmq", "torch")


@dataclass(frozen=True)
class Table:
    """Rows under a head, with a title and words above them."""

    head: tuple[str, ...]
    rows: list[tuple[str, ...]]
    title: str = ""
    words: list[str] = field(default_factory=list)


def spread(values: Iterable[float | None]) -> str:
    """Median, and lowest to highest in brackets; ``absent`` where there is nothing."""
    there = [value for value in values if value is not None]
    if not there:
        return "absent"
    middle, low, high = (figure(value) for value in (statistics.median(there), min(there), max(there)))
    return middle if low == high else f"{middle} ({low} to {high})"


def figure(value: float) -> str:
    """Three digits, or all of those before the point."""
    rounded = float(f"{value:.3g}")
    return f"{value:,.0f}" if abs(rounded) >= 1000 else f"{rounded:g}"


def median(values: Values) -> float | None:
    """Of those that are there."""
    there = [value for value in values if value is not None]
    return statistics.median(there) if there else None


def quotients(upper: Values, lower: Values) -> list[float | None]:
    """Round by round; None where one of both is missing."""
    return [a / b if a is not None and b else None for a, b in zip(upper, lower, strict=True)]


def ratios(results: Mapping[str, Values], upper: str, lower: str) -> list[float | None]:
    """Of two measurements, round by round."""
    return quotients(results[upper], results[lower])


def best(rows: Iterable[Values]) -> list[float | None]:
    """The highest of several in each round: what one peer reaches in its best form."""
    return [max((v for v in values if v is not None), default=None) for values in zip(*rows, strict=True)]


@dataclass(frozen=True)
class Claim:
    """A goal, and what was measured: `values` by round, to be at least (or `at_most`) `goal`."""

    text: str
    values: Values
    goal: float | None = None
    unit: str = " x"
    at_most: bool = False

    def row(self) -> tuple[str, str, str, str]:
        """Claim, figure, goal, verdict."""
        middle = median(self.values)
        found = spread(self.values) + ("" if middle is None else self.unit)
        if self.goal is None:
            return self.text, found, "", ""
        aim = f"at {'most' if self.at_most else 'least'} {figure(self.goal)}{self.unit}"
        if middle is None:
            return self.text, found, aim, "not measured"
        return self.text, found, aim, "yes" if (middle <= self.goal if self.at_most else middle >= self.goal) else "NO"


def claims_table(claims: Iterable[Claim], title: str = "") -> Table:
    """All of them."""
    return Table(("claim", "measured", "goal", "met"), [claim.row() for claim in claims], title)


def machine(packages: Iterable[str] = PACKAGES) -> list[str]:
    """What it was measured on, with what."""
    model = platform.processor() or platform.machine()
    if sys.platform == "linux":
        found = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        model = found[0] if found else model
    versions = [f"Python {platform.python_version()}"]
    for name in packages:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{name} absent")
    lines = [f"{model}, {cores()} cores, {platform.system()} {platform.release()}", ", ".join(versions), f"commit {commit() or 'unknown'}"]
    if hasattr(os, "getloadavg"):
        lines.append(f"load before the run {os.getloadavg()[0]:.2f} (a quiet machine shows less than 0.2)")
    return lines


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def commit() -> str:
    """Of the code that is measured; "dirty" where that was changed since. Reports don't count: a run writes some before it is over."""
    try:
        name = _git("describe", "--always")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)benchmarks/results", ":(exclude)*.md")
    except OSError:  # no git here
        return ""
    return f"{name}-dirty" if changed else name


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()


def markdown(tables: Iterable[Table], about: Iterable[str], command: str) -> str:
    """The report as Markdown."""
    lines = [f"`{command}`", "", *(f"* {line}" for line in about)]
    for table in tables:
        if table.title:
            lines += ["", f"### {table.title}"]
        if table.words:
            lines += ["", *table.words]
        lines += ["", f"| {' | '.join(table.head)} |", f"| {' | '.join('---' for _ in table.head)} |"]
        lines += [f"| {' | '.join(row)} |" for row in table.rows]
    return "\n".join(lines) + "\n"


def show(tables: Iterable[Table], about: Iterable[str]) -> None:
    """The report on a terminal."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table as Rich

    console = Console()
    for line in about:
        console.print(line, highlight=False, markup=False)
    for table in tables:
        rich = Rich(*table.head, title=table.title or None)
        for row in table.rows:
            rich.add_row(*(escape(cell) for cell in row))
        console.print(rich)
