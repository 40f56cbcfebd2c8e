"""Is the GPU busy? ``python -m benchmarks gpu [--device gpu|cpu] [--backends torch,jax] [--rounds N] [--only feeder-16,...]``.

A Keras model learns from pictures whose augmentation takes six times as long as its step. So one producer can't feed it, four can't,
and sixteen could. Milliseconds per step over whole epochs, the device waited for at both ends:

* floor: the same batch again and again, which lies on the device;
* in process: a PyDataset, made by the training process;
* loader-fork, loader-spawn: torch's DataLoader with 16 workers, persistent, with ``pin_memory`` for torch on a GPU (on JAX spawned only:
  it has threads of its own, which a fork doesn't survive);
* feeder-1, feeder-4, feeder-16: `FeederSequence.local` with so many workers;
* feeder-16-pinned: with ``pin=True``, page-locked blocks (torch).

The device's share is the step of the floor divided by the step: the part of the time in which the device would have computed, if it was
as fast as with the batch that lies there. What nvidia-smi calls utilization is shown beside it: the part of the time in which any
kernel ran, as it samples it; copies don't count.

The model is made deeper until its step takes 50 ms, the augmentation then six times that. ``--device cpu`` runs all of it with a tiny
model on the CPU: its figures say nothing of a GPU.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu_training import SMI, Size
from benchmarks.measuring import Outcome, above_zero, at_least_one, measure, rotated, tell
from benchmarks.report import Claim, Table, Values, claims_table, machine, markdown, median, quotients, show, spread

BACKENDS = ("torch", "jax")
MANY = 16
PACKAGES = ("keras-feeder", "numpy", "keras", "torch", "jax")
_COLUMNS = ("how it is fed", "step, ms", "epoch, s", "the device's share, %", "nvidia-smi, %")


SIZES = {"gpu": Size("gpu", 64, 224, 100), "cpu": Size("cpu", 32, 64, 30)}
QUICK = {"gpu": Size("gpu", 16, 64, 8), "cpu": Size("cpu", 8, 16, 4)}


@dataclass(frozen=True)
class Way:
    """One way to feed the training; `only`: on this backend."""

    title: str
    feed: str
    workers: int = 0
    pin: bool = False
    only: str = ""


WAYS = {
    "floor": Way("floor: the same batch, on the device", "same"),
    "in-process": Way("in process", "in process"),
    "loader-fork": Way(f"torch DataLoader, {MANY} workers, forked", "fork", MANY, only="torch"),
    "loader-spawn": Way(f"torch DataLoader, {MANY} workers, spawned", "spawn", MANY),
    **{f"feeder-{n}": Way(f"**feeder**, {n} worker{'s' * (n > 1)}", "feeder", n) for n in (1, 4, MANY)},
    f"feeder-{MANY}-pinned": Way(f"**feeder**, {MANY} workers, page-locked", "feeder", MANY, pin=True, only="torch"),
}
Outcomes = Mapping[str, Sequence[Outcome]]


def of(outcomes: Outcomes, name: str, figure: str) -> Values:
    """By round."""
    return [outcome.get(figure) for outcome in outcomes.get(name, ())]


def shares(outcomes: Outcomes, backend: str, way: str) -> Values:
    """Percent of the time that the device computes, by round; nothing where the floor was not measured."""
    floor, steps = of(outcomes, f"{backend}/floor", "step"), of(outcomes, f"{backend}/{way}", "step")
    return [100 * q if q is not None else None for q in quotients(floor, steps)] if floor and steps else []


def tables(outcomes: Outcomes, steps: Mapping[str, float]) -> list[Table]:
    """Goals, and a table for each backend."""
    claims, made = [], []
    for backend in BACKENDS:
        rows: list[tuple[str, ...]] = []
        for way, asked in WAYS.items():
            found = outcomes.get(f"{backend}/{way}")
            if found is None:
                continue
            why = next((outcome.why.replace("|", "/") for outcome in found if outcome.why), "")
            step, epoch, used = (of(outcomes, f"{backend}/{way}", figure) for figure in ("step", "epoch", "used"))
            there = median(step) is not None
            cells = (spread(step) if there else f"absent: {why}", spread(epoch), spread(shares(outcomes, backend, way)), spread(used))
            rows.append((asked.title, *(cells if there else (cells[0], "", "", ""))))
        if rows:
            about = f"The model's step was measured as {steps[backend]:.1f} ms." if backend in steps else ""
            made.append(Table(_COLUMNS, rows, backend, [about] if about else []))
        if f"{backend}/feeder-{MANY}" in outcomes and f"{backend}/floor" in outcomes:
            text = f"{backend}: the device's share, feeder with {MANY} workers"
            claims.append(Claim(text, shares(outcomes, backend, f"feeder-{MANY}"), 95.0, " %"))
    return [*([claims_table(claims)] if claims else []), *made]


def gpus() -> list[str]:
    """Their names and drivers, as nvidia-smi has them."""
    try:
        done = subprocess.run(
            [*SMI, "--query-gpu=name,driver_version,memory.total"], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [f"GPU: {line.strip()} MiB" for line in done.stdout.splitlines() if line.strip()] if done.returncode == 0 else []


def run(names: Sequence[str], rounds: int, size: Size, quick: bool, limit: float, say: Callable[[str], None]) -> list[Table]:
    """All rounds of these measurements (``backend/way``)."""
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    env: dict[str, str | None] = {"JAX_PLATFORMS": "cpu"} if size.device == "cpu" else {"CUDA_VISIBLE_DEVICES": seen}
    env["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # else JAX takes three quarters of the memory at once, and its peak means nothing
    sizes: dict[str, dict[str, Any]] = {}
    steps: dict[str, float] = {}
    failed: dict[str, Outcome] = {}
    for backend in dict.fromkeys(name.partition("/")[0] for name in names):
        say(f"{backend}: how long is a step?")
        found = measure("benchmarks.gpu_training:calibrate", {"backend": backend, "size": asdict(size), "quick": quick}, limit, env)
        if found.why:
            say(f"  absent: {found.why}")
            failed[backend] = found
            continue
        steps[backend] = found.figures["step"]
        sizes[backend] = {**asdict(size), "depth": int(found.figures["depth"]), "loops": int(found.figures["loops"])}

    def one(name: str) -> Outcome:
        backend, _, way = name.partition("/")
        if backend in failed:
            return failed[backend]
        asked = WAYS[way]
        arguments = {"backend": backend, "size": sizes[backend], "feed": asked.feed, "workers": asked.workers, "pin": asked.pin}
        outcome = measure("benchmarks.gpu_training:fit", arguments, limit, env)
        if outcome.why:
            say(f"  absent: {outcome.why}")
        return outcome

    return tables(
        rotated({name: f"{name.partition('/')[0]}: {WAYS[name.partition('/')[2]].title}" for name in names}, rounds, one, say), steps
    )


def main(arguments: Sequence[str] | None = None) -> list[Table]:
    """Entry point; see the module. Returns what it shows, the goals first. Exit code 2 where there is no GPU."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks gpu", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", choices=SIZES, default="gpu", help="cpu: a tiny model, to see that it all runs [gpu]")
    parser.add_argument("--backends", default=",".join(BACKENDS), metavar="NAME,...", help=f"[{','.join(BACKENDS)}]")
    parser.add_argument("--rounds", type=at_least_one, default=3, metavar="N", help="how often each is measured [3]")
    parser.add_argument("--only", default=",".join(WAYS), metavar="NAME,...", help=f"of {', '.join(WAYS)}")
    parser.add_argument("--limit", type=above_zero, default=300.0, metavar="S", help="for a measurement [300]")
    parser.add_argument("--quick", action="store_true", help="one round, as short as possible: does it all run?")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables there, too")
    options = parser.parse_args(arguments)
    backends, ways = options.backends.split(","), options.only.split(",")
    for option, asked, known in (("--backends", backends, BACKENDS), ("--only", ways, tuple(WAYS))):
        if not set(asked) <= set(known):
            parser.error(f"{option}: there are {', '.join(known)}")
    found = gpus() if options.device == "gpu" else ["no GPU is used: a tiny model on the CPU, whose figures say nothing of one"]
    if not found:
        print("there is no GPU here that nvidia-smi knows of; --device cpu runs the same with a tiny model on the CPU", file=sys.stderr)
        sys.exit(2)
    names = [f"{backend}/{way}" for backend in backends for way in ways if WAYS[way].only in ("", backend)]
    rounds = 1 if options.quick else options.rounds
    about = [*machine(PACKAGES), *found]
    made = run(names, rounds, (QUICK if options.quick else SIZES)[options.device], options.quick, options.limit, tell)
    show(made, about)
    if options.markdown:
        command = (
            f"python -m benchmarks gpu --device {options.device} --backends {options.backends} --rounds {rounds} --only {options.only}"
        )
        options.markdown.write_text(markdown(made, about, command), encoding="utf-8")
    return made


if __name__ == "__main__":
    main()
