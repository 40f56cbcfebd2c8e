"""Looks now and then whether a batch is overdue while workers are idle, and says in the log what was given to a second one."""

from __future__ import annotations

import logging

from feeder_server.dispatch import Dispatch
from feeder_server.sparing import Sparing
from feeder_server.work import Action

log = logging.getLogger("feeder.node")

PERIOD = 0.01
"""Seconds between two looks, so that a node with many quick batches does not spend its time on that."""
FIRST_WORDS = 10
"""Batches that have a line in the log each."""


class Hedging:
    """See the module.

    Args:
        dispatch: decides.
        on: False: never.
    """

    def __init__(self, dispatch: Dispatch, on: bool) -> None:
        self._dispatch = dispatch
        self._on = on
        self._next = 0.0
        self._lines = Sparing(FIRST_WORDS)  # a slow worker is slow all day

    def look(self, now: float) -> list[Action]:
        """Give overdue batches to idle workers; to be called after `Dispatch.assign`."""
        if not self._on or now < self._next:
            return []
        self._next = now + PERIOD
        actions, hedged = self._dispatch.hedge(now)
        for one in hedged:
            more = self._lines.next()
            if more is not None:
                epoch, index = one.key
                log.info(
                    "batch %d of epoch %d of source %r is overdue: worker %d has had it for %.2f s, %.2f s are usual; "
                    "worker %d makes it too%s",
                    *(index, epoch, one.source, one.slow, one.age, one.usual, one.other),
                    more,
                )
        return actions

    def patience(self, seconds: float, now: float) -> float:
        """How long the loop may wait for something to happen, at most `seconds`."""
        at = self._dispatch.hedge_at if self._on else None
        return seconds if at is None else min(seconds, max(PERIOD, at - now))
