"""What has to come: the batches of a source, made in this process as a worker makes them, as digests."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

from feeder_server.copies import Copies, StreamEnded
from feeder_server.maker import Maker
from feeder_server.target import Target
from tests.chaos.sources import digest

SOURCES = Path(__file__).with_name("sources.py")
SESSION = b"chaos".ljust(16)


class Reference:
    """The passes over one source, each worked out when first asked for.

    Args:
        attr: in sources.py.
        args: for it.
        seed: the servers'.
        workers: of each node; a stream comes once from each node, in as many parts.
        fixed: whether the order of a stream is.
    """

    def __init__(self, attr: str, args: dict[str, object], seed: int, workers: list[int], fixed: bool = False) -> None:
        self._target = Target(attr, str(SOURCES), attr, dict(args))
        self._seed, self._workers, self._fixed = seed, workers, fixed
        self._passes: dict[int, list[str]] = {}
        self._slots = {(slot, slots): self._copies(slot, slots) for slots in set(workers) for slot in range(slots)}
        self.stream = self._slots[0, workers[0]].info().kind == "stream"

    def _copies(self, slot: int, slots: int) -> Copies:
        made = Maker(self._target, seed=self._seed, shard=(slot, slots))
        return Copies(made, seed=self._seed, slot=slot, slots=slots, ordered=self._fixed)

    def share(self, rank: int, size: int) -> Callable[[int], list[str]]:
        """`digests`, of which one trainer of `size` gets its share."""
        if size == 1:
            return self.digests
        return lambda number: (all_of := self.digests(number))[rank : len(all_of) // size * size : size]

    def digests(self, number: int) -> list[str]:
        """Digests of the batches of pass `number`, in their order (of a stream whose order isn't fixed: in any)."""
        if number not in self._passes:
            self._passes[number] = self._of_stream(number) if self.stream else self._of_items(number)
        return self._passes[number]

    def _of_items(self, epoch: int) -> list[str]:
        copies = self._slots[0, self._workers[0]]
        found = []
        for index in range(copies.num_batches_at(SESSION, epoch) or 0):
            try:
                found.append(digest(copies.item(SESSION, epoch, index)))
            except ValueError:  # one that can't be had, and is skipped
                continue
        return found

    def _of_stream(self, run: int) -> list[str]:
        """Batch 0 of all parts, in the order of the nodes and their workers, then batch 1, and so on."""
        parts = {(slot, slots): self._part(slot, slots, run) for slot, slots in self._slots}
        columns = itertools.zip_longest(*(parts[slot, slots] for slots in self._workers for slot in range(slots)))
        return [one for column in columns for one in column if one is not None]

    def _part(self, slot: int, slots: int, run: int) -> list[str]:
        found = []
        try:
            while True:
                found.append(digest(self._slots[slot, slots].next(SESSION, run)))
        except StreamEnded:
            return found
