"""Which workers take too long over one batch. PURE: the time is an argument.

    beacons (what each worker is at) ──look()──▶ the workers to be killed

A worker is given its time for each *step*: a batch, or an epoch or a batch before it that has to be made to get there (beacon.py).
Tasks that wait in its queue cost it nothing. The time counts from the first look that finds it at a step, so it may get a little more,
never less. Looks far apart mean that this process stood still (a closed laptop, a paused container), and mostly the workers with it: of
such a gap only `LONGEST_GAP` counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from feeder_server.work import Slot
from feeder_wire.beacon import UNTIMED

LONGEST_GAP = 2.0

Step: TypeAlias = tuple[int, int]
"""Task, and step of it."""


class Overdue:
    """Watches the workers of a node.

    Args:
        timeout: seconds for one step.

    Attributes:
        period: seconds between two looks.
    """

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self.period = min(1.0, max(0.05, timeout / 10))
        self._spent: dict[int, tuple[tuple[int, Step], float]] = {}  # slot -> what it is at, and for how long it was seen at it
        self._last = 0.0

    def look(self, slots: Sequence[Slot], steps: Mapping[int, Step | None], now: float) -> list[tuple[int, int]]:
        """Say whose time is up, as (slot, task).

        Args:
            slots: the workers.
            steps: per slot what its beacon says; None: nothing.
            now: of a monotonic clock.
        """
        gap, self._last = min(now - self._last, LONGEST_GAP), now
        before, self._spent = self._spent, {}
        late = []
        for number, slot in enumerate(slots):
            step = _timed(slot, steps.get(number))
            if step is None:
                continue
            doing = (slot.generation, step)
            known, spent = before.get(number, (None, 0.0))
            spent = spent + gap if known == doing else 0.0
            if spent > self.timeout:
                late.append((number, step[0]))
            else:
                self._spent[number] = doing, spent
        return late


def _timed(slot: Slot, step: Step | None) -> Step | None:
    """What a worker is at, if its time counts."""
    if not slot.jobs:
        return None
    if step is None:
        # Where no beacon can be written, it is taken to be at what it was given first.
        return next(iter(slot.jobs)), UNTIMED
    return step if step[1] != UNTIMED and step[0] in slot.jobs else None
