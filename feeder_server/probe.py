"""Do the copies of a source agree? PURE: worker events in, steps out.

    loaded ──▶ [Try ...] ──looked──▶ compare ──▶ Admit | Rebuild everybody, warm | Rule it out

The first worker that has loaded a source is its *owner*: what it makes is right by definition, so it serves at once, and begins with
items 0 and 1. Every other worker first makes an item that is none of these, then item 0, and is compared with the owner's:

    all leaves equal        it serves as well; the source is reproducible
    else                    some draw an epoch's order when they make its first item. So all copies are built anew and make item 0 first in
                            each epoch (the owner has done so), then another one, then item 1, which is compared
    all equal now           it serves, and all copies go on to make item 0 first
    a leaf that carries     it serves as well: the order agrees, only the augmentation doesn't
    information equal
    none                    the item depends on what was made before it: one worker, the owner, serves alone

Nobody waits for this but the worker that is compared, and what is made for it is served. A worker that replaces another is compared
with what the owner once made. With one worker there is nothing to compare, and only item 0 is made, to be looked at.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TypeAlias

from feeder_wire.leaves import Leaf, compare, listed
from feeder_wire.words import SINGLE as SINGLE

PARALLEL = "parallel"
NOT_REPRODUCIBLE = "not reproducible"
WARMED = "warmed"
DIVERGENT = "divergent"
UNVERIFIED = "unverified"
ALONE = "one worker"
STREAM = "stream"


@dataclass(frozen=True, slots=True)
class Try:
    """Let the worker in `slot` make item `index` of epoch 0; where `look`, report what it looks like."""

    slot: int
    index: int
    look: bool


@dataclass(frozen=True, slots=True)
class Admit:
    """The worker in `slot` may serve the source."""

    slot: int


@dataclass(frozen=True, slots=True)
class Rebuild:
    """The worker in `slot` may not serve, forgets its copies, and from now on makes item 0 first."""

    slot: int


@dataclass(frozen=True, slots=True)
class Reject:
    """The worker in `slot` will not serve the source."""

    slot: int


@dataclass(frozen=True, slots=True)
class Warm:
    """The worker in `slot` makes item 0 of an epoch before any other, or doesn't have to any more."""

    slot: int
    on: bool


Step: TypeAlias = Warm | Try | Admit | Rebuild | Reject
Leaves: TypeAlias = tuple[Leaf, ...]


class Probe:
    """The comparison of one source's copies.

    Args:
        name: of the source.
        slots: workers that may serve it.
        policy: ``"single"``, ``"parallel"`` or ``"error"``: what to do if the copies disagree.
        off: compare nothing.

    Attributes:
        outcome: one of the words above; empty while it isn't known.
        text: the same in a sentence or two, with the cure.
        costs: whether it costs the user parallelism or reproducibility.
        leaves: of the owner's item 0; None while they aren't known.
        warm: whether copies have to make item 0 of an epoch first.
        diverged: whether the copies disagree.
    """

    def __init__(self, name: str, slots: Collection[int], policy: str = SINGLE, off: bool = False) -> None:
        self._name, self._slots, self._policy = name, frozenset(slots), policy
        self.outcome = self.text = ""
        self.costs = self.warm = self.diverged = False
        self.leaves: Leaves | None = None
        self.owner: int | None = None
        self._stream = False
        self._length: int | None = None
        self._next: Leaves | None = None  # the owner's item 1
        self._present: list[int] = []
        self._admitted: set[int] = set()
        self._compared: set[int] = set()
        self._waiting: dict[int, Leaves] = {}  # what a worker made for the comparison, where the owner hasn't made it yet
        self._differing: tuple[str, ...] = ()
        self._plain: tuple[str, ...] | None = None  # what differed before all made item 0 first, where the rest was alike
        self._changed: tuple[str, ...] = ()
        self._off = off
        self._expected = self._slots

    @property
    def identified(self) -> bool:
        """Whether `leaves` are there, or never will be."""
        return self.leaves is not None or self._off or self._stream or self._length == 0

    @property
    def alone(self) -> bool:
        """Whether the owner serves alone."""
        return self.diverged and self._policy == SINGLE

    def expect(self, count: int) -> None:
        """Only the slots below `count` have a worker at present. What these show is taken for the whole; later ones are compared, too."""
        self._expected = frozenset(slot for slot in self._slots if slot < count)

    # ------------------------------------------------------------------------------------------------------------- events

    def loaded(self, slot: int, *, stream: bool, length: int | None) -> list[Step]:
        """A worker has loaded the source. `length`: batches of a pass; None: endless."""
        self._present.append(slot)
        self._length = length
        if stream or length == 0 or self._off:
            self._stream = stream
            if stream:
                self._conclude(STREAM, "")
            return self._admit(slot)
        if self.alone:
            return self._admit(slot) if slot == self.owner else [Reject(slot)]
        if self.owner is None:
            return self._own(slot)
        # A worker knows nothing of what the one before it was told, or of what was found out while it loaded.
        if slot == self.owner:
            return [Warm(slot, self.warm or not self.outcome), *self._admit(slot)]
        return [Warm(slot, self.warm), *self._try(slot)]

    def looked(self, slot: int, index: int, leaves: Leaves, changed: tuple[str, ...] = ()) -> list[Step]:
        """A worker reports an item."""
        self._changed = self._changed or changed
        if self._off or self.alone:
            return []
        if slot == self.owner:
            if index == 0:
                self.leaves = leaves
                if len(self._slots) == 1:
                    self._conclude(ALONE, "one worker makes everything, so nothing was compared")
            else:
                self._next = leaves
        elif slot not in self._compared and index == self._compared_index():
            self._waiting[slot] = leaves
        steps: list[Step] = []
        for waiting in list(self._waiting):
            theirs = self._waiting.get(waiting)
            ours = self._next if self._compared_index() else self.leaves
            if theirs is not None and ours is not None:
                del self._waiting[waiting]
                steps += self._compare(waiting, ours, theirs)
        return steps

    def lost(self, slot: int, trying: bool) -> list[Step]:
        """A worker died. `trying`: it had not yet made what it was compared by."""
        if slot in self._present:
            self._present.remove(slot)
        self._admitted.discard(slot)
        self._compared.discard(slot)
        self._waiting.pop(slot, None)
        if self._stream or self._off:
            return []
        if trying:
            return self._give_up(f"worker {slot} died while it made an item for the comparison")
        return []

    def failed(self, slot: int, why: str) -> list[Step]:
        """What was to be compared raised."""
        return [] if self._off or self.diverged else self._give_up(f"worker {slot} could not make an item: {why}")

    # ------------------------------------------------------------------------------------------------------------ helpers

    def _own(self, slot: int) -> list[Step]:
        self.owner = slot
        self._compared.add(slot)
        steps = [*self._admit(slot), Try(slot, 0, True)]
        if len(self._slots) > 1 and self._length != 1:
            # Until it is known that it needn't: what the owner makes is right by definition, also if all have to do so.
            steps = [Warm(slot, True), *steps, Try(slot, 1, True)]
        return steps

    def _try(self, slot: int) -> list[Step]:
        self._compared.discard(slot)
        first, then = self._spare(slot), self._compared_index()
        before = [0, first] if self.warm else [first]
        return [*(Try(slot, index, False) for index in before), Try(slot, then, True)]

    def _compared_index(self) -> int:
        return 1 if self.warm else 0

    def _spare(self, slot: int) -> int:
        """An item to make first: for each worker another one, so that all can be served; with a short source any.

        Not item 2 where there are others: the owner comes to that before the comparison is over.
        """
        n = self._length
        place = 3 + sorted(self._slots - {self.owner}).index(slot)
        if n is None or place < n:
            return place
        return 0 if n == 1 else 1 + place % (n - 1) if not self.warm else (2 + place % (n - 2) if n > 2 else 0)

    def _compare(self, slot: int, ours: Leaves, theirs: Leaves) -> list[Step]:
        found = compare(ours, theirs)
        if not found.equal and not self.warm and self._length != 1 and not (self.outcome and found.alike):
            # Also where they are alike, until it is known better: what is equal may be noise from the same seed, and what differs the
            # samples.
            self.warm = True
            self._plain = found.differing if found.alike else None
            self._waiting.clear()
            steps: list[Step] = []
            for other in [s for s in self._present if s != self.owner]:
                self._admitted.discard(other)
                steps += [Rebuild(other), *self._try(other)]
            return steps
        if not found.alike:
            return self._diverge(found.differing)
        self._compared.add(slot)
        self._differing = self._differing or found.differing
        return self._admit(slot) + self._conclude_if_compared()

    def _diverge(self, differing: tuple[str, ...]) -> list[Step]:
        self.diverged = True
        self._waiting.clear()
        why = f"the copies of source {self._name!r} disagree: workers that made the same item got different data in {listed(differing)}"
        if self._changed:
            why += f"; making an item changes {listed([f'self.{name}' for name in self._changed])}"
        cure = "Let item i depend on i and the epoch alone (shuffle in on_epoch_end; draw from numpy.random, or feeder_server.rng())"
        if self._policy == SINGLE:
            self.warm = False
            self._conclude(SINGLE, f"{why}. So one worker makes all of it, one after the other. {cure}", costs=True)
            return [Warm(slot, False) if slot == self.owner else Reject(slot) for slot in self._present]
        served = "With --on-divergence parallel all workers serve it: samples come twice or never"
        text = f"{why}. {served if self._policy == PARALLEL else 'With --on-divergence error that ends the server'}. {cure}"
        self._conclude(DIVERGENT, text, costs=True)
        self._off = self._policy == PARALLEL
        return self._admit_all() if self._off else []

    def _give_up(self, why: str) -> list[Step]:
        self._off = True
        self.leaves = self.leaves or ()
        self._waiting.clear()
        self._conclude(UNVERIFIED, f"whether the copies of source {self._name!r} agree is not known: {why}")
        return self._admit_all()

    def _admit_all(self) -> list[Step]:
        # The owner has made item 0 first so far, and all have to do the same from now on.
        alike: list[Step] = [Warm(slot, self.warm) for slot in self._present if slot == self.owner and len(self._slots) > 1]
        return alike + [step for slot in self._present for step in self._admit(slot)]

    def _admit(self, slot: int) -> list[Step]:
        if slot in self._admitted:
            return []
        self._admitted.add(slot)
        return [Admit(slot)]

    def _conclude_if_compared(self) -> list[Step]:
        if not self._expected <= self._compared or len(self._compared) < 2 or self.outcome:
            return []
        cure = "draw from numpy.random, from feeder_server.rng(), or give the source a method reseed(seed)"
        cold: list[Step] = []
        if not self.warm or (self._differing and self._differing == self._plain):  # then making item 0 first was of no use
            self.warm = False
            cold = [Warm(slot, False) for slot in self._present]
        if self._differing:
            text = (
                f"the copies of source {self._name!r} agree in the order of the samples, but {listed(self._differing)} differs between "
                f"workers that made the same item: every sample comes once, and another run gets other numbers. To change that, {cure}"
            )
            self._conclude(NOT_REPRODUCIBLE, text, costs=True)
        elif self.warm:
            text = (
                f"the order of source {self._name!r} is drawn when the first item is made, so every worker makes item 0 of an epoch first"
            )
            self._conclude(WARMED, text)
        else:
            self._conclude(PARALLEL, f"the copies of source {self._name!r} agree: any worker makes any batch, with the same bytes")
        return cold

    def _conclude(self, outcome: str, text: str, costs: bool = False) -> None:
        self.outcome, self.text, self.costs = outcome, text, costs
