"""The books of one trainer: what was to come, what has come, and what of it was lost, doubled or wrong. No clock, no I/O.

    passes (digests, from the reference) ──▶ Book.came(digest) ... Book.back_to(count) after a restart ... Book.end()

A trainer that was killed goes on at its last saved position: what came after that was given to nobody who still lives, and has to come
again. `back_to` goes back to that place, and what came before it still counts as given.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

MOST_NOTES = 20


@dataclass(slots=True)
class Book:
    """See the module.

    Args:
        name: of the trainer.
        pass_of: the digests of a pass, in their order.
        ordered: whether they have to come in that order; else each pass is a multiset, and passes don't mix.
    """

    name: str
    pass_of: Callable[[int], Sequence[str]]
    ordered: bool
    delivered: int = 0  # in all, also what came again after a restart
    lost: int = 0
    doubled: int = 0
    wrong: int = 0
    notes: list[str] = field(default_factory=list)  # what exactly
    _given: list[str] = field(default_factory=list)
    _number: int = 0  # of the pass
    _owed: Counter[str] = field(default_factory=Counter)  # unordered: of the pass
    _place: int = 0  # ordered: in the pass

    def __post_init__(self) -> None:
        self._open(0)

    @property
    def given(self) -> int:
        """Batches that the trainer has had, without those that came again."""
        return len(self._given)

    def came(self, digest: str) -> None:
        """A batch came."""
        self.delivered += 1
        self._given.append(digest)
        self._take(digest, counts=True)

    def corrupted(self, digest: str) -> None:
        """A batch that the trainer still holds is another one now."""
        self.wrong += 1
        self._note(f"a batch that is held has changed: {digest}")

    def back_to(self, count: int) -> None:
        """The trainer goes on after `count` batches."""
        if count > len(self._given):
            self.lost += count - len(self._given)
            self._note(f"position {count} was saved, and {len(self._given)} batches came")
        del self._given[count:]
        self._number = 0
        self._open(0)
        for digest in self._given:
            self._take(digest, counts=False)

    def end(self) -> None:
        """The trainer has come to the end of a pass, and to its own."""
        if not self._begun():
            return
        missing = self._missing()
        self.lost += missing
        if missing:
            self._note(f"pass {self._number} ended without {missing} batches")

    def _open(self, number: int) -> None:
        self._number, self._place = number, 0
        self._owed = Counter() if self.ordered else Counter(self.pass_of(number))

    def _begun(self) -> bool:
        if self.ordered:
            return self._place > 0
        return self._owed.total() < len(self.pass_of(self._number))

    def _missing(self) -> int:
        return len(self.pass_of(self._number)) - self._place if self.ordered else self._owed.total()

    def _take(self, digest: str, counts: bool) -> None:
        while self._begun() and not self._missing():
            self._open(self._number + 1)
        if self._fits(digest):
            return
        lost, doubled, wrong = self._judge(digest)
        if counts:
            self.lost, self.doubled, self.wrong = self.lost + lost, self.doubled + doubled, self.wrong + wrong

    def _fits(self, digest: str) -> bool:
        if self.ordered:
            expected = self.pass_of(self._number)
            if self._place < len(expected) and expected[self._place] == digest:
                self._place += 1
                return True
            return False
        if self._owed[digest] > 0:
            self._owed[digest] -= 1
            return True
        return False

    def _judge(self, digest: str) -> tuple[int, int, int]:
        """Something else came than was to come: (lost, doubled, wrong)."""
        where = f"pass {self._number}, batch {len(self._given) - 1} of the training"
        expected = self.pass_of(self._number)
        if self.ordered and digest in expected[self._place :]:
            place = list(expected).index(digest, self._place)
            lost, self._place = place - self._place, place + 1
            self._note(f"{where}: {lost} batches before it are missing")
            return lost, 0, 0
        following = self.pass_of(self._number + 1)
        if digest in following:
            lost = self._missing()
            self._open(self._number + 1)
            self._note(f"{where}: the next pass begins, and {lost} batches are missing")
            if not self._fits(digest):
                more = self._judge(digest)
                return lost + more[0], more[1], more[2]
            return lost, 0, 0
        if digest in expected or any(digest in self.pass_of(number) for number in range(max(0, self._number - 3), self._number)):
            self._note(f"{where}: {digest} came before")
            return 0, 1, 0
        self._note(f"{where}: {digest} is nothing that was to come")
        return 0, 0, 1

    def _note(self, text: str) -> None:
        if len(self.notes) < MOST_NOTES:
            self.notes.append(f"{self.name}: {text}")
