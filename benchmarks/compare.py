"""Every workload x every peer x feeder, in one run: ``python -m benchmarks compare [--rounds N] [--only WORK,...] [--peers NAME,...]``.

Each measurement runs in a fresh process that has a limit of time; the order is rotated from round to round; warming up is not measured;
a ratio is always of two measurements of one round. Shown are medians, and the lowest and the highest round in brackets. A peer that
can't be measured is shown as absent, with the reason.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.job import CPU_SECONDS, WORKS, Job
from benchmarks.measuring import Outcome, above_zero, at_least_one, measure, rotated, tell
from benchmarks.peers import PEERS
from benchmarks.report import Claim, Table, Values, best, claims_table, figure, machine, markdown, median, quotients, show, spread
from benchmarks.sources import loops_for

SECONDS = 1.5
LIMIT_SECONDS = 90.0
PACKAGES = ("keras-feeder", "numpy", "pyzmq", "torch", "grain", "tensorpack", "tensorflow", "keras", "ray")
LOADERS = ("torch", "torch-numpy", "torch-spawn")
FLOORS = ("memcpy", "in-process", "pyzmq")

Outcomes = dict[str, list[Outcome]]
"""By ``work/peer``, by round."""


def pairs(works: Iterable[str], peers: Iterable[str]) -> dict[str, str]:
    """What is to be measured: names of measurements, and titles."""
    wanted = list(peers)
    return {f"{work}/{name}": f"{work}: {PEERS[name].title}" for work in works for name in wanted if work in PEERS[name].works}


def run(titles: Mapping[str, str], rounds: int, seconds: float, limit: float, say: Callable[[str], None]) -> Outcomes:
    """All rounds."""
    loops = loops_for(CPU_SECONDS)

    def one(name: str) -> Outcome:
        work, _, peer = name.partition("/")
        outcome = measure("benchmarks.peers:rate_of", {"peer": peer, "job": Job(work, seconds, loops).to_dict()}, limit)
        if outcome.why:
            say(f"  absent: {outcome.why}")
        return outcome

    return rotated(titles, rounds, one, say)


# ------------------------------------------------------------------------------------------------------------------- the tables


def values(outcomes: Outcomes, work: str, peer: str, name: str = "rate") -> list[float | None]:
    """One figure by round; None for each round where it wasn't measured."""
    rounds = max((len(found) for found in outcomes.values()), default=0)
    return [outcome.get(name) for outcome in outcomes.get(f"{work}/{peer}", [])] or [None] * rounds


def work_table(outcomes: Outcomes, work: str) -> Table:
    """Who is how fast at it, the fastest first."""
    feeder = values(outcomes, work, "feeder")
    rows: list[tuple[float, tuple[str, ...]]] = []
    for name in (key.partition("/")[2] for key in outcomes if key.startswith(f"{work}/")):
        rate = values(outcomes, work, name)
        middle = median(rate)
        title = PEERS[name].title if PEERS[name].serves else f"_{PEERS[name].title}_"
        if middle is None:
            rows.append((-1.0, (title, f"absent: {reason(outcomes[f'{work}/{name}'])}", "", "", "")))
            continue
        cpu = median(values(outcomes, work, name, "cpu")) or 0.0
        times = "" if name == "feeder" else spread(quotients(feeder, rate))
        gigabytes = f"{middle * WORKS[work].bytes / 1e9:.3g}"
        rows.append((middle, (title, spread(rate), gigabytes, _duration(cpu), times)))
    made = WORKS[work]
    words = [f"{made.title}: {_size(made.bytes)}. {made.producers} producers."]
    head = ("", "batches/s: median (lowest to highest)", "GB/s", "CPU time per batch", "feeder is so many times as fast")
    return Table(head, [row for _, row in sorted(rows, key=lambda pair: -pair[0])], work, words)


def reason(found: Sequence[Outcome]) -> str:
    """Why there is nothing."""
    return next((outcome.why for outcome in found if outcome.why), "not measured").replace("|", "/")


def _duration(seconds: float) -> str:
    return f"{figure(seconds * 1e3)} ms" if seconds >= 0.001 else f"{figure(seconds * 1e6)} us"


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"


def claims(outcomes: Outcomes) -> list[Claim]:
    """The goals that can be held against these figures. Goal 3, 5 and 6 are of other programs."""

    def of(work: str, name: str) -> Values:
        return values(outcomes, work, name)

    def times(work: str, *others: str, who: str = "feeder") -> Values:
        return quotients(of(work, who), best([of(work, other) for other in others]))

    peers = [name for name, peer in PEERS.items() if peer.serves and not name.startswith("feeder")]
    sparing = [
        min((v for v in found if v is not None), default=None)
        for found in zip(*(values(outcomes, "big", n, "cpu") for n in LOADERS), strict=True)
    ]
    return [
        Claim("1. big: feeder / the best DataLoader", times("big", *LOADERS), 3.5),
        Claim("1. big: feeder / Keras multiprocessing", times("big", "keras-processes"), 30),
        Claim("1. big: feeder / tf.data map", times("big", "tf-map"), 1.7),
        Claim("1. mid: feeder / the best DataLoader", times("mid", *LOADERS), 6),
        Claim("1. mid: feeder / grain", times("mid", "grain"), 6),
        Claim("1. mid: feeder / Keras multiprocessing", times("mid", "keras-processes"), 25),
        Claim("1. mid: feeder / tf.data map", times("mid", "tf-map"), 2),
        Claim("1. small: feeder / tensorpack", times("small", "tensorpack"), 3.5),
        Claim("1. small: feeder / the best DataLoader", times("small", *LOADERS), 80),
        Claim("1. big, stacked: into `feeder_server.empty` / into a new array", times("big", "feeder-stacked", who="feeder-empty"), 2),
        Claim("1. big: stacked into `feeder_server.empty` / ready in memory", times("big", "feeder", who="feeder-empty")),
        Claim("2. cpu: feeder, 2 workers / one thread in process", times("cpu", "in-process"), 1.9),
        Claim("2. cpu: feeder / the best peer", times("cpu", *peers), 1),
        Claim("2. sleep: feeder, 4 workers / one thread in process", times("sleep", "in-process"), 3.9),
        Claim("4. big over tcp: feeder / bare pyzmq", times("big", "pyzmq", who="feeder-tcp"), 1),
        Claim("4. mid over tcp: feeder / bare pyzmq", times("mid", "pyzmq", who="feeder-tcp"), 1),
        Claim("4. small over tcp: feeder / bare pyzmq", times("small", "pyzmq", who="feeder-tcp"), 1),
        Claim(
            "7. big: CPU seconds per GB, feeder / the most sparing DataLoader",
            quotients(values(outcomes, "big", "feeder", "cpu"), sparing),
            0.25,
            at_most=True,
        ),
    ]


def tables(outcomes: Outcomes) -> list[Table]:
    """Goals, each workload, and how the peers were used."""
    works = [work for work in WORKS if any(key.startswith(f"{work}/") for key in outcomes)]
    named = list(dict.fromkeys(key.partition("/")[2] for key in outcomes))
    settings = Table(("", "how it is used"), [(PEERS[name].title, PEERS[name].settings) for name in named], "Settings")
    return [claims_table(claims(outcomes), "Goals"), *(work_table(outcomes, work) for work in works), settings]


def chosen(text: str, known: Iterable[str]) -> list[str]:
    """Names out of a list with commas, for argparse."""
    names, there = text.split(","), list(known)
    unknown = [name for name in names if name not in there]
    if unknown:
        raise argparse.ArgumentTypeError(f"no {', '.join(unknown)} here, only {', '.join(there)}")
    return names


def main(arguments: Sequence[str] | None = None) -> list[Table]:
    """Entry point; see the module. Returns what it shows, the goals first."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks compare", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=at_least_one, default=3, metavar="N", help="how often each is measured [3]")
    parser.add_argument("--seconds", type=above_zero, default=SECONDS, metavar="S", help=f"how long, in each round [{SECONDS:g}]")
    parser.add_argument("--limit", type=above_zero, default=LIMIT_SECONDS, metavar="S", help=f"for a process [{LIMIT_SECONDS:g}]")
    parser.add_argument("--only", type=lambda t: chosen(t, WORKS), default=list(WORKS), metavar="WORK,...", help=", ".join(WORKS))
    parser.add_argument("--peers", type=lambda t: chosen(t, PEERS), default=list(PEERS), metavar="NAME,...", help=", ".join(PEERS))
    parser.add_argument("--quick", action="store_true", help="one round of 0.3 s each: does it all run?")
    parser.add_argument("--markdown", type=Path, metavar="FILE.md", help="write the tables there, with FILE.png and FILE.json beside it")
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds, options.seconds = 1, 0.3
    command = f"python -m benchmarks compare --rounds {options.rounds} --seconds {options.seconds:g}"
    for name, everything in (("only", WORKS), ("peers", PEERS)):
        if getattr(options, name) != list(everything):
            command += f" --{name} {','.join(getattr(options, name))}"
    about = machine(PACKAGES)
    outcomes = run(pairs(options.only, options.peers), options.rounds, options.seconds, options.limit, tell)
    made = tables(outcomes)
    show(made, about)
    if options.markdown:
        write(options.markdown, outcomes, made, about, command)
    return made


def write(file: Path, outcomes: Outcomes, made: list[Table], about: list[str], command: str) -> None:
    """Tables, chart and figures, side by side."""
    from benchmarks import chart

    text = markdown(made, about, command)
    drawn = file.with_suffix(".png")
    why = chart.draw(outcomes, drawn, about)
    text += f"\n![batches per second]({drawn.name})\n" if not why else f"\nNo chart: {why}.\n"
    file.write_text(text, encoding="utf-8")
    raw = {name: [asdict(outcome) for outcome in found] for name, found in outcomes.items()}
    file.with_suffix(".json").write_text(json.dumps({"command": command, "about": about, "outcomes": raw}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
