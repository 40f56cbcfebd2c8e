"""The frame of the smaller programs: what is measured, what is shown of it, and the command line.

A `Measurement` gives several figures at once; a `Row` shows one of them. The rest is as in compare.py: a fresh process for each
measurement, with a limit of time; the order rotated; ratios of one round.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.measuring import Outcome, above_zero, at_least_one, measure, rotated, tell
from benchmarks.report import PACKAGES, Claim, Table, claims_table, machine, markdown, show, spread


@dataclass(frozen=True)
class Measurement:
    """A function of a module in this folder; it is called with `arguments`, and with ``quick=True`` where it only has to run."""

    title: str
    function: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """One figure of one measurement, as a line of the table."""

    title: str
    measurement: str
    figure: str
    unit: str


class Found:
    """What came out, by measurement and round."""

    def __init__(self, outcomes: Mapping[str, Sequence[Outcome]]) -> None:
        self.outcomes = outcomes
        self._rounds = max((len(found) for found in outcomes.values()), default=0)

    def of(self, measurement: str, figure: str) -> list[float | None]:
        """One figure, by round."""
        found = self.outcomes.get(measurement)
        return [outcome.get(figure) for outcome in found] if found else [None] * self._rounds

    def why(self, measurement: str) -> str:
        """Why it is absent."""
        why = next((outcome.why for outcome in self.outcomes.get(measurement, []) if outcome.why), "")
        return f"absent: {why}".replace("|", "/") if why else "absent"


@dataclass(frozen=True)
class Program:
    """One of the smaller programs.

    Args:
        name: as on the command line.
        about: its docstring.
        measurements, rows: see there.
        claims: goals, held against what came out.
        limit: seconds that one measurement may take.
        packages: whose versions are named in the head.
    """

    name: str
    about: str
    measurements: Mapping[str, Measurement]
    rows: Sequence[Row]
    claims: Callable[[Found], list[Claim]]
    limit: float = 120.0
    packages: Sequence[str] = PACKAGES

    def tables(self, found: Found) -> list[Table]:
        """Goals and figures. What was not asked for has no line."""
        claims = [claim for claim in self.claims(found) if any(value is not None for value in claim.values) or self._whole(found)]
        made = [claims_table(claims)] if claims else []
        rows: list[tuple[str, ...]] = []
        for row in self.rows:
            if row.measurement in found.outcomes:
                values = found.of(row.measurement, row.figure)
                rows.append((row.title, spread(values) if any(v is not None for v in values) else found.why(row.measurement), row.unit))
        return [*made, Table(("measurement", "median (lowest to highest)", "unit"), rows)]

    def _whole(self, found: Found) -> bool:
        return set(found.outcomes) == set(self.measurements)

    def run(self, names: Sequence[str], rounds: int, quick: bool, limit: float, say: Callable[[str], None]) -> Found:
        """All rounds."""

        def one(name: str) -> Outcome:
            asked = self.measurements[name]
            outcome = measure(asked.function, {**asked.arguments, **({"quick": True} if quick else {})}, limit)
            if outcome.why:
                say(f"  absent: {outcome.why}")
            return outcome

        return Found(rotated({name: self.measurements[name].title for name in names}, rounds, one, say))

    def main(self, arguments: Sequence[str] | None = None) -> list[Table]:
        """Entry point. Returns what it shows, the goals first."""
        parser = argparse.ArgumentParser(prog=f"python -m benchmarks {self.name}", description=self.about.partition("\n")[0])
        known = ", ".join(self.measurements)
        parser.add_argument("--rounds", type=at_least_one, default=3, metavar="N", help="how often each is measured [3]")
        parser.add_argument("--only", metavar="NAME,...", default="", help=f"measurements, or how their names begin: {known}")
        parser.add_argument("--limit", type=above_zero, default=self.limit, metavar="S", help=f"for a measurement [{self.limit:g}]")
        parser.add_argument("--quick", action="store_true", help="one round, as short as possible: does it all run?")
        parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables there, too")
        options = parser.parse_args(arguments)
        names = [name for name in self.measurements if any(_asked(text, name, self.measurements) for text in options.only.split(","))]
        if not names:
            parser.error(f"--only: nothing begins so; there are {known}")
        rounds = 1 if options.quick else options.rounds
        about = machine(self.packages)
        made = self.tables(self.run(names, rounds, options.quick, options.limit, tell))
        show(made, about)
        if options.markdown:
            command = f"python -m benchmarks {self.name} --rounds {rounds}" + (f" --only {options.only}" if options.only else "")
            options.markdown.write_text(markdown(made, about, command), encoding="utf-8")
        return made


def _asked(text: str, name: str, known: Mapping[str, Measurement]) -> bool:
    return name == text if text in known else name.startswith(text)
