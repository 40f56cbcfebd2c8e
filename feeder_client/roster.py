"""The nodes of one client: who is there, since when, and what is wrong with the others. No lock: core.py holds one."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass

from feeder_wire.errors import FeederError, NodeUnreachable, ProtocolError
from feeder_wire.messages import Opened

log = logging.getLogger("feeder.client")


@dataclass(slots=True)
class NodeState:
    """A node, as this client knows it."""

    endpoint: str
    since: float  # when it came, or was last there
    connected: bool = False
    opened: Opened | None = None
    error: FeederError | None = None
    progress: str = ""
    talked_nonsense: bool = False
    said: str = ""  # of its errors, the last that was logged since it served
    outcome: str = ""  # of comparing its copies of the source, a word of the node's


class Roster:
    """See the module.

    Args:
        endpoints: of the nodes.
        connect_timeout: how long a node may be out of reach while nothing else serves.
        now: time of a monotonic clock, as in all methods.
    """

    def __init__(self, endpoints: list[str], connect_timeout: float, now: float) -> None:
        self.nodes = [NodeState(endpoint, now) for endpoint in endpoints]
        self._connect_timeout = connect_timeout

    def connected(self, number: int, now: float) -> None:
        """A node answered our Hello."""
        node = self.nodes[number]
        node.connected, node.since, node.error = True, now, None

    def opened(self, number: int, opened: Opened) -> None:
        """A node serves the source."""
        self.nodes[number].opened, self.nodes[number].said = opened, ""

    def lost(self, number: int, now: float) -> bool:
        """A node is out of reach. False: it was before."""
        node = self.nodes[number]
        was = node.connected
        if was:
            node.since = now
        node.connected, node.opened, node.progress = False, None, ""
        return was

    def failed(self, number: int, error: FeederError) -> None:
        """A node refuses us, or has ended with an error."""
        node = self.nodes[number]
        nonsense = isinstance(error, ProtocolError)  # that has another text each time, and is said once
        # A welcome is no service: a node may let us in and fail again, time after time, and that is said once as well.
        if node.said != str(error) and not (nonsense and node.talked_nonsense):
            # The only node's error is raised; with others left, the log is the place where the user can see it.
            log.log(logging.WARNING if len(self.nodes) > 1 else logging.DEBUG, "%s: %s", node.endpoint, error)
        node.said = str(error)
        node.talked_nonsense = node.talked_nonsense or nonsense
        node.connected, node.opened, node.progress, node.error = False, None, "", error

    def hopeless(self, now: float, needed: Collection[int] = ()) -> FeederError | None:
        """The error to raise when no node serves and none can be expected to; None while there is hope.

        `needed`: nodes that nobody can stand in for, and that serve nothing now.
        """
        for node in [self.nodes[number] for number in needed]:
            if node.error is not None:
                return node.error
            if not node.connected and now - node.since > self._connect_timeout:
                return self._unreachable([node])
        if any(node.connected for node in self.nodes):
            return None
        errors = [node.error for node in self.nodes if node.error is not None]
        if len(errors) == len(self.nodes):
            return errors[0]
        if any(node.error is None and now - node.since <= self._connect_timeout for node in self.nodes):
            return None
        return self._unreachable([node for node in self.nodes if node.error is None])

    def _unreachable(self, nodes: list[NodeState]) -> NodeUnreachable:
        where = ", ".join(node.endpoint for node in nodes)
        return NodeUnreachable(
            f"no server answers at {where} (tried for {self._connect_timeout:g} s): is feeder-server running there, is the port "
            "the one that it printed, does a firewall stand between?"
        )

    def away(self, now: float) -> list[int]:
        """Nodes that can't be expected to serve soon: they refuse, or have been out of reach for too long."""
        return [
            number
            for number, node in enumerate(self.nodes)
            if node.error is not None or (not node.connected and now - node.since > self._connect_timeout)
        ]

    def whereabouts(self, now: float) -> str:
        """What each node is doing, in words."""
        return "; ".join(_describe(node, now) for node in self.nodes)


def _describe(node: NodeState, now: float) -> str:
    if node.error is not None:
        return f"{node.endpoint}: {node.error}"
    if not node.connected:
        return f"no connection to {node.endpoint} for {now - node.since:.0f} s"
    if node.opened is None:
        return f"{node.endpoint} is connected and {node.progress or 'has not loaded the source yet'}"
    return f"{node.endpoint}: {node.progress or 'connected'}"


class LongWait:
    """Logs a wait that goes on: after ten seconds, and again each time it has doubled.

    Args:
        what: is waited for.
        now: when the wait began.
    """

    FIRST_WORD_SECONDS = 10.0

    def __init__(self, what: str, now: float) -> None:
        self.what = what
        self._started = now
        self._next = self.FIRST_WORD_SECONDS

    def seconds(self, now: float) -> float:
        """How long it has taken so far; 0 where another thread looked at its clock before this wait began."""
        return max(0.0, now - self._started)

    def say(self, now: float, roster: Roster) -> None:
        """Log it, if it is time."""
        if self.seconds(now) >= self._next:
            self._next *= 2
            log.warning("waiting for %s for %.0f s: %s", self.what, self.seconds(now), roster.whereabouts(now))
