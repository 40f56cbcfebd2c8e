"""Which block is lent to whom. Pure: no I/O, no clock.

A block is named ``place-slot-generation-number`` (see arena.py), so its owner can be read off its name. The ledger holds a block
from the moment a worker reports it until it goes back to that worker, or until its file is removed because that worker or its
reader is gone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(slots=True)
class Settled:
    """What is to be done with blocks that nobody reads any more, by owner."""

    free: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    """slot -> blocks that its worker may write again."""
    retire: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    """slot -> blocks that its worker must remove: the reader may still be looking at them."""
    remove: list[str] = field(default_factory=list)
    """Blocks of workers that are gone: the node removes the files."""


class Ledger:
    """Blocks out of their worker's hands."""

    def __init__(self) -> None:
        self._held: dict[str, tuple[int, bytes]] = {}  # name -> size, reader
        self._generation: dict[int, int] = {}  # slot -> generation that lives
        self.held_bytes = 0

    def __len__(self) -> int:
        return len(self._held)

    def started(self, slot: int, generation: int) -> None:
        """A worker lives in this slot."""
        self._generation[slot] = generation

    def gone(self, slot: int) -> None:
        """The worker in this slot died: blocks it lent stay with their readers, nobody gets them back."""
        self._generation.pop(slot, None)

    def lend(self, name: str, size: int, reader: bytes) -> None:
        """The block belongs to `reader` now (a client, or the node's own sender)."""
        if name not in self._held:
            self._held[name] = (size, reader)
            self.held_bytes += size

    def pass_on(self, name: str, reader: bytes) -> None:
        """The block belongs to another reader now."""
        self._held[name] = (self._held[name][0], reader)

    def settle(self, names: Iterable[str], reader: bytes | None, *, seen: bool = True) -> Settled:
        """Readers are done with `names`.

        Args:
            names: blocks; what isn't held by `reader` is ignored, so a client can't free another one's.
            reader: who says so; None: whoever holds it.
            seen: the reader said so itself. False: it was given up, so the block must not be written again.
        """
        out = Settled()
        for name in names:
            held = self._held.get(name)
            if held is None or (reader is not None and held[1] != reader):
                continue
            del self._held[name]
            self.held_bytes -= held[0]
            slot, generation = owner(name)
            if self._generation.get(slot) != generation:
                out.remove.append(name)
            elif seen:
                out.free[slot].append(name)
            else:
                out.retire[slot].append(name)
        return out

    def held_by(self, reader: bytes) -> list[str]:
        """Blocks lent to `reader`."""
        return [name for name, held in self._held.items() if held[1] == reader]

    def names_of(self, slot: int, generation: int) -> list[str]:
        """Blocks of one worker that are still held by readers."""
        return [name for name in self._held if owner(name) == (slot, generation)]


def owner(name: str) -> tuple[int, int]:
    """(slot, generation) of the worker that made a block, from its name."""
    _, slot, generation, _ = name.split("-")
    return int(slot), int(generation)
