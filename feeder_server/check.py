"""``feeder-server check``: serve a source to ourselves for a moment, and say what came of it.

    Node (this thread, stepped) ◀── Drawing (its only client, same thread)
      └── real workers: load ──▶ compare their copies ──▶ first pass ──▶ second pass

Nothing of it is a second implementation: what a training would meet, this meets.
"""

from __future__ import annotations

import logging
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import click

from feeder_server.config import ServeConfig
from feeder_server.drawing import Drawing
from feeder_server.node import Node
from feeder_server.patience import Patience
from feeder_server.report import of_source
from feeder_server.serve import Stopper
from feeder_server.status_text import row, source_lines
from feeder_wire import messages as m
from feeder_wire.errors import BatchTimeout, ConfigError, DivergentSource, FeederError, SourceError, rebuild

TURN = 0.02  # seconds between two looks at what has come in
PING_SECONDS = 3.0
PASSES = ("first", "second")


@dataclass(slots=True)
class Drawn:
    """What came of a pass."""

    seconds: list[float] = field(default_factory=list)  # that each batch took
    ended: bool = False  # a stream: it has no more
    elapsed: float = 0.0


class Check:
    """One check of one source.

    Args:
        node: with that source alone; open.
        drawing: its client.
        batches: how many to draw in each pass.
        timeout: seconds that loading, and each batch, may take.
        say: prints a line.
    """

    def __init__(self, node: Node, drawing: Drawing, batches: int, timeout: float, say: Callable[[str], None]) -> None:
        self._node, self._drawing, self._batches, self._say = node, drawing, batches, say
        self._source = node.dispatch.sources[0]
        self._patience = Patience(timeout)
        self._next_ping = time.monotonic()
        self._said = False

    def run(self) -> None:
        """Load, compare, draw two passes, and print what there is to say.

        Raises:
            FeederError: it can't be served.
        """
        try:
            self._until(lambda: self._source.kind != "" and all(slot.ready for slot in self._node.dispatch.slots))
            if self._source.num_batches == 0:
                raise SourceError(f"{self._source.name}: it has no batches, its length is 0")
            self._until(lambda: self._source.outcome != "")
            first = self._draw(0)
            self._describe()
            self._report(0, first)
            self._report(1, self._draw(1))
        except FeederError as e:
            self._describe(e)
            raise

    def _until(self, done: Callable[[], bool], take: Callable[[m.ToClient], None] = lambda message: None) -> None:
        while not done():
            self._node.step(TURN)
            for message in self._drawing.receive():
                take(message)
            if self._node.stop_reason is not None:
                raise KeyboardInterrupt
            now = time.monotonic()
            if now >= self._next_ping:
                self._next_ping = now + PING_SECONDS
                self._drawing.keep_alive()
            late = self._patience.late(self._node.dispatch.slots, self._source.kind == "stream", now)
            if late:
                raise BatchTimeout(f"{late}: it hangs, or needs a longer --timeout")

    def _draw(self, epoch: int) -> Drawn:
        source = self._source
        count = self._batches if source.kind == "stream" or source.num_batches < 0 else min(self._batches, source.num_batches)
        drawn, left = Drawn(), set(range(count))

        def take(message: m.ToClient) -> None:
            match message:
                case m.Inline() | m.Lent():
                    left.discard(message.index)
                    drawn.seconds.append(message.seconds)
                case m.Ended():
                    left.discard(message.index)
                    drawn.ended = True
                case m.Failed():
                    what = f"batch {message.index}" if source.kind == "indexed" else f"after {len(drawn.seconds)} batches"
                    raise rebuild(message.error, f"{what} of the {PASSES[epoch]} pass")

        started = time.monotonic()
        self._drawing.ask(epoch, count)
        self._until(lambda: not left, take)
        drawn.elapsed = time.monotonic() - started
        if not drawn.seconds:
            cure = "each pass has to begin anew: name a function that makes a new generator, or a class whose __iter__ does"
            raise SourceError(f"the {PASSES[epoch]} pass gave no batch" + (f"; {cure}" if epoch else ""))
        return drawn

    def _describe(self, error: FeederError | None = None) -> None:
        if self._said or not self._source.kind:
            return
        self._said = True
        report = replace(of_source(self._source), batch_seconds=0.0)  # of which more is said below
        if isinstance(error, DivergentSource):
            report = replace(report, outcome_text="see below")
        for line in source_lines(report):
            self._say(line)
        if report.batch_lines and not report.generators:
            for line in row("random", "no generator of its own was found; the global ones are seeded before each batch"):
                self._say(line)

    def _report(self, epoch: int, drawn: Drawn) -> None:
        source, count = self._source, len(drawn.seconds)
        of = f" of {source.num_batches:,}" if source.kind == "indexed" and source.num_batches > 0 else ""
        text = f"{count:,}{of} batches drawn{', and then it ended' if drawn.ended else ''}"
        if epoch:
            took = [1000 * seconds for seconds in drawn.seconds]
            workers = len(source.slots)
            text += (
                f"; a worker takes {statistics.median(took):.3g} ms for one ({min(took):.3g} to {max(took):.3g}), "
                f"{workers} worker{'s' * (workers > 1)} made {_rate(count / max(drawn.elapsed, 1e-6))} batches/s"
            )
        for line in row(PASSES[epoch], text):
            self._say(line)


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def run(config: ServeConfig, *, batches: int, timeout: float, verbose: bool) -> None:
    """Check the only source of `config`, and print what there is to say.

    Raises:
        FeederError: it can't be served.
        KeyboardInterrupt: a signal came.
    """
    if not 0 < timeout <= 86400:
        raise ConfigError(f"--timeout {timeout:g}: a number of seconds above 0 is needed, at most 86400")
    if not 1 <= batches <= 100_000:
        raise ConfigError(f"--batches {batches}: a whole number from 1 to 100000 is needed")
    level = logging.DEBUG if verbose else logging.CRITICAL
    logging.basicConfig(format="%(asctime)s %(levelname)-7s %(message)s", datefmt="%H:%M:%S", level=level)
    target = config.sources[0].target
    node = Node(config)
    Stopper(node).install()
    endpoint = node.open()
    try:
        if sys.stderr is not None and sys.stderr.isatty():
            click.echo(f"loading {target} in {config.workers} workers ...", err=True)
        with Drawing(endpoint, config.sources[0].name) as drawing:
            Check(node, drawing, batches, timeout, click.echo).run()
    finally:
        node.close()
    click.echo(f"\n{target} can be served.")
