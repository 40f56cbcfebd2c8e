"""All tables of README.md in one run, on a machine that does nothing else: ``python -m benchmarks everything [--rounds N] [--out FOLDER]``.

Each program writes its report into the folder (``compare.md``, ``fit.md``, ...). The goals of all reports that are there are put together
in ``goals.md`` and between the two marks in README.md, so one program may be run again by itself: ``--only fit``.
"""

from __future__ import annotations

import argparse
import importlib
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measuring import at_least_one, tell
from benchmarks.report import Table, machine, markdown

PROGRAMS = ("compare", "fit", "start", "scale", "memory", "recover")
README = Path(__file__).with_name("README.md")
BEGIN, END = "<!-- goals: written by python -m benchmarks everything -->", "<!-- end of goals -->"


def goals(folder: Path) -> tuple[Table, list[str]]:
    """Those that have a number, in its order, out of the reports that are in `folder`; and of each report how it was made."""
    rows: dict[str, tuple[str, ...]] = {}
    made = []
    for name in PROGRAMS:
        file = folder / f"{name}.md"
        if not file.exists():
            continue
        lines = file.read_text(encoding="utf-8").splitlines()
        made.append(", ".join([lines[0], *(line[2:] for line in lines if line.startswith(("* commit", "* load")))]))
        for line in lines:
            cells = tuple(line.strip("| ").split(" | "))
            if re.match(r"\| \d\. ", line) and len(cells) == 4:
                rows[cells[0]] = cells
    return Table(("goal", "measured", "goal is", "holds"), sorted(rows.values(), key=lambda row: int(row[0][0]))), made


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
    for name in names:
        tell(f"== {name}")
        program = importlib.import_module(f"benchmarks.{name}")
        asked = ["--rounds", str(options.rounds), "--markdown", str(options.out / f"{name}.md"), *(["--quick"] if options.quick else [])]
        program.main(asked)
    table, made = goals(options.out)
    text = markdown([table], [*machine()[:2], *made], f"python -m benchmarks everything --rounds {options.rounds}")
    (options.out / "goals.md").write_text(text, encoding="utf-8")
    options.readme.write_text(spliced(options.readme.read_text(encoding="utf-8"), text), encoding="utf-8")
    print(text, file=sys.stdout)


if __name__ == "__main__":
    main()
