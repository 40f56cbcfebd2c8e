"""What one worker process keeps of one source: a copy per session, each at its epoch.

    indexed, without state    one copy for everybody
    indexed, with state       per session at most two: the newest epoch asked for, and an older one that a repeated item needed
    stream                    per session an iterator, begun again for every run: see runs.py

The copies are compared at the start (probe.py). What was made for that goes on with the first session, which so begins no later; and
where it showed that items depend on what was made before, `mode` says what to do about it.

A copy is a function of seeds alone. It is built under the build seed, brought to epoch e by replaying 0 .. e under their own seeds
(shuffles are cumulative), and set to the item's seed before every item; so it makes no difference which worker makes an item, what
it made before, or how often the item is tried. What "set" means is in reseeding.py.

A generator that a source makes for itself only when it makes an item has no name yet, and other numbers in each worker. So a copy is
looked through again after its first item, and if there is a new generator, the item is made again with that one set too.

One thread. Everything that the user's code raises comes out as it is, except while a source is built (`SourceError`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from feeder_server import entropy, seeding
from feeder_server.maker import Maker as Maker
from feeder_server.reseeding import Reseeder
from feeder_server.runs import Runs
from feeder_server.runs import StreamEnded as StreamEnded
from feeder_server.source import IndexedSource, StreamSource

log = logging.getLogger("feeder.copies")

MOST_REPLAYED = 1_000_000
"""Epochs that a copy which comes late replays at most. What asks for more is no training, and would have the worker for itself."""
PROBE = bytes(16)
"""The session in whose name copies are compared. No client has it: theirs are random."""


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """What a source is.

    Attributes:
        kind: ``"indexed"`` or ``"stream"``.
        num_batches: length of the first pass, in which each worker runs its copy where it is a stream. None: not known, or endless.
        stateful: whether it is told about epochs.
        sharded: whether each worker's copy gives only its part of the data.
    """

    kind: str
    num_batches: int | None
    stateful: bool
    sharded: bool


@dataclass(slots=True)
class _Copy:
    source: IndexedSource
    seeds: Reseeder
    epoch: int = -1  # built, and not told of any epoch
    used: bool = False  # has made an item
    warmed: int | None = None  # the epoch in which it has made item 0 before any other


class Copies:
    """The copies of one source in one worker.

    Args:
        make: builds the source; called under the build seed. See `Maker`.
        seed: the server's seed.
        slot: which of the workers of this source this is.
        slots: how many there are.
        incarnation: see `Runs`.
        ordered: see `Runs`.
        on_step: called before each call of the user's code. False: it builds a copy, which may take as long as it likes.
    """

    def __init__(
        self,
        make: Callable[[], IndexedSource | StreamSource],
        *,
        seed: int,
        slot: int,
        slots: int,
        incarnation: int = 0,
        ordered: bool = False,
        on_step: Callable[[bool], None] = lambda timed: None,
    ) -> None:
        self._make = make
        self._on_step = on_step
        self._seed = seed
        self._slot = slot
        self._slots = slots
        self._pristine: _Copy | StreamSource | None = None
        self._info: SourceInfo | None = None
        self._warm = False
        self._exclusive = False
        self._copies: dict[bytes, list[_Copy]] = {}
        self._runs = Runs(
            self._own_stream, seed=seed, slot=slot, slots=slots, incarnation=incarnation, ordered=ordered, on_step=on_step
        )  # fmt: skip

    def __repr__(self) -> str:
        epochs = {session.hex(): [copy.epoch for copy in copies] for session, copies in self._copies.items()}
        state = epochs or (self._runs if len(self._runs) else "no session")
        return f"<Copies slot {self._slot} of {self._slots}, {'warm' if self._pristine else 'cold'}, {state}>"

    def warm(self) -> None:
        """Build a copy for the next session, if there is none. For idle time."""
        if self._pristine is None:
            self._pristine = self._build()

    def info(self) -> SourceInfo:
        """Say what the source is; builds it if that hasn't been done."""
        if self._info is None:
            self.warm()
        return self._info  # type: ignore[return-value]  # _build sets it

    def mode(self, *, warm: bool, exclusive: bool, rebuild: bool) -> None:
        """Say how copies are used from now on.

        Args:
            warm: every copy makes item 0 of an epoch before any other: some draw the order of an epoch when the first item is made.
            exclusive: no two sessions share a copy, also where the source is told of no epochs: it has a state that nobody sees.
            rebuild: what was made so far is not to be used.
        """
        self._warm = warm
        if rebuild:
            self._copies.clear()
            self._pristine = None
        if exclusive and not self._exclusive and isinstance(self._pristine, _Copy) and self._pristine.used:
            self._copies.setdefault(PROBE, [self._pristine])  # the next session goes on with it
            self._pristine = None
        self._exclusive = exclusive

    def item(self, session: bytes, epoch: int, index: int) -> object:
        """Make item `index` of `epoch` for a session. The array may be the user's own: use it before the next call."""
        copy = self._at(session, epoch)
        self._warm_up(copy, (epoch, index))
        return self._make_item(copy, epoch, index)

    def _warm_up(self, copy: _Copy, then: tuple[int, int] | None = None) -> None:
        """Make item 0 of the epoch that a copy is in, if it has to be the first one there and isn't what is made `then`."""
        if self._warm and copy.warmed != copy.epoch:
            copy.warmed = copy.epoch
            epoch = max(copy.epoch, 0)  # a source that isn't told of epochs is always in its first
            if then != (epoch, 0):
                try:
                    self._make_item(copy, epoch, 0)
                except Exception as exc:  # whoever asks for item 0 is told
                    log.debug("making item 0 first failed: %s", exc)

    def _make_item(self, copy: _Copy, epoch: int, index: int) -> object:
        value = seeding.item_seed(self._seed, epoch, index)
        self._on_step(True)
        with copy.seeds.set_all(value):
            batch = copy.source.get(index)
        if not copy.used:
            copy.used = True
            if copy.seeds.look():
                self._on_step(True)
                with copy.seeds.set_all(value):
                    batch = copy.source.get(index)
        return batch

    def subject(self, session: bytes) -> object:
        """The user's object that makes the items of a session now; None for a stream."""
        copies = self._copies.get(session)
        copy = copies[-1] if copies else self._pristine
        return copy.source.subject if isinstance(copy, _Copy) else None

    def generators(self, session: bytes) -> list[str]:
        """The random generators of the user's own that are set for a session now, by name."""
        copies = self._copies.get(session)
        copy = copies[-1] if copies else self._pristine
        return copy.seeds.names if isinstance(copy, _Copy) else self._runs.generators(session)

    def num_batches_at(self, session: bytes, epoch: int) -> int | None:
        """Length of a pass. It may differ from epoch to epoch."""
        if self.info().kind == "stream":
            return self.info().num_batches
        return self._at(session, epoch).source.num_batches

    def drop(self, session: bytes) -> None:
        """Forget a session and its copies; they have been used, and aren't used again."""
        self._copies.pop(session, None)
        self._runs.drop(session)

    def _build(self) -> _Copy | StreamSource:
        value = seeding.build_seed(self._seed)
        self._on_step(False)
        seeding.seed_globals(value)
        with entropy.derived_from(value):
            source = self._make()
        if self._info is None:
            indexed = isinstance(source, IndexedSource)
            stateful = isinstance(source, IndexedSource) and source.stateful
            sharded = isinstance(source, StreamSource) and source.sharded
            self._info = SourceInfo("indexed" if indexed else "stream", self._pass_of(source), stateful, sharded)
        return _Copy(source, Reseeder(source)) if isinstance(source, IndexedSource) else source

    def _pass_of(self, source: IndexedSource | StreamSource) -> int | None:
        """Work out how many batches a pass has, of all workers together."""
        length = source.num_batches
        if length is None or isinstance(source, IndexedSource) or self._slots == 1:
            return length
        # Parts need not be of one length, and this worker knows only its own: so ends are counted.
        return None if source.sharded else length * self._slots

    def _take(self) -> _Copy | StreamSource:
        made, self._pristine = self._pristine, None
        return made if made is not None else self._build()

    # -- indexed ---------------------------------------------------------------------------------------------------------------

    def _at(self, session: bytes, epoch: int) -> _Copy:
        if self.info().kind != "indexed":
            raise TypeError("a stream has no items to ask for by number")
        if not (self.info().stateful or self._exclusive):
            self.warm()
            if not isinstance(self._pristine, _Copy):
                raise TypeError("the source became a stream")
            return self._pristine
        if session not in self._copies:
            self._copies[session] = self._copies.pop(PROBE, []) if session != PROBE else []
        copies = self._copies[session]
        copy = self._nearest(copies, epoch)
        if epoch - copy.epoch > MOST_REPLAYED:
            raise ValueError(
                f"epoch {epoch} is more than {MOST_REPLAYED} epochs after epoch {max(copy.epoch, 0)}, and each would be replayed"
            )
        try:
            while copy.epoch < epoch:
                # Some keep what they drew when they made the first item; a copy that comes late has to have drawn it too.
                if copy.epoch >= 0:
                    self._warm_up(copy)
                self._on_step(True)
                with copy.seeds.set_all(seeding.epoch_seed(self._seed, copy.epoch + 1)):
                    copy.source.advance(copy.epoch + 1)
                copy.epoch += 1
                copy.seeds.look()
        except BaseException:
            copies.remove(copy)  # half advanced; the next try starts from a new one
            raise
        copies.sort(key=lambda other: other.epoch)
        return copy

    def _nearest(self, copies: list[_Copy], epoch: int) -> _Copy:
        """Find the copy to bring to `epoch`, sorted as they are from old to new; makes one if all have gone past it."""
        behind = [copy for copy in copies if copy.epoch <= epoch]
        if behind:
            # The newest moves on, and the older one stays behind for what is asked for again.
            return behind[-1]
        made = self._take()
        if not isinstance(made, _Copy):
            raise TypeError("the source became a stream")
        del copies[:-1]
        copies.insert(0, made)
        return made

    # -- streams ---------------------------------------------------------------------------------------------------------------

    def next(self, session: bytes, run: int, place: int | None = None) -> object:
        """Make a batch of a run of a stream. See `Runs.next`."""
        return self._runs.next(session, run, place)

    def _own_stream(self) -> StreamSource:
        if self.info().kind != "stream":
            raise TypeError("an indexed source is asked for items by number")
        self.warm()
        source = self._pristine
        if isinstance(source, StreamSource) and not source.independent:
            source = self._take()
        if not isinstance(source, StreamSource):
            raise TypeError("the source stopped being a stream")
        return source
