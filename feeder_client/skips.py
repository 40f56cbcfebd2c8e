"""Batches that can't be had, with ``on_error="skip"``: counted against a budget, and reported at the end of the pass. No clock, no lock.

    Broken payload ──add()──▶ None: go on without it            ... report() at the end of the pass: one warning, with the errors
                         ╰──▶ the error to raise: the budget is used up

What is skipped counts as given, so the order, the length of an epoch and a saved position are what they would be without the error.
What is handed out instead is decided by who reads (core.py): nothing, where batches are iterated over; for Keras, which counts steps,
the batch before it by number (`stand_ins`), so that the same one comes on every run, also after a position was taken up again.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from enum import Enum

from feeder_client.order import Key
from feeder_wire.errors import BatchTimeout, ConfigError, FeederError, SourceError, UnsupportedBatch, WorkerCrashed

log = logging.getLogger("feeder.client")

SKIPPED = (SourceError, UnsupportedBatch, WorkerCrashed, BatchTimeout)
"""What a batch may be broken by. Anything else, such as a node that is out of reach or has no room, says nothing about the batch."""
DEFAULT_BUDGET = 0.05
FIRST_WORDS = 3
"""Batches of a pass that are logged at once; the others wait for the report."""
MOST_LINES = 20
_LONGEST_LINE = 300


class Missing(Enum):
    """What a reader wants in the place of a batch that can't be had."""

    RAISE = "the error"
    PASS_OVER = "nothing, and to be told so"
    STAND_IN = "another batch"


class Skipped(Exception):
    """There is no such batch, and nothing in its place."""


def budget_from(on_error: object, budget: object) -> int | float | None:
    """The budget meant by a user's ``on_error`` and ``skip_budget``; None: nothing is skipped. Raises ConfigError."""
    if on_error not in ("raise", "skip"):
        raise ConfigError(f"on_error={on_error!r:.80}: 'raise' or 'skip' is needed")
    if on_error == "raise":
        if budget is not None:
            raise ConfigError("skip_budget= says how many batches may be skipped, and on_error='raise' skips none: add on_error='skip'")
        return None
    if budget is None:
        return DEFAULT_BUDGET
    if type(budget) is int and budget >= 0:
        return budget
    if type(budget) is float and 0 < budget <= 1:
        return budget
    raise ConfigError(
        f"skip_budget={budget!r:.80}: a number of batches (an int from 0 on) or a share of a pass (a float up to 1.0) is needed"
    )


class Skips:
    """See the module. One pass at a time.

    Args:
        source: its name.
        budget: batches of a pass (int), or a share of them (float), but one at least.
    """

    def __init__(self, source: str, budget: int | float) -> None:
        self._source, self._budget = source, budget
        self._pass = 0
        self._lines: list[str] = []
        self._counted = 0
        self._spent: FeederError | None = None  # the budget is used up
        self._known: dict[Key, FeederError] = {}
        self._keys: set[Key] = set()

    def enter(self, number: int) -> None:
        """Batches of this pass are asked for from now on. If it is another one, what was skipped of the one before is reported."""
        if number != self._pass:
            self.report()
            self._pass, self._counted, self._spent = number, 0, None
            self._known.clear()
            self._keys.clear()

    def known(self, key: Key) -> FeederError | None:
        """The error of a batch of this pass, if it is known already."""
        return self._known.get(key)

    def note(self, key: Key, error: FeederError) -> None:
        """A batch was found to be broken before its turn, because it was to stand in for another one."""
        self._known[key] = error

    def add(self, key: Key | None, error: FeederError, length: int | None, given: int) -> bool:
        """Skip a batch. Says whether it is a new one, and not asked for again.

        Args:
            key: of the batch; None: it has no name.
            error: why it can't be had.
            length: of the pass; None: not known.
            given: batches of it that were asked for so far.

        Raises:
            FeederError: `error`, as the budget is used up.
        """
        if key is not None:
            self._known[key] = error
            if key in self._keys:
                return False
            self._keys.add(key)
        allowed = self.allowed(length, given)
        if self._counted >= allowed:
            if key is not None:
                self._keys.discard(key)  # asked for again, it is again one too many
            text = f"{self._counted} batches of this pass were skipped, and skip_budget={self._budget!r} allows no more; the next error:"
            raise type(error)(f"{text} {error}") from error
        self._counted += 1
        line = str(error).partition("\n")[0]
        line = line if len(line) <= _LONGEST_LINE else line[:_LONGEST_LINE] + "..."
        self._lines.append(f"{type(error).__name__}: {line}")
        if self._counted <= FIRST_WORDS:
            more = "; more of this pass are only reported at its end" if self._counted == FIRST_WORDS else ""
            log.warning("skipped %s%s", self._lines[-1], more)
        return True

    def allowed(self, length: int | None, given: int) -> int:
        """How many batches of a pass may be skipped."""
        if isinstance(self._budget, int):
            return self._budget
        return max(1, int(self._budget * (given if length is None else length) + 1e-9))

    def report(self) -> None:
        """Log what was skipped since the last report."""
        lines, self._lines = self._lines, []
        if not lines:
            return
        shown = [f"    {line}" for line in lines[:MOST_LINES]]
        if len(lines) > MOST_LINES:
            shown.append(f"    and {len(lines) - MOST_LINES} more")
        count = "1 batch" if len(lines) == 1 else f"{len(lines)} batches"
        log.warning("%s of pass %d over source %r could not be had and %s skipped:\n%s", count, self._pass + 1, self._source,
                    "was" if len(lines) == 1 else "were", "\n".join(shown))  # fmt: skip


def stand_ins(key: Key, length: int | None) -> Iterator[Key]:
    """What may be handed out in the place of `key`, best first: the batches before it by number, from the last one on again at 0."""
    epoch, index = key
    after: Iterator[int] = itertools.count(index + 1) if length is None else iter(range(length - 1, index, -1))
    return ((epoch, other) for other in itertools.chain(range(index - 1, -1, -1), after))
