"""What to ask of which node. PURE: no clock, no randomness, no I/O, no thread.

    plan (keys to come) ──fill()──▶ Ask(node, keys) ... arrived() ──▶ stored ──taken()──▶ the trainer
                            ▲                     node_lost(): what it owed is asked again, of the others

The window is the number of batches asked for and not yet taken. It is as wide as keeps every worker of every node busy and one
batch ready, wider for batches so quick that the round trip would show, and never wider than its bytes allow. The batch that the
trainer waits for is asked for in any case, so that a full window can't block its own head.

How wide the window is, and which node gets a key, says credits.py.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from feeder_client.credits import Credits, Key, Node


@dataclass(frozen=True, slots=True)
class Request:
    """Ask `node` for these indices of one epoch (for a stream: tickets of one run)."""

    node: int
    epoch: int
    indices: tuple[int, ...]


def gather(chosen: list[tuple[int, Key]]) -> list[Request]:
    """Requests with as many indices each as the order allows."""
    groups: dict[tuple[int, int], list[int]] = {}
    for node, (epoch, index) in chosen:
        groups.setdefault((node, epoch), []).append(index)
    return [Request(node, epoch, tuple(indices)) for (node, epoch), indices in groups.items()]


class Window:
    """The window of an indexed source: every key is asked for by name.

    Args:
        credits: shared with nobody.
        lookahead: may the window reach into the next epoch before this one is over?
    """

    def __init__(self, credits: Credits, lookahead: bool = True) -> None:
        self.credits = credits
        self._lookahead = lookahead
        self._owed: dict[Key, int] = {}
        self._stored: set[Key] = set()
        self._again: deque[Key] = deque()
        self._second: dict[Key, int] = {}  # owed by a second node too, for the first one is late
        self._hedges: list[Key] = []  # those of which the second has still to be asked
        self._urgent: set[Key] = set()
        self._forced: set[Key] = set()  # asked for before the plan came to them: it must not bring them up again
        self._plan: Iterator[Key] = iter(())
        self._next: Key | None = None

    def replan(self, upcoming: Iterator[Key], epoch: int) -> None:
        """The future has changed. What is under way for epochs gone by is given up; the rest is found again in the plan."""
        self._plan = upcoming
        self._next = None
        self._forced.clear()
        for key in [k for k in self._owed if k[0] < epoch]:
            self._settle(key)
        for node in self.credits.nodes.values():
            node.late = {k for k in node.late if k[0] >= epoch}
        self._stored = {k for k in self._stored if k[0] >= epoch}
        self._again = deque(k for k in self._again if k[0] >= epoch)

    def reset(self) -> None:
        """Give up all that is under way and all that is stored: the position is another one."""
        for key in list(self._owed):
            self._settle(key)
        for node in self.credits.nodes.values():
            node.late.clear()
        self._stored.clear()
        self._again.clear()
        self._urgent.clear()

    def fill(self, epoch: int, have: Callable[[Key], bool] = lambda key: False) -> list[Request]:
        """What to ask now. `epoch`: the current one; `have`: keys that need not be asked for."""
        chosen = [(self._second[key], key) for key in dict.fromkeys(self._hedges) if key in self._second]
        self._hedges.clear()
        for key in sorted(self._urgent):
            if not self._known(key) and self._choose(key, chosen, forced=True):
                self._forced.add(key)
        self._urgent.clear()
        limit = self.credits.limit()
        while len(self._owed) + len(self._stored) < limit:
            ahead = self._peek(epoch, have)
            if ahead is None or not self._choose(ahead, chosen):
                break
        return gather(chosen)

    def _peek(self, epoch: int, have: Callable[[Key], bool]) -> Key | None:
        if self._again:
            return self._again[0]
        while True:
            if self._next is None:
                self._next = next(self._plan, None)
            if self._next is None or self._next[0] > epoch + (1 if self._lookahead else 0):
                return None
            if not self._known(self._next) and not have(self._next) and self._next not in self._forced:
                return self._next
            self._forced.discard(self._next)
            self._next = None

    def _choose(self, key: Key, chosen: list[tuple[int, Key]], forced: bool = False) -> bool:
        # What was lost with its node is behind what has come since.
        ahead = 0 if self._again else len(self._owed) + len(self._stored)
        node = self.credits.pick(True) if forced else self.credits.pick_for(ahead)
        if node is None:
            return False
        self._owed[key] = node
        self.credits.nodes[node].owed.add(key)
        self.credits.nodes[node].late.discard(key)
        chosen.append((node, key))
        # Also where it was asked for out of its turn: when its turn comes it may have been taken, and nobody would take it again.
        if key in self._again:
            self._again.remove(key)
        if key == self._next:
            self._next = None
        return True

    def need(self, key: Key) -> bool:
        """The trainer waits for `key`: ask for it at the next `fill`, whatever the limit. False: that was done already."""
        self._urgent.add(key)  # in any case: the node that owes it may be lost before that
        return key not in self._owed

    def hedge(self, key: Key) -> bool:
        """The node that owes `key` is late: ask another one too, at the next `fill`, if one has room. The first answer wins."""
        owner = self._owed.get(key)
        if owner is None or key in self._second:
            return False
        other = self.credits.pick(False, lambda number: number != owner)
        if other is None:
            return False
        self._second[key] = other
        self.credits.nodes[other].owed.add(key)
        self.credits.nodes[other].late.discard(key)
        self._hedges.append(key)
        return True

    def handed_back(self, number: int, keys: Iterable[Key]) -> int:
        """A node is being stopped: it takes nothing more, and won't make these. Returns how many have to be asked of others."""
        node = self.credits.nodes.get(number)
        if node is None:
            return 0
        node.leaving = True
        return self._ask_others(number, node.owed.intersection(keys))

    def arrived(self, key: Key, node: int, nbytes: int, seconds: float) -> bool:
        """A batch has come. False: nobody wants it (any more), or it came before."""
        self.credits.learn(node, nbytes, seconds)
        if node in self.credits.nodes:
            self.credits.nodes[node].late.discard(key)
        if key not in self._owed:
            return False
        for loser in (self._owed[key], self._second.get(key, node)):
            if loser != node:  # it is at it all the same: until it answers, it has that much less room
                self.credits.nodes[loser].late.add(key)
        self._settle(key)
        self._stored.add(key)
        return True

    def taken(self, key: Key) -> None:
        """The trainer has it: its place in the window is free."""
        self._stored.discard(key)
        self._urgent.discard(key)  # it came between `need` and `fill`: asked for again, it would lie in the window for ever

    def node_opened(self, number: int, workers: int) -> None:
        """A node serves this session; known or new, it owes nothing."""
        self.node_lost(number)
        self.credits.nodes[number] = Node(workers)

    def node_lost(self, number: int) -> int:
        """A node is gone; what it owed is asked again, first. Returns how many those are."""
        node = self.credits.nodes.pop(number, None)
        if node is None:
            return 0
        return self._ask_others(number, node.owed)

    def _ask_others(self, number: int, keys: Iterable[Key]) -> int:
        lost = []
        for key in list(keys):
            second = self._second.pop(key, None)
            if second is None:
                del self._owed[key]
                lost.append(key)
            elif second != number:  # it owes it alone now
                self._owed[key] = second
            if (node := self.credits.nodes.get(number)) is not None:
                node.owed.discard(key)
        self._again = deque(sorted({*lost, *self._again}))
        return len(lost)

    def _settle(self, key: Key) -> None:
        for number in (self._owed.pop(key), self._second.pop(key, None)):
            if number is not None:
                self.credits.nodes[number].owed.discard(key)

    def _known(self, key: Key) -> bool:
        return key in self._owed or key in self._stored

    def owner(self, key: Key) -> int | None:
        """The node that owes `key`."""
        return self._owed.get(key)

    @property
    def owed(self) -> int:
        """Batches asked for and not there."""
        return len(self._owed)

    @property
    def stored(self) -> int:
        """Batches there and not taken."""
        return len(self._stored)
