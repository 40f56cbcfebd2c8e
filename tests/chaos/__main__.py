"""`python -m tests.chaos`: servers and trainings, faults at random, and a check of every batch. See tests/README.md."""

from __future__ import annotations

import argparse
import importlib.util
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.chaos.plan import DENSE, FAULTS, USUAL, draw_world, plan, possible
from tests.chaos.report import table
from tests.chaos.run import Run
from tests.serving import ON_WINDOWS

BASE = tempfile.gettempdir()
"""Asked once: a run points this process to a folder of its own, which is gone when the next one begins."""
SEED_MINUTES = 2.0
"""A run that is to take longer consists of several, each with a seed of its own: worlds differ as much as plans do."""


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, help="of the plan; default: a random one, which is printed")
    parser.add_argument("--minutes", type=float, default=5.0, help="how long in all; a new seed, the next number, every two minutes")
    parser.add_argument("--nodes", type=int, choices=[1, 2, 3], help="how many servers; default: as the seed says")
    parser.add_argument("--trainers", type=int, choices=[1, 2, 3, 4], help="how many trainings; default: as the seed says")
    parser.add_argument("--faults", help="only these kinds, separated by commas")
    parser.add_argument("--dense", action="store_true", help="faults follow each other after a few batches, often before the last is over")
    parser.add_argument("--no-fit", action="store_true", help="no real Keras among the trainings")
    parser.add_argument("--sabotage", default="", choices=["lose", "double", "change", "seed", "leave"], help="to see the run fail")
    parser.add_argument("--list", action="store_true", help="say what kinds of faults there are, and end")
    options = parser.parse_args(argv)
    options.kinds = [kind.strip() for kind in options.faults.split(",")] if options.faults else list(FAULTS)
    unknown = sorted(set(options.kinds) - set(FAULTS))
    if unknown:
        parser.error(f"no such faults: {', '.join(unknown)}; see --list")
    return options


def listed() -> str:
    """The kinds of faults, in words."""
    lines = []
    for kind, fault in FAULTS.items():
        without = " (left out on Windows, which has no such signal)" if fault.posix else ""
        lines.append(f"{kind:20} {fault.what}{without}")
    return "\n".join(lines)


def one_run(seed: int, seconds: float, options: argparse.Namespace) -> bool:
    """One seed; returns whether all was well."""
    fit = not options.no_fit and all(importlib.util.find_spec(name) for name in ("keras", "torch"))
    world = draw_world(seed, options.nodes, options.trainers, fit)
    kinds = possible(world, options.kinds, posix=not ON_WINDOWS)
    print(
        f"seed {seed}: nodes with {world.workers} workers, absent {world.absent}, {world.node_memory} each; no {left_out(options, kinds)}"
    )
    for number, trainer in enumerate(world.trainers):
        print(f"  trainer {number}: {trainer}")
    if not kinds:
        print("none of these faults fits this world")
        return True
    folder = Path(tempfile.mkdtemp(prefix="chaos-", dir=BASE))
    outcome = Run(
        world, plan(world, kinds, DENSE if options.dense else USUAL), folder, lambda line: print(line, flush=True), options.sabotage
    ).run(seconds)
    print(table(outcome))
    if not outcome.ok:
        print(outcome.logs)
        print("\n".join(outcome.problems))
        print(f"FAILED; journals are in {folder}. Again: python -m tests.chaos --seed {seed} --minutes {seconds / 60:.3g}{chosen(options)}")
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return outcome.ok


def chosen(options: argparse.Namespace) -> str:
    """The options that make another run of the same seed."""
    given = [(f"--{name}", getattr(options, name)) for name in ("nodes", "trainers", "faults")]
    return (
        "".join(f" {name} {value}" for name, value in given if value)
        + (" --dense" if options.dense else "")
        + (" --no-fit" if options.no_fit else "")
    )


def left_out(options: argparse.Namespace, kinds: Sequence[str]) -> str:
    """The faults that were asked for and don't come, for the user."""
    return ", ".join(kind for kind in options.kinds if kind not in kinds) or "fault is left out"


def main(argv: Sequence[str]) -> int:
    """Runs for so long; stops at the first seed that fails."""
    options = parse(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything is ended here too
    if options.list:
        print(listed())
        return 0
    seed = random.SystemRandom().randrange(1_000_000) if options.seed is None else options.seed
    end = time.monotonic() + 60 * options.minutes
    while (left := end - time.monotonic()) > 0:
        # Not a scrap at the end, in which nothing can happen.
        seconds = left if left < 1.5 * 60 * SEED_MINUTES else 60 * SEED_MINUTES
        if not one_run(seed, seconds, options):
            return 1
        seed += 1
        if end - time.monotonic() < 30:
            break
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
