"""What to ask of a stream's workers, and what comes next. PURE: no clock, no randomness, no I/O, no thread.

    parts: one for each worker of each node ──fill()──▶ Ask(node, indices) ... arrived(), ended() ──▶ tickets to hand out, in order
                                               ▲                                                  ╰▶ the run is over
                                               └── node_lost(): what it owed is asked for again when it is back

Worker w of a node's W workers gives batches 0, 1, 2, ... of its *part* of a run; batch `place` of it is called ``place * W + w`` on the
wire, its *index*. A node, by its number, and an index make a `Ticket`.

*As ready* (the default): whatever has come is next, so that nothing waits for a straggler. *Ordered*: first batch 0 of all parts, in
the order of the nodes and their workers, then batch 1 of all parts that have one, and so on: the same on every run.

A run is over when every part has ended and all batches have come; only then the next run is asked for, so that the batches of two runs
never mix. Ends are counted, never inferred from the data.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TypeAlias

from feeder_client.credits import Credits, Node
from feeder_client.seen import Seen
from feeder_client.window import Request, gather
from feeder_wire.errors import ConfigError

Ticket: TypeAlias = tuple[int, int]
"""(node, index) of a batch of the current run."""


@dataclass(slots=True)
class Part:
    """One worker's part of the current run."""

    place: int = 0  # of the batch to ask for next
    again: deque[int] = field(default_factory=deque)  # places that were asked for, or lie before others, and have to be asked for
    owed: int = 0  # asked for and not there
    end: int | None = None  # where it is known to have ended
    given: Seen = field(default_factory=Seen)  # places that were handed out

    @property
    def over(self) -> bool:
        """Whether there is nothing more to ask for."""
        return self.end is not None and self.place >= self.end


class StreamWindow:
    """See the module.

    Args:
        credits: shared with nobody.
        ordered: whether the batches come in a fixed order.
        expected: how many nodes there are in all: what is ordered can't begin before all have come, and a run isn't over before all are.
    """

    def __init__(self, credits: Credits, ordered: bool = False, expected: int = 1) -> None:
        self.credits = credits
        self.ordered = ordered
        self.run = 0
        self.parts: dict[int, list[Part]] = {}
        self._expected = expected
        self._stored: set[Ticket] = set()  # ordered: come, and not yet its turn
        self._out = 0  # handed out, and not taken
        self._turns: deque[Ticket] = deque()  # (node, worker), next to ask first
        self._gone: set[int] = set()
        self._saved: dict[int, list[Part]] = {}  # of nodes that have not come yet
        self._every: list[Ticket] = []  # (node, worker), in their order
        self._asking = self._giving = 0  # ordered: how many turns were asked for, or handed out

    # ----------------------------------------------------------------------------------------------------------- asking

    def fill(self) -> list[Request]:
        """What to ask now."""
        chosen: list[tuple[int, tuple[int, int]]] = []
        for number, parts in self.parts.items():
            if number in self.credits.nodes:
                for worker, part in enumerate(parts):
                    while part.again:  # they had their room in the window before
                        chosen.append(self._ask(number, worker, part.again.popleft()))
        return gather(chosen + (self._in_order() if self.ordered else self._as_ready()))

    def _as_ready(self) -> list[tuple[int, tuple[int, int]]]:
        chosen: list[tuple[int, tuple[int, int]]] = []
        limit, misses = self.credits.limit(), 0
        while misses < len(self._turns) and self.owed + self.stored < limit:
            number, worker = self._turns[0]
            self._turns.rotate(-1)
            part = self.parts[number][worker]
            if part.over or part.owed >= self.credits.depth(self.credits.nodes[number]):
                misses += 1
                continue
            misses = 0
            chosen.append(self._ask(number, worker, part.place))
            part.place += 1
        return chosen

    def _in_order(self) -> list[tuple[int, tuple[int, int]]]:
        chosen: list[tuple[int, tuple[int, int]]] = []
        limit = self.credits.limit()
        while self._complete and not self._all_asked() and self.owed + self.stored < limit:
            place, (number, worker) = self._turn(self._asking)
            part = self.parts[number][worker]
            if place == part.place and not part.over:
                if number not in self.credits.nodes:
                    break  # nobody else has what it has
                chosen.append(self._ask(number, worker, place))
                part.place += 1
            self._asking += 1
        return chosen

    def _ask(self, number: int, worker: int, place: int) -> tuple[int, tuple[int, int]]:
        index = place * len(self.parts[number]) + worker
        self.credits.nodes[number].owed.add((self.run, index))
        self.parts[number][worker].owed += 1
        return number, (self.run, index)

    # ---------------------------------------------------------------------------------------------------------- answers

    def arrived(self, number: int, run: int, index: int, nbytes: int, seconds: float) -> bool:
        """A batch has come. False: nobody wants it (any more). Then see `ready`."""
        self.credits.learn(number, nbytes, seconds)
        if not self._settle(number, run, index):
            return False
        self._stored.add((number, index))
        return True

    def ended(self, number: int, run: int, index: int) -> None:
        """There is no such batch: the part has ended. Then see `ready` and `end_run`."""
        if self._settle(number, run, index):
            part, place = self.part_of((number, index))
            part.end = place if part.end is None else min(part.end, place)

    def ready(self) -> list[Ticket]:
        """What may be handed out now, in this order, each of them once."""
        found = self._due() if self.ordered else sorted(self._stored)
        for ticket in found:
            self._stored.discard(ticket)
            part, place = self.part_of(ticket)
            part.given.add(place)
        self._out += len(found)
        return found

    def _due(self) -> list[Ticket]:
        found: list[Ticket] = []
        while self._complete and not (self._all_asked() and len(found) == len(self._stored)):
            place, (number, worker) = self._turn(self._giving)
            part = self.parts[number][worker]
            ticket = (number, place * len(self.parts[number]) + worker)
            if ticket in self._stored:
                found.append(ticket)
            elif place not in part.given and not (part.end is not None and place >= part.end):
                break
            self._giving += 1
        return found

    def taken(self) -> None:
        """The trainer took one."""
        self._out -= 1

    def end_run(self) -> bool:
        """If every part has ended, and nothing of the run is on its way: go on to the next one."""
        awaited = [number for number in range(self._expected) if self.ordered or number not in self._gone]
        if self.owed or self._stored or not awaited or not all(map(self._ended, awaited)):
            return False
        self.begin(self.run + 1, {})
        return True

    def _ended(self, number: int) -> bool:
        return number in self.parts and all(part.over and not part.again for part in self.parts[number])

    def give_up(self, nodes: Collection[int]) -> list[int]:
        """Nothing is expected of these nodes any more, until they are back; not where the order needs them. Returns those that are new."""
        fresh = [number for number in nodes if number not in self._gone and not self.ordered]
        self._gone.update(fresh)
        return fresh

    def begin(self, run: int, saved: dict[int, list[Part]]) -> None:
        """Go to a run, at its beginning or where `saved` says. What is on its way is given up, what was handed out stays."""
        for number in self.parts.keys() & saved.keys():
            _check_workers(saved[number], len(self.parts[number]))  # before anything has changed
        self.run = run
        self._saved = dict(saved)
        for number, parts in self.parts.items():
            self.parts[number] = self._resumed(number, len(parts)) or [Part() for _ in parts]
        for node in self.credits.nodes.values():
            node.owed.clear()
        self._stored.clear()
        self._seek()

    def _resumed(self, number: int, workers: int) -> list[Part] | None:
        parts = self._saved.pop(number, None)
        if parts is not None:
            _check_workers(parts, workers)
        return parts

    def _seek(self) -> None:
        live = [part for parts in self.parts.values() for part in parts if part.end is None or part.given.run < part.end]
        self._every = [(number, worker) for number, parts in self.parts.items() for worker in range(len(parts))]
        self._asking = len(self._every) * min((part.place for part in live), default=0)
        self._giving = len(self._every) * min((part.given.run for part in live), default=0)

    # ------------------------------------------------------------------------------------------------------------ nodes

    def node_opened(self, number: int, workers: int) -> bool:
        """A node serves this session; known or new, it owes nothing. False: it has other workers than before, so its part begins anew.

        Raises:
            ConfigError: the position that was gone back to is of another number of workers.
        """
        self.node_lost(number)
        self._gone.discard(number)
        self.credits.nodes[number] = Node(workers)
        known = self.parts.get(number) or self._resumed(number, workers)
        self.parts[number] = known if known and len(known) == workers else [Part() for _ in range(workers)]
        self.parts = dict(sorted(self.parts.items()))
        self._seek()
        self._turns.extend((number, worker) for worker in range(workers))
        return known is None or len(known) == workers

    def node_lost(self, number: int) -> int:
        """A node is gone, and until it is back, its parts of the stream. Returns how many batches it owed."""
        node = self.credits.nodes.pop(number, None)
        self._turns = deque(turn for turn in self._turns if turn[0] != number)
        if node is None:
            return 0
        for _, index in sorted(node.owed):
            part, place = self.part_of((number, index))
            part.again.append(place)
            part.owed = 0
        return len(node.owed)

    def missing(self) -> list[int]:
        """Nodes that are out of reach, and without which it can't go on."""
        if not self.ordered:
            return []
        return [number for number in range(self._expected) if number not in self.credits.nodes]

    # ---------------------------------------------------------------------------------------------------------- helpers

    def part_of(self, ticket: Ticket) -> tuple[Part, int]:
        """The part that a batch belongs to, and its place in it."""
        parts = self.parts[ticket[0]]
        return parts[ticket[1] % len(parts)], ticket[1] // len(parts)

    def _settle(self, number: int, run: int, index: int) -> bool:
        node = self.credits.nodes.get(number)
        if node is None or (run, index) not in node.owed:
            return False
        node.owed.discard((run, index))
        self.part_of((number, index))[0].owed -= 1
        return True

    @property
    def _complete(self) -> bool:
        return not self.ordered or len(self.parts) >= self._expected

    def _all_asked(self) -> bool:
        return all(part.over for parts in self.parts.values() for part in parts)

    def _turn(self, count: int) -> tuple[int, Ticket]:
        """(place, (node, worker)) of a turn."""
        place, turn = divmod(count, len(self._every))
        return place, self._every[turn]

    @property
    def owed(self) -> int:
        """Batches asked for and not there."""
        return sum(len(node.owed) for node in self.credits.nodes.values())

    @property
    def stored(self) -> int:
        """Batches there and not taken."""
        return len(self._stored) + self._out


def _check_workers(saved: list[Part], workers: int) -> None:
    if len(saved) != workers:
        raise ConfigError(
            f"this position was saved with {len(saved)} workers for the stream, and a server has {workers} now: its parts are others. "
            f"Start it with --workers {len(saved)}"
        )
