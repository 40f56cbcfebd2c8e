"""All tables of README.md in one run, on a machine that does nothing else: ``python -m benchmarks everything [--rounds N] [--out FOLDER]``.

Each program writes its report into the folder (``compare.md``, ``fit.md``, ...), and the goals of all of them are put together in
``goals.md`` and between the two marks in README.md.
"""

from __future__ import annotations

import argparse
import importlib
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.measuring import at_least_one, tell
from benchmarks.report import Table, machine, markdown

PROGRAMS = ("compare", "fit", "start", "scale", "memory", "recover")
README = Path(__file__).with_name("README.md")
BEGIN, END = "<!-- goals: written by python -m benchmarks everything -->", "<!-- end of goals -->"


def goals(tables: Iterable[Table]) -> Table:
    """Those that have a number, in its order; each once."""
    rows = {row[0]: row for table in tables for row in table.rows if re.match(r"\d\. ", row[0]) and row[2]}
    return Table(("goal", "measured", "goal is", "holds"), sorted(rows.values(), key=lambda row: int(row[0][0])))


def spliced(text: str, made: str) -> str:
    """`text` with `made` between the marks.

    Raises:
        ValueError: they are not there.
    """
    if BEGIN not in text or END not in text:
        raise ValueError(f"no {BEGIN} and {END}")
    return f"{text.partition(BEGIN)[0]}{BEGIN}\n\n{made.strip()}\n\n{END}{text.partition(END)[2]}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; see the module."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks everything", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=at_least_one, default=3, metavar="N", help="of each program [3]")
    parser.add_argument("--only", default=",".join(PROGRAMS), metavar="PROGRAM,...", help="these programs")
    parser.add_argument("--out", type=Path, default=README.with_name("results"), metavar="FOLDER", help="where reports go [%(default)s]")
    parser.add_argument("--readme", type=Path, default=README, metavar="FILE", help="where the goals go, too [%(default)s]")
    parser.add_argument("--quick", action="store_true", help="one round, as short as possible: does it all run?")
    options = parser.parse_args(arguments)
    names = options.only.split(",")
    if not set(names) <= set(PROGRAMS):
        parser.error(f"--only: there are {', '.join(PROGRAMS)}")
    options.out.mkdir(parents=True, exist_ok=True)
    about = machine()
    found: list[Table] = []
    for name in names:
        tell(f"== {name}")
        program = importlib.import_module(f"benchmarks.{name}")
        asked = ["--rounds", str(options.rounds), "--markdown", str(options.out / f"{name}.md"), *(["--quick"] if options.quick else [])]
        found += program.main(asked)
    only = "" if names == list(PROGRAMS) else f" --only {options.only}"
    text = markdown([goals(found)], about, f"python -m benchmarks everything --rounds {1 if options.quick else options.rounds}{only}")
    (options.out / "goals.md").write_text(text, encoding="utf-8")
    options.readme.write_text(spliced(options.readme.read_text(encoding="utf-8"), text), encoding="utf-8")
    print(text, file=sys.stdout)


if __name__ == "__main__":
    main()
