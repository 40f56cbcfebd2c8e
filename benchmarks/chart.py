"""The figures of `compare` as bars: one panel for each workload, the fastest on top; on a logarithmic axis where they lie far apart."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.job import WORKS
from benchmarks.measuring import Outcome
from benchmarks.peers import PEERS
from benchmarks.report import figure, median

FEEDER, PEER, FLOOR = "#1f77b4", "#b0b0b0", "#e0c080"
WIDE = 20
"""So many times as fast as the slowest is too much for a linear axis."""


def draw(outcomes: Mapping[str, Sequence[Outcome]], file: Path, about: Sequence[str]) -> str:
    """Writes a PNG. Returns why not, if it didn't."""
    if importlib.util.find_spec("matplotlib") is None:
        return "matplotlib is not installed"
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot, ticker

    panels = {work: bars for work in WORKS if (bars := _bars(outcomes, work))}
    if not panels:
        return "nothing was measured"
    heights = [len(bars) + 1.5 for bars in panels.values()]
    drawn, axes = pyplot.subplots(
        len(panels), 1, figsize=(9, 0.28 * sum(heights) + 0.5), squeeze=False, gridspec_kw={"height_ratios": heights}
    )
    for axis, (work, bars) in zip(axes[:, 0], panels.items(), strict=True):
        names = [name.replace("*", "").replace("`", "") for name, _, _ in bars]
        rates = [rate for _, rate, _ in bars]
        axis.barh(range(len(bars)), rates, color=[colour for _, _, colour in bars])
        axis.set_yticks(range(len(bars)), names, fontsize=8)
        axis.invert_yaxis()
        far = max(rates) > WIDE * min(rates)
        axis.set_xscale("log" if far else "linear")
        axis.set_xlim(*((min(rates) / 2, max(rates) * 2.5) if far else (0, max(rates) * 1.12)))
        axis.tick_params(axis="x", which="both", labelsize=7)
        if far:
            axis.xaxis.set_minor_formatter(ticker.NullFormatter())
        axis.set_title(f"{work}: {WORKS[work].title}{' (logarithmic)' if far else ''}", fontsize=9, loc="left")
        for at, rate in enumerate(rates):
            axis.annotate(figure(rate), (rate, at), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    axes[-1, 0].set_xlabel(f"batches per second, median of the rounds. {about[0] if about else ''}", fontsize=7)
    drawn.tight_layout()
    drawn.savefig(file, dpi=110)
    pyplot.close(drawn)
    return ""


def _bars(outcomes: Mapping[str, Sequence[Outcome]], work: str) -> list[tuple[str, float, str]]:
    """Title, rate and colour of who was measured, the fastest first."""
    found = []
    for key, rounds in outcomes.items():
        kind, _, name = key.partition("/")
        rate = median([outcome.get("rate") for outcome in rounds])
        if kind == work and rate:
            peer = PEERS[name]
            found.append((peer.title, rate, FEEDER if name.startswith("feeder") else PEER if peer.serves else FLOOR))
    return sorted(found, key=lambda bar: -bar[1])
