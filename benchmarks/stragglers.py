"""What one slow worker, or one slow server, costs an epoch, with hedging and without. ``python -m benchmarks stragglers [--rounds N]``.

Batches sleep: 20 ms, and 400 ms on the slow one. Each measurement starts its own servers, the order is rotated from round to round, and
the ratios are of one round. Shown are medians, and the lowest and the highest round in brackets.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.measuring import at_least_one, rotated, served, tell
from benchmarks.report import Results, Table, machine, markdown, ratios, spread

SECONDS = 0.02
SLOW = 20
BATCHES = 200


class Uneven:
    """Batches that take `seconds`, and `slow` times as long in the worker that is first to make a file in `folder`."""

    def __init__(self, folder: str, slow: int, seconds: float = SECONDS, length: int = BATCHES) -> None:
        self._seconds, self._length = seconds, length
        self._folder, self._slow = Path(folder), slow
        self._chosen: bool | None = None

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> int:
        if self._chosen is None:  # here, not in __init__: a worker may hold several copies
            self._chosen = _first(self._folder)
        time.sleep(self._seconds * (self._slow if self._chosen else 1))
        return index


def _first(folder: Path) -> bool:
    try:
        (folder / "slow").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def epoch(slow: int, hedge: bool, servers: int = 1, workers: int = 4) -> Callable[[], float]:
    """Seconds for one epoch, after one that nobody measures."""

    def measure() -> float:
        from feeder_client import FeederClient

        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            args = ("-a", f"folder={folder}", "-a", f"slow={slow}", *(() if hedge else ("--no-hedge",)))
            source = f"{Path(__file__)}:Uneven"
            endpoints = [stack.enter_context(served(source, *args, workers=workers // servers)) for _ in range(servers)]
            with FeederClient(endpoints, hedge=hedge, lookahead=False) as client:
                list(client)
                while client.stats().nodes < servers:
                    time.sleep(0.01)
                started = time.perf_counter()
                assert list(client) == list(range(BATCHES))
                return time.perf_counter() - started

    return measure


MEASUREMENTS: dict[str, tuple[str, Callable[[], float]]] = {
    "even": ("4 workers, all alike", epoch(1, True)),
    "even, off": ("4 workers, all alike, no hedging", epoch(1, False)),
    "slow": ("4 workers, one 20 x slower", epoch(SLOW, True)),
    "slow, off": ("4 workers, one 20 x slower, no hedging", epoch(SLOW, False)),
    "nodes": ("4 servers of one worker, one 20 x slower", epoch(SLOW, True, servers=4)),
    "nodes, off": ("4 servers of one worker, one 20 x slower, no hedging", epoch(SLOW, False, servers=4)),
}
CLAIMS = [
    ("one slow worker: without / with hedging", "slow, off", "slow"),
    ("one slow worker, with hedging / all alike", "slow", "even"),
    ("one slow server: without / with hedging", "nodes, off", "nodes"),
    ("all alike: with / without hedging", "even", "even, off"),
]


def run(rounds: int, say: Callable[[str], None]) -> Results:
    """All rounds, the order rotated."""
    return rotated({name: title for name, (title, _) in MEASUREMENTS.items()}, rounds, lambda name: MEASUREMENTS[name][1](), say)


def tables(results: Results) -> list[Table]:
    """Ratios, then the figures."""
    claims: list[tuple[str, ...]] = [(title, spread(ratios(results, upper, lower)) + " x") for title, upper, lower in CLAIMS]
    rows: list[tuple[str, ...]] = [(title, spread(results[name]), "s") for name, (title, _) in MEASUREMENTS.items()]
    return [Table(("epoch", "ratio"), claims), Table(("epoch of 200 batches", "median (lowest to highest)", "unit"), rows)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; see the module."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks stragglers", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=at_least_one, default=5, metavar="N", help="how often each is measured [5]")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables there, too")
    options = parser.parse_args(arguments)
    about = machine()
    results = run(options.rounds, tell)
    text = markdown(tables(results), about, f"python -m benchmarks stragglers --rounds {options.rounds}")
    print(text)
    if options.markdown:
        options.markdown.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
