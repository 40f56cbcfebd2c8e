"""What has taken too long, of what the workers of a node are at. PURE: the time is an argument."""

from __future__ import annotations

from collections.abc import Sequence

from feeder_server.work import Slot

NOBODY = -1


class Patience:
    """Watches the workers of one source. Whatever one of them begins anew has `timeout` seconds."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._since: dict[int, tuple[object, float]] = {}

    def late(self, slots: Sequence[Slot], stream: bool, now: float) -> str:
        """Say who has been at what for too long; empty where nobody has.

        Args:
            slots: the workers.
            stream: whether they make batches of a stream, which have no numbers.
            now: of a monotonic clock.
        """
        at = {number: _doing(slot) for number, slot in enumerate(slots)}
        # Nobody has anything to do, and something is waited for: that is no fault of the user's, and must end as well.
        at[NOBODY] = None if any(at.values()) else "idle"
        for number, doing in at.items():
            before = self._since.get(number)
            if before is None or before[0] != doing:
                self._since[number] = doing, now
            elif doing is not None and now - before[1] > self._timeout:
                return self._said(number, slots, stream)
        return ""

    def _said(self, number: int, slots: Sequence[Slot], stream: bool) -> str:
        if number == NOBODY:
            return f"nothing has happened for {self._timeout:g} s, and no worker has anything to do"
        if not slots[number].ready:
            return f"worker {number} has been loading the source for {self._timeout:g} s"
        epoch, index = next(iter(slots[number].jobs.values())).key
        what = "a batch" if stream else f"batch {index}"
        return f"worker {number} has been making {what} of pass {epoch + 1} for {self._timeout:g} s"


def _doing(slot: Slot) -> object:
    """What a worker is at, in a form that changes when it begins something else; None: nothing."""
    if not slot.ready:
        return "loading", slot.generation
    return ("making", next(iter(slot.jobs))) if slot.jobs else None
