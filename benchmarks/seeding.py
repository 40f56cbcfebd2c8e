"""What correctness costs: seeding before each item, and comparing copies at the start. ``python -m benchmarks seeding [--rounds N]``.

Each measurement runs in a fresh process, the order is rotated from round to round. Shown are medians, and the lowest and the highest
round in brackets. What is not installed is shown as absent.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.measuring import SOURCES, at_least_one, measure, rotated, tell
from benchmarks.report import Results, Table, machine, markdown, spread

ITEMS = 3000
REPEATS = 5  # in one process; the fastest is the one that nobody disturbed
CPU_LOOPS = 400_000  # of pure Python for one batch: 30 to 40 ms
TIMEOUT_SECONDS = 120.0
LIMIT_SECONDS = 300.0


class Plain:
    """A source that holds `generators` random generators of its own."""

    def __init__(self, generators: int = 0) -> None:
        import numpy as np

        self.generators = [np.random.default_rng(i) for i in range(generators)]

    def __len__(self) -> int:
        return 100

    def __getitem__(self, index: int) -> int:
        return index


def plain(generators: int = 0, needs: str = "") -> Callable[[], float | None]:
    """Microseconds of seeding per item; `needs` names a package that is loaded, as it is where the user's code imports it."""

    def measure() -> float | None:
        if needs:
            if importlib.util.find_spec(needs) is None:
                return None
            importlib.import_module(needs)
        return per_item(Plain(generators))

    return measure


def albumentations() -> float | None:
    """Microseconds of seeding per item for a pipeline of eight transforms, as people write them."""
    if importlib.util.find_spec("albumentations") is None:
        return None
    source: Any = Plain()
    source.augment = compose()
    return per_item(source)


def compose() -> Any:
    """An albumentations pipeline."""
    import albumentations as A

    return A.Compose(
        [
            A.HorizontalFlip(p=0.5),
            A.RandomBrightnessContrast(p=0.5),
            A.OneOf([A.GaussianBlur(), A.MotionBlur(), A.MedianBlur()], p=0.3),
            A.Affine(p=0.5),
            A.OneOf([A.GaussNoise(), A.ISONoise()], p=0.3),
            A.CoarseDropout(p=0.3),
        ]
    )


def per_item(subject: object) -> float:
    """Microseconds that a worker takes before each item of `subject`, over an item without seeding."""
    from feeder_server import seeding
    from feeder_server.reseeding import Reseeder
    from feeder_server.source import IndexedSource

    source = IndexedSource(subject)
    reseeder = Reseeder(source)
    found = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        for index in range(ITEMS):
            with reseeder.set_all(seeding.item_seed(0, 0, index)):
                source.get(index)
        seeded = time.perf_counter()
        for index in range(ITEMS):
            source.get(index)
        found.append((seeded - started) - (time.perf_counter() - seeded))
    return min(found) / ITEMS * 1e6


def generators_of_compose() -> float | None:
    """How many generators such a pipeline holds: not timed."""
    if importlib.util.find_spec("albumentations") is None:
        return None
    from feeder_server.generators import Generators

    found = Generators(source=compose())
    found.walk()
    return float(len(found.names))


def walk() -> float | None:
    """Milliseconds to find them, once per copy."""
    if importlib.util.find_spec("albumentations") is None:
        return None
    from feeder_server.generators import Generators

    pipeline = compose()
    found = []
    for _ in range(REPEATS * 4):
        started = time.perf_counter()
        Generators(source=pipeline).walk()
        found.append(time.perf_counter() - started)
    return min(found) * 1e3


def start(workers: int, servers: int = 1, compared: bool = False) -> Callable[[], float]:
    """Seconds from ``FeederClient.local(...)`` to the first batch, or until the copies are compared; of the last of some `servers`.

    The second server serves the same source while the first one is up, and its client has drawn a pass.
    """

    def measure() -> float:
        from feeder_client import FeederClient

        with ExitStack() as stack:
            for _ in range(servers):
                started = time.perf_counter()
                args = {"length": 12, "loops": CPU_LOOPS}
                client = stack.enter_context(FeederClient.local(f"{SOURCES}:Cpu", workers=workers, args=args))
                next(iter(client))
                while compared and ", parallel, " not in repr(client):
                    if time.perf_counter() - started > TIMEOUT_SECONDS:
                        raise SystemExit(f"the copies were not compared in time: {client!r}")
                    time.sleep(0.002)
                took = time.perf_counter() - started
                if servers > 1:
                    list(client)
        return took

    return measure


MEASUREMENTS: dict[str, tuple[str, str, Callable[[], float | None]]] = {
    "plain": ("seeding an item: no generator of its own", "us", plain()),
    "one": ("seeding an item: 1 generator", "us", plain(1)),
    "seventeen": ("seeding an item: 17 generators", "us", plain(17)),
    "torch": ("seeding an item: torch is loaded", "us", plain(needs="torch")),
    "tensorflow": ("seeding an item: tensorflow is loaded", "us", plain(needs="tensorflow")),
    "compose": ("seeding an item: an albumentations pipeline", "us", albumentations),
    "found": ("generators in that pipeline", "", generators_of_compose),
    "walk": ("finding them, once per copy", "ms", walk),
    "start 1": ("first batch of a server with 1 worker", "s", start(1)),
    "start 4": ("first batch of a server with 4 workers", "s", start(4)),
    "again 4": ("first batch of a second server with 4 workers, beside the first", "s", start(4, servers=2)),
    "compared 4": ("until the copies of 4 workers are compared", "s", start(4, compared=True)),
}


def one(name: str) -> dict[str, float]:
    """One measurement, in this process; nothing: it is absent."""
    found = MEASUREMENTS[name][2]()
    return {} if found is None else {"value": found}


def in_fresh_process(name: str) -> Any:
    """What one measurement gives, made in a process of its own."""
    outcome = measure("benchmarks.seeding:one", {"name": name}, LIMIT_SECONDS)
    if outcome.why:
        raise SystemExit(f"measuring {name!r} failed: {outcome.why}")
    return outcome.get("value")


def run(rounds: int, say: Callable[[str], None]) -> Results:
    """All rounds, the order rotated."""
    return rotated({name: title for name, (title, _, _) in MEASUREMENTS.items()}, rounds, in_fresh_process, say)


def table(results: Results) -> Table:
    """The figures."""
    rows: list[tuple[str, ...]] = [(title, spread(results[name]), unit) for name, (title, unit, _) in MEASUREMENTS.items()]
    return Table(("measurement", "median (lowest to highest)", "unit"), rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; see the module."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks seeding", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=at_least_one, default=5, metavar="N", help="how often each is measured [5]")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there, too")
    options = parser.parse_args(arguments)
    about = machine()
    results = run(options.rounds, tell)
    text = markdown([table(results)], about, f"python -m benchmarks seeding --rounds {options.rounds}")
    print(text)
    if options.markdown:
        options.markdown.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
