"""What one worker process keeps of a stream: per session an iterator, begun again for every run, and how far it has come.

A batch of a run has a *place*: how many came before it from this worker's part. Where the stream can be *replayed*, because its numbers
depend on seed, run, place and slot alone, a place may be asked for again, or one further on: the run is begun anew, and what
lies before is drawn and dropped (after a crash, a broken connection, a training that goes on where it was killed). A source that takes
``start_batch`` is told where to begin, so that only one batch is made to no purpose: the one before. A stream that
can't be replayed gives whatever comes next.

One thread. Everything that the user's code raises comes out as it is.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from feeder_server import seeding
from feeder_server.failure import user_error
from feeder_server.reseeding import Reseeder
from feeder_server.source import StreamSource

log = logging.getLogger("feeder.copies")


class StreamEnded(Exception):
    """A run of a stream has no more batch; `delivered` says how many it gave."""

    def __init__(self, delivered: int) -> None:
        super().__init__(f"the stream ended after {delivered} batches")
        self.delivered = delivered


@dataclass(slots=True)
class _Run:
    source: StreamSource
    seeds: Reseeder
    number: int = -1
    iterator: Iterator[object] | None = None
    place: int = 0  # of the next batch
    delivered: int = 0  # without those that raised
    drawn: bool = False  # the iterator was asked for something
    failure: BaseException | None = None


class Runs:
    """The runs of a stream in one worker.

    Args:
        take: gives a source for a session that begins.
        seed: the server's seed.
        slot: which of the workers of this source this is.
        slots: how many there are.
        incarnation: tells a worker that was restarted from the one before it, so that a stream goes on with new random numbers and
            not with those that were used already. One that can be replayed doesn't mind it: it has to come out the same.
        ordered: whether the batches of all workers come in a fixed order, so that every stream can be replayed, not only a sharded one.
        on_step: see `Copies`.
    """

    def __init__(
        self,
        take: Callable[[], StreamSource],
        *,
        seed: int,
        slot: int,
        slots: int,
        incarnation: int,
        ordered: bool,
        on_step: Callable[[bool], None] = lambda timed: None,
    ) -> None:
        self._take = take
        self._on_step = on_step
        self._seed, self._slot, self._slots = seed, slot, slots
        self._incarnation, self._ordered = incarnation, ordered
        self._runs: dict[bytes, _Run] = {}

    def __repr__(self) -> str:
        return f"<Runs { ({session.hex(): (run.number, run.place) for session, run in self._runs.items()}) }>"

    def __len__(self) -> int:
        return len(self._runs)

    def next(self, session: bytes, run: int, place: int | None = None) -> object:
        """Make a batch of a run of a stream.

        A run that wasn't finished is given up when a later one is asked for. After an error the same iterator is asked again, since
        some go on (a `map` over files); a generator can't, and repeats its error until the next run, so that a pass that broke
        is never taken for one that ended.

        Args:
            session: whose.
            run: how often the stream was begun before.
            place: of the batch within the run; None: the next one.

        Raises:
            StreamEnded: the run has no batch there; also whenever it is asked again.
            ValueError: the run has been left behind.
        """
        state = self._runs.get(session)
        if state is None:
            source = self._take()
            state = self._runs[session] = _Run(source, Reseeder(source))
        if run < state.number:
            raise ValueError(f"run {run} was asked for, and the stream is in run {state.number}")
        if run > state.number:
            self._begin(state, run, place or 0)
        if place is not None and place != state.place:
            self._go_to(state, place)
        return self._make(state)

    def generators(self, session: bytes) -> list[str]:
        """Names of the random generators of its own that a session's run has."""
        state = self._runs.get(session)
        return state.seeds.names if state is not None else []

    def drop(self, session: bytes) -> None:
        """Forget a session."""
        state = self._runs.pop(session, None)
        if state is not None:
            self._end(state)

    def _replayable(self, source: StreamSource) -> bool:
        return source.sharded or self._ordered

    def _go_to(self, state: _Run, place: int) -> None:
        if not self._replayable(state.source):
            state.place = place  # only the seeds depend on it
            return
        if place < state.place:
            run, state.number = state.number, state.number - 1
            log.info("run %d of a stream is begun anew, to come to batch %d again", run, place)
            self._begin(state, run, place)
        while state.place < place:
            try:
                self._make(state)
            except StreamEnded:
                raise
            except Exception as exc:  # whoever asked for it has been told
                log.debug("batch %d failed on the way to %d: %s", state.place - 1, place, exc)

    def _make(self, state: _Run) -> object:
        if state.iterator is None:
            if state.failure is not None:
                state.place += 1
                raise state.failure.with_traceback(None)
            raise StreamEnded(state.delivered)
        value = self._seed_of(state, state.place)
        if state.drawn:
            state.seeds.set(value)
            return self._draw(state, state.iterator)
        # What comes before the first batch of a generator function builds the run: files are shuffled there.
        state.drawn = True
        with state.seeds.set_all(value if state.place == 0 or not self._replayable(state.source) else self._seed_of(state, 0)):
            batch = self._draw(state, state.iterator)
        state.seeds = Reseeder(state.source, run=state.iterator)
        return batch

    def _begin(self, state: _Run, run: int, place: int) -> None:
        self._end(state)
        if state.number >= 0 and not state.source.restartable:
            state.source = self._take()
            state.seeds = Reseeder(state.source)
        # The first batch after the start is made under the seed of the run's beginning, as its files have to be shuffled alike: it is
        # one that nobody waits for.
        start = place - 1 if place and state.source.skips and self._replayable(state.source) else 0
        state.number, state.place, state.delivered, state.drawn, state.failure = run, start, start, False, None
        self._on_step(False)  # it may open or list what it reads
        try:
            with state.seeds.set_all(self._seed_of(state, -1)):
                state.iterator = state.source.start((self._slot, self._slots), run, start)
            state.seeds = Reseeder(state.source, run=state.iterator)
        except BaseException:
            state.number -= 1  # so that the next try begins the run again
            raise

    def _seed_of(self, state: _Run, place: int) -> int:
        # Shards fit together only if all slots shuffle their file lists alike, and they do that before the first batch.
        if state.source.sharded:
            return seeding.stream_seed(self._seed, state.number, place, None if place <= 0 else self._slot)
        return seeding.stream_seed(self._seed, state.number, place, self._slot, 0 if self._ordered else self._incarnation)

    def _draw(self, state: _Run, iterator: Iterator[object]) -> object:
        self._on_step(True)
        try:
            batch = next(iterator)
        except StopIteration:
            state.iterator = None
            raise StreamEnded(state.delivered) from None
        except BaseException as exc:
            state.place += 1
            if inspect.isgenerator(iterator):
                state.iterator = None
                state.failure = user_error(exc, f"after {state.delivered} batches; a generator can't go on after an error")
            raise
        state.place += 1
        state.delivered += 1
        return batch

    def _end(self, state: _Run) -> None:
        close = getattr(state.iterator, "close", None)
        state.iterator = None
        if callable(close):
            try:
                close()
            except Exception as exc:
                log.warning("closing a stream that was given up failed: %s", exc)
