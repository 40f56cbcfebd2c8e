"""Do the nodes of one client serve the same data? PURE. A node that doesn't would mix two data sets into one training.

The first node that opens the source sets the standard: kind, length, seed and version of the user's code, and the digests of its batch
0. Another one is used when it has shown the same; the batches are compared like those of workers (feeder_wire/leaves.py): what can't be
reproduced may differ, what carries information may not.
"""

from __future__ import annotations

from feeder_wire import messages as m
from feeder_wire.errors import DivergentSource
from feeder_wire.leaves import Leaf, compare, listed

WAIT = object()
"""It isn't known yet."""


class Agreement:
    """What the nodes of one client have shown of the source `name`."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._standard: tuple[int, m.Opened] | None = None
        self._leaves: tuple[Leaf, ...] | None = None
        self._opened: dict[int, m.Opened] = {}
        self._shown: dict[int, m.Verdict] = {}

    def opened(self, node: int, opened: m.Opened) -> None:
        """A node serves the source."""
        self._opened[node] = opened
        self._shown.pop(node, None)
        if self._standard is None:
            self._standard = (node, opened)

    def shown(self, node: int, verdict: m.Verdict) -> None:
        """A node says what its batch 0 looks like."""
        if not verdict.known or node not in self._opened:
            return
        self._shown[node] = verdict
        # Where the node that set the standard is gone before it has shown anything, the next one speaks for it.
        if self._leaves is None and self._standard is not None and (node == self._standard[0] or self._standard[0] not in self._opened):
            self._leaves = verdict.leaves

    def lost(self, node: int) -> None:
        """A node is out of reach."""
        self._opened.pop(node, None)
        self._shown.pop(node, None)

    def objection(self, node: int) -> DivergentSource | object | None:
        """Why a node may not be used: an error, `WAIT`, or None if it may be."""
        if self._standard is None or node not in self._opened or (node, self._opened[node]) == self._standard:
            return None
        ours = self._standard[1]
        theirs = self._opened[node]
        for what, mine, other in (
            ("kind of source", ours.kind, theirs.kind),
            ("batches", ours.num_batches, theirs.num_batches),
            ("--seed", ours.seed, theirs.seed),
            ("--stream-order fixed", ours.ordered, theirs.ordered),
        ):
            if mine != other:
                return self._error(
                    f"{what}: {other} there, {mine} on the first one", "start both with the same arguments and the same data"
                )
        if ours.code and theirs.code and ours.code != theirs.code:
            return self._error("the user's code is another version", "copy the same files to all machines and restart the servers")
        shown = self._shown.get(node)
        if shown is None or self._leaves is None:
            return WAIT
        if shown.leaves and self._leaves:
            found = compare(self._leaves, shown.leaves)
            if not found.alike:
                return self._error(f"its batch 0 has other data in {listed(found.differing)}", "give all machines the same data")
        return None

    def _error(self, what: str, cure: str) -> DivergentSource:
        return DivergentSource(f"this server's source {self._name!r} is not that of the first server, and is left out: {what}; {cure}")
