"""Everything that one copy of a source may draw random numbers from, set together before each thing that it makes.

the global generators      seeding.seed_globals; `feeder_server.rng` goes with them
the source's own           told through its `reseed(seed)`, if it has one; else found and set, see generators.py
generators without a seed  made while a source is: entropy.py
"""

from __future__ import annotations

from contextlib import AbstractContextManager

from feeder_server import entropy, seeding
from feeder_server.generators import Generators
from feeder_server.source import IndexedSource, StreamSource


class Reseeder:
    """Sets the seeds of one copy of a source.

    Args:
        source: the copy, just built.
        more: other things of it that may hold generators, by name.
    """

    def __init__(self, source: IndexedSource | StreamSource, **more: object) -> None:
        self._tell = source.reseed
        self._generators = Generators(**source.roots, **more)
        self.look()

    @property
    def names(self) -> list[str]:
        """What is set, by name; of a source that is told, the method that tells it."""
        return self._generators.names if self._tell is None else ["source.reseed(seed)"]

    def set(self, value: int) -> None:
        """Set everything from `value`. What a `reseed` of the user's raises comes out as it is."""
        seeding.seed_globals(value)
        if self._tell is not None:
            # 63 bits: what random, NumPy's new generators, torch and JAX all take.
            self._tell(seeding.derive(value, "reseed") >> 1)
        else:
            self._generators.reseed(value)

    def set_all(self, value: int) -> AbstractContextManager[None]:
        """Do as `set`, and for the block that follows also seed what is made without a seed."""
        self.set(value)
        return entropy.derived_from(value)

    def look(self) -> bool:
        """Look for generators that weren't there before. Says whether there are any; not of a source that is told."""
        return self._tell is None and self._generators.walk()
