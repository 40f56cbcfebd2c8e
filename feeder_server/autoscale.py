"""How many workers are enough? PURE: what was measured over a while in, how many are wanted out.

    one ──▶ does the training wait for data? ── yes ──▶ more, half as many again; back if that made nothing quicker
                          └── no ──▶ would fewer do? ── yes, twice in a row ──▶ as many as have something to do

What more workers are good for is judged by what they *can* make (their number by the seconds of a batch), not by what was taken: a
training that pauses, to evaluate or to save, must not look like workers that stand in each other's way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

INPUT_BOUND = 0.1
"""Share of the time that the training waits for data, from which on more workers are tried. Less is the jitter of any training."""
HELPED = 0.3
"""Share of the gain that more workers would bring at best, which they have to bring."""
BUSY = 0.8
"""Share of the time that workers may be busy, before one more is kept."""
FIRST_HOLD, LONGEST_HOLD = 120.0, 3600.0
"""Seconds until more are tried again that were of no use. It doubles each time: the load of a machine changes, but not every minute."""
FIRST_REST = 600.0
"""The same for fewer, which the training has missed: a training that pauses often looks as if it needed less than it does."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What happened while the number of workers was what it is.

    Attributes:
        seconds: how long that was.
        waited: for how many of them the training stood still; of several trainings, the one that waited longest.
        batches: made.
        worked: seconds that workers took for those, in sum.
    """

    seconds: float
    waited: float
    batches: int
    worked: float


class Autoscale:
    """See the module. Times are of a monotonic clock, in seconds.

    Attributes:
        wanted: how many workers there should be.
    """

    def __init__(self) -> None:
        self.wanted = 1
        self._before: tuple[int, float] | None = None  # how many there were before the last addition, and what they could make
        self._fewer_than: int | None = None  # how many there were before some were let go
        self._idle_looks = 0
        self._hold_more, self._hold_fewer = FIRST_HOLD, FIRST_REST
        self._more_at = self._fewer_at = 0.0
        self._said_most = False

    def decide(self, found: Measured, most: int, now: float) -> str | None:
        """Change `wanted`, to at most `most`. Returns why, for the log; None: nothing to say."""
        share = found.waited / found.seconds
        bound = share > INPUT_BOUND
        capacity = self.wanted * found.batches / max(found.worked, 1e-9)
        before, self._before = self._before, None
        if before is not None and bound and capacity < before[1] * (1 + HELPED * (self.wanted / before[0] - 1)):
            return self._back(*before, capacity, now)
        if bound:
            self._idle_looks = 0
            return self._more(share, capacity, most, now)
        self._fewer_than, self._said_most = None, False
        return self._fewer(found, now)

    def limit(self, most: int) -> bool:
        """No more than these are of any use. Says whether that is news."""
        if self.wanted <= most:
            return False
        self.wanted, self._before, self._fewer_than = most, None, None
        return True

    def _back(self, workers: int, could: float, can: float, now: float) -> str:
        tried, self.wanted = self.wanted, workers
        self._more_at, self._hold_more = now + self._hold_more, min(LONGEST_HOLD, 2 * self._hold_more)
        return (
            f"{tried} workers make {can:.3g} batches/s and {workers} made {could:.3g}: back to {workers}. The training waits for data all "
            "the same: the limit is what they share, such as cores, a disk or a lock"
        )

    def _more(self, share: float, capacity: float, most: int, now: float) -> str | None:
        if self._fewer_than is not None:  # they were not that idle
            self.wanted, self._fewer_than = min(self._fewer_than, most), None
            self._fewer_at, self._hold_fewer = now + self._hold_fewer, min(LONGEST_HOLD, 2 * self._hold_fewer)
            return f"{self.wanted} workers again: with fewer the training waited for data {share:.0%} of the time"
        if self.wanted >= most:
            if self._said_most:
                return None
            self._said_most = True
            return f"the training waits for data {share:.0%} of the time, and there is no room for more than {most} workers on this machine"
        if now < self._more_at:
            return None
        self._before = self.wanted, capacity
        self.wanted = min(most, self.wanted + max(1, self.wanted // 2))
        return f"{self.wanted} workers instead of {self._before[0]}: the training waits for data {share:.0%} of the time"

    def _fewer(self, found: Measured, now: float) -> str | None:
        needed = max(1, math.ceil(found.worked / found.seconds / BUSY))
        if needed >= self.wanted or now < self._fewer_at:
            self._idle_looks = 0
            return None
        self._idle_looks += 1
        if self._idle_looks < 2:
            return None
        self._idle_looks = 0
        self._fewer_than, self.wanted = self.wanted, needed
        return f"{needed} workers instead of {self._fewer_than}: the others have nothing to do, the training is the limit"
