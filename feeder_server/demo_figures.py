"""How ``feeder-server demo`` works its figures out, and how it shows them.

Everything drawn is plain ASCII, but for what rich draws by itself where the output can show it: a character that the output's
encoding doesn't have (a tick in cp1252, say) would end the process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

ROUGH = 0.2
"""Epochs of one fit that differ by more than this share are worth a word."""


@dataclass
class Figures:
    """What was measured of one source: the seconds of each counted epoch, by way."""

    epochs: dict[str, list[float]] = field(default_factory=dict)

    def seconds(self, way: str) -> float:
        """Per epoch."""
        return sum(self.epochs[way]) / len(self.epochs[way])

    def speed_up(self, way: str) -> float:
        """Against plain fit."""
        return self.seconds("plain") / self.seconds(way)

    def waited(self, way: str) -> float:
        """Share of an epoch that the training waited for data, 0..1.

        By comparison, not by a clock in ``__getitem__``: Keras calls that ahead of the step and from its own threads.
        """
        return max(0.0, 1.0 - self.seconds("ready") / self.seconds(way))

    def spread(self) -> float:
        """By how much two epochs of one way differ at most, as a share of the shorter one. Those from memory are too short to count."""
        return max(max(epochs) / min(epochs) - 1.0 for way, epochs in self.epochs.items() if way != "ready")


def table(title: str, labels: Mapping[str, str], figures: Figures) -> Table:
    """The figures of one source; the last row is what the model alone needs."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    drawn = Table(title=title, title_justify="left", box=SIMPLE_HEAD, title_style="bold", show_edge=False, pad_edge=False)
    drawn.add_column("", min_width=26, overflow="fold")
    for name in ("s per epoch", "speed-up", "waited for data"):
        drawn.add_column(name, justify="right", overflow="fold")
    for way in ("plain", "threads", "feeder"):
        row = f"{figures.seconds(way):.2f}", f"{figures.speed_up(way):.1f} x", f"{figures.waited(way):.0%}"
        drawn.add_row(labels[way], *row, style="bold green" if way == "feeder" else "")
    drawn.add_row(labels["ready"], f"{figures.seconds('ready'):.2f}", "", "", style="dim")
    return drawn


def say(console: Console, text: str, style: str = "") -> None:
    """Print as it stands, whatever the output can show: no markup, no wrapping, and no character that it doesn't have."""
    encoding = console.encoding
    shown = text.encode(encoding, "backslashreplace").decode(encoding)
    console.print(shown, style=style, markup=False, highlight=False, soft_wrap=True)


def progress(console: Console) -> Progress:
    """A bar on a terminal; nothing but the lines printed meanwhile elsewhere."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
    from rich.table import Column

    live = console.is_terminal and not console.is_dumb_terminal
    # "crop": what doesn't fit would get an ellipsis otherwise, which is not ASCII.
    name = TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="crop"))
    return Progress(name, BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), console=console, transient=True, disable=not live)
