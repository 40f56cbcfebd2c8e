"""What a running node shows: a live line on a terminal, plain log lines where there is none."""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from feeder_server.report import Rate, Snapshot, waiting_for

if TYPE_CHECKING:
    from rich.console import Console

log = logging.getLogger("feeder.node")

QUIET_SECONDS = 10.0
"""Without a terminal: at most one line in so many seconds, and none while nothing happens."""


class Display(Protocol):
    """Shows snapshots between ``with`` and its end."""

    def look(self, snapshot: Snapshot) -> None:
        """Take in the newest one."""

    def __enter__(self) -> Display: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...


def describe(snapshot: Snapshot, rate: tuple[float, float]) -> str:
    """One line about a node."""
    parts = [
        f"workers {snapshot.ready}/{snapshot.workers}",
        f"{rate[0]:.1f} batches/s",
        f"{rate[1] / 1e6:.1f} MB/s",
        f"clients {snapshot.clients}",
        f"{snapshot.batches} batches",
    ]
    if snapshot.restarts:
        parts.append(f"restarts {snapshot.restarts}")
    return " | ".join([*parts, waiting_for(snapshot)])


class LogDisplay:
    """Plain lines in the log, now and then and only while something happens."""

    def __init__(self) -> None:
        self._rate = Rate(QUIET_SECONDS)
        self._next = 0.0
        self._last = -1

    def look(self, snapshot: Snapshot) -> None:
        """See `Display`."""
        now = time.monotonic()
        rate = self._rate.of(snapshot, now)
        if now >= self._next and snapshot.batches != self._last:
            self._next, self._last = now + QUIET_SECONDS, snapshot.batches
            log.info("%s", describe(snapshot, rate))

    def __enter__(self) -> LogDisplay:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        return None


class LiveDisplay:
    """A line that stays at the bottom of the terminal while the log scrolls above it."""

    def __init__(self, console: Console) -> None:
        from rich.live import Live

        # What goes to stdout is the endpoint, for a script to read: only where it is this terminal too may it be led past the line.
        shared = sys.stdout is not None and sys.stdout.isatty()
        self._live = Live("", console=console, refresh_per_second=4, transient=True, redirect_stdout=shared)
        self._rate = Rate()

    def look(self, snapshot: Snapshot) -> None:
        """See `Display`."""
        from rich.text import Text

        line = describe(snapshot, self._rate.of(snapshot, time.monotonic()))
        self._live.update(Text(line, style="bold", no_wrap=True, overflow="ellipsis"))

    def __enter__(self) -> LiveDisplay:
        self._live.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._live.__exit__(kind, error, trace)
