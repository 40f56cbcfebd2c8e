"""How much may be asked of which node. PURE: no clock, no randomness, no I/O, no thread.

Each node has a share of the window by its workers; its share is free again only when it answers, so a faster node gets more.

Batches are handed out in order, so a slow node holds up all others once the window is full of what comes after a batch of its. What
it is asked for has therefore to be far ahead of the trainer: as many places as all of them make batches in the time that it takes for
one. The shares of the others are that large, and no node gets a batch for which the trainer would have to wait while another one could
make it sooner.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

Key: TypeAlias = tuple[int, int]

AHEAD_SECONDS = 0.020
"""Work that one worker should have ahead of it, on its way and in its queue."""
MAX_DEPTH = 128
LEAST_SECONDS = 1e-9
"""No batch takes less; what a peer says may be a number by which nothing can be divided."""
WIDEST = 4
"""Times of the sum of all shares that the window may be for the sake of slow nodes. One that is slower than that allows gets nothing."""
TRIAL = 50.0
"""Times of what a node took for a batch after which one that gets nothing is tried again: it may have been busy only then."""


@dataclass(slots=True)
class Node:
    """What is known of one node that serves this session."""

    workers: int
    owed: set[Key] = field(default_factory=set)
    seconds: float = 0.0  # moving average of one batch
    delivered: int = 0
    late: set[Key] = field(default_factory=set)  # another node was first, and this one is still at it
    leaving: bool = False  # it is being stopped, and takes nothing new
    seen: int = 0  # batches that had come from anywhere when it answered last

    @property
    def rate(self) -> float:
        """Batches per second; 0: not known."""
        return self.workers / max(self.seconds, LEAST_SECONDS) if self.seconds > 0 else 0.0

    @property
    def soonest(self) -> float:
        """Seconds until a batch that is asked of it now is there: what it owes already comes first."""
        return self.seconds * max(1.0, (len(self.owed) + len(self.late) + 1) / max(1, self.workers))


class Credits:
    """See the module.

    Args:
        memory_bytes: for batches on their way and stored; one batch is always allowed.
        prefetch: batches to have asked for ahead; None: as the module says.
    """

    def __init__(self, memory_bytes: int, prefetch: int | None = None) -> None:
        self.nodes: dict[int, Node] = {}
        self._memory = memory_bytes
        self._prefetch = prefetch
        self.batch_bytes = 0  # of a recent large batch
        self._seen = 0  # batches that have come

    def depth(self, node: Node) -> int:
        """Requests per worker of `node`."""
        if node.seconds <= 0:
            return 2
        return min(MAX_DEPTH, 2 + int(min(MAX_DEPTH, AHEAD_SECONDS / node.seconds)))  # the quotient may be inf

    def share(self, node: Node) -> int:
        """Requests that `node` may owe, and that may be stored on its account."""
        return self._share(node, self._slowest())

    def _share(self, node: Node, slowest: float) -> int:
        return max(self._least(node), math.ceil(node.rate * slowest) + node.workers + 1)

    def _least(self, node: Node) -> int:
        """The share of a node that is alone, or among others as fast."""
        return node.workers * self.depth(node) + 1

    def _slowest(self) -> float:
        """Seconds that the slowest of several nodes takes for a batch; it doesn't count if the window would have to be too wide for it."""
        if len(self.nodes) < 2:
            return 0.0
        there = [node for node in self.nodes.values() if not node.leaving]
        most = WIDEST * sum(map(self._least, there))
        rate = sum(node.rate for node in there)
        return max((node.seconds for node in there if rate * node.seconds <= most), default=0.0)

    def limit(self) -> int:
        """Batches that may be asked for and not taken, over all nodes."""
        there = [node for node in self.nodes.values() if not node.leaving]
        slowest = self._slowest()
        wide = sum(self._share(node, slowest) for node in there) if self._prefetch is None else max(1, self._prefetch)
        # How large batches are is known from those that have come, small ones first: ask for many only after some.
        wide = min(wide, sum(2 * node.workers + 1 for node in there) + 2 * self._seen)
        if self.batch_bytes:
            wide = min(wide, max(1, self._memory // self.batch_bytes))
        return wide

    def thin(self) -> bool:
        """Might a worker soon have nothing to do, for want of being asked?"""
        return any(len(node.owed) < 2 * node.workers for node in self.nodes.values() if not node.leaving)

    def pick(self, forced: bool, usable: Callable[[int], bool] = lambda node: True) -> int | None:
        """The node with the most room for its size; None: none has room. `forced`: one is named if there is any."""
        best, load, slowest = None, float("inf"), self._slowest()
        for number, node in self.nodes.items():
            if node.leaving or not usable(number):
                continue
            used = (len(node.owed) + len(node.late)) / max(1, self._share(node, slowest))
            if used < load and (forced or used < 1):
                best, load = number, used
        return best

    def pick_for(self, ahead: int) -> int | None:
        """The node for a batch that the trainer comes to after `ahead` others; None: one that has no room now will make it sooner.

        That one owes something, and when it answers there is more to ask.
        """
        # Who is overdue with something is nobody to wait for.
        prompt = [node for node in self.nodes.values() if not (node.leaving or node.late)]
        if len(prompt) < 2:
            return self.pick(False)
        rate = sum(node.rate for node in prompt)
        time = max(min(node.soonest for node in prompt), ahead / rate if rate else 0.0)

        def in_time(number: int) -> bool:
            node = self.nodes[number]
            return node.soonest <= time or (not node.owed and self._is_due(node))

        return self.pick(False, in_time)

    def _is_due(self, node: Node) -> bool:
        """Has nothing been heard of it for so long that what is known of it may be wrong?"""
        gone_by = self._seen - node.seen
        return gone_by > TRIAL and gone_by > TRIAL * sum(other.rate for other in self.nodes.values()) * node.seconds

    def learn(self, number: int, nbytes: int, seconds: float) -> None:
        """A batch came from `number`."""
        self._seen += 1
        node = self.nodes.get(number)
        if node is not None:
            node.seconds = seconds if node.seconds == 0 or self._is_due(node) else 0.8 * node.seconds + 0.2 * seconds
            node.delivered += 1
            node.seen = self._seen
        # Forgotten slowly: of batches of many sizes the large ones may be rare, and still come several at once.
        self.batch_bytes = max(nbytes, int(0.995 * self.batch_bytes))
