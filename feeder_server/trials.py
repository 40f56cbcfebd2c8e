"""The comparisons of a node's sources, and the batches that were made for them: those wait here for whoever asks. PURE.

A batch that was made by a worker of which it isn't known yet whether its copies agree is *held*; it may be served once the worker is
admitted, and until then nobody else is given the same work (`reserved`). One that may be served and that nobody has asked for is *kept*.
"""

from __future__ import annotations

from typing import TypeAlias

from feeder_server import sample
from feeder_server.ledger import Ledger, Settled
from feeder_server.probe import Probe
from feeder_server.work import Key, Session, Source
from feeder_wire import messages as m
from feeder_wire import worker_messages as w

PROBE = bytes(16)
"""The session in whose name copies are compared, as in copies.py."""
HELD = b"held"
"""Who holds a block that nobody has asked for yet; no client: their ids are longer."""

Made: TypeAlias = w.Made | w.MadeBlock


class Trials:
    """See the module.

    Args:
        sources: the named sources; what is found out is written into them.
        ledger: where blocks are accounted for.
        on_divergence: see `Probe`.
        probing: whether anything is compared.

    Attributes:
        probes: of each source.
        reserved: per source the items that are being made for a comparison, and will be served.
        sessions: in whose names they are made, per source.
        void: the session of what is not to be used.
    """

    def __init__(self, sources: list[Source], ledger: Ledger, on_divergence: str, probing: bool) -> None:
        self.probes = [Probe(s.name, s.slots, on_divergence, off=not probing) for s in sources]
        self.reserved: list[set[int]] = [set() for _ in sources]
        self.sessions = [Session(PROBE, number, HELD, True) for number in range(len(sources))]
        self.void = Session(PROBE[:-1] + b"v", -1, HELD, True)
        self._sources = sources
        self._ledger = ledger
        self._held: dict[tuple[int, int], tuple[int, Made]] = {}  # (source, index) -> slot, batch
        self._kept: dict[tuple[int, int], Made] = {}
        self._told: list[tuple[str, bool]] = [("", False)] * len(sources)

    def next_keys(self, session: Session) -> tuple[Key | None, Key | None]:
        """The first thing a session waits for that is to be made now: by the owner, and by another worker that serves.

        What is being made for the comparison is left to who makes it, with one exception: should it show that items depend on what was
        made before, the owner has to have made them in the order in which they were asked for, or a pass would lack samples. So the
        owner passes over nothing but what it makes itself; and what others make isn't waited for longer than until the owner comes to it.
        """
        reserved = self.reserved[session.source]
        if not reserved:
            return session.queue[0], session.queue[0]
        first = next((key for key in session.queue if key[0] or key[1] > 1 or key[1] not in reserved), None)
        return first, next((key for key in session.queue if key[0] or key[1] not in reserved), None)

    def claim(self, number: int, key: Key) -> None:
        """A session gets this from a worker that serves: what is made of it for the comparison isn't needed."""
        if key[0] == 0:
            self.reserved[number].discard(key[1])

    def take(self, number: int, key: Key) -> Made | None:
        """A batch that was kept, for whoever asks first."""
        return self._kept.pop((number, key[1]), None) if key[0] == 0 else None

    def keep(self, number: int, index: int, message: Made) -> Settled:
        """A batch that may be served, and that nobody has asked for."""
        if (number, index) in self._kept:
            return self._drop(message)
        self._kept[number, index] = message
        return Settled()

    def hold(self, number: int, index: int, slot: int, message: Made) -> Settled:
        """A batch of a worker that isn't admitted yet. Item 0 is made by all of them, and served by the owner."""
        if (number, index) in self._kept:  # two workers with a short source may have made the same one
            self.reserved[number].discard(index)
        if index not in self.reserved[number] or (number, index) in self._held:
            return self._drop(message)
        self._held[number, index] = (slot, message)
        return Settled()

    def admit(self, number: int, slot: int) -> list[tuple[int, Made]]:
        """What this worker's batches were held for: they may be served."""
        mine = [key for key, (holder, _) in self._held.items() if key[0] == number and holder == slot]
        return [(key[1], self._held.pop(key)[1]) for key in mine]

    def reject(self, number: int, slot: int) -> Settled:
        """This worker's held batches are not to be used."""
        out = Settled()
        for key in [key for key, (holder, _) in self._held.items() if key[0] == number and holder == slot]:
            self.reserved[number].discard(key[1])
            _merge(out, self._drop(self._held.pop(key)[1]))
        return out

    def forget(self, number: int) -> Settled:
        """Nobody will ask for what was kept: training has come to another epoch."""
        out = Settled()
        for key in [key for key in self._kept if key[0] == number]:
            _merge(out, self._drop(self._kept.pop(key)))
        return out

    def describe(self, number: int, text: str) -> None:
        """A worker has described a batch; the first description stays."""
        source = self._sources[number]
        if source.sample is None:
            source.sample = sample.from_text(text)

    def settle(self, number: int) -> bool:
        """Write what the probe knows into the source. Says whether there is news for clients."""
        probe, source = self.probes[number], self._sources[number]
        source.outcome, source.outcome_text, source.warm = probe.outcome, probe.text, probe.warm
        source.exclusive = probe.alone
        news = (probe.outcome, probe.identified)
        changed = news != self._told[number]
        self._told[number] = news
        return changed

    def verdict(self, session: Session) -> m.Verdict:
        """What a client is told."""
        probe = self.probes[session.source]
        return m.Verdict(session.id, probe.outcome, probe.text, probe.costs, probe.identified, probe.leaves or ())

    def _drop(self, message: Made) -> Settled:
        return self._ledger.settle((message.block,), HELD) if isinstance(message, w.MadeBlock) else Settled()


def _merge(into: Settled, more: Settled) -> None:
    for slot, names in more.free.items():
        into.free[slot] += names
    for slot, names in more.retire.items():
        into.retire[slot] += names
    into.remove += more.remove
