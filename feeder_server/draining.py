"""The end of a node that was asked politely: what it has begun it finishes, what it has not begun goes back to the clients.

    ask() ─▶ queues are handed back ─▶ what is under way is made and sent ─▶ Goodbye ─▶ clients leave ─▶ the loop may end

Each step has an end: a batch that takes for ever is left after the time that was given, and a client that does not answer after a second.
"""

from __future__ import annotations

import logging

from feeder_server.dispatch import Dispatch
from feeder_server.gate import Gate
from feeder_server.work import Action
from feeder_wire import messages as m

log = logging.getLogger("feeder.node")

LEAVE_SECONDS = 1.0
"""For clients to map what was lent to them last, and to leave."""


class Drain:
    """See the module.

    Args:
        seconds: for what is under way.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.reason: str | None = None  # set from signal handlers
        self._until: float | None = None
        self._leaving = False

    def ask(self, reason: str) -> None:
        """Begin; from any thread or signal handler."""
        self.reason = self.reason or reason

    def begin(self, dispatch: Dispatch, now: float) -> list[Action]:
        """What is to be done first, once it was asked for."""
        if self.reason is None or self._until is not None:
            return []
        self._until = now + self._seconds
        actions, left, given = dispatch.drain()
        if left or given:
            log.info("finishing: %d batches are under way, %d go back to their clients", left, given)
        return actions

    def done(self, dispatch: Dispatch, gate: Gate, now: float) -> bool:
        """Is all said and done? To be asked after everything was sent."""
        if self._until is None:
            return False
        if not self._leaving:
            if (dispatch.busy or gate.busy) and now < self._until:
                return False
            if dispatch.busy:
                log.warning("not finished in %g s (--drain-timeout): the rest is left to others", self._seconds)
            self._leaving, self._until = True, now + LEAVE_SECONDS
            gate.say_goodbye(m.Goodbye("", self.reason or ""))
        return not gate.peers or now >= self._until
