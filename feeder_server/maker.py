"""Make the copies of what the command line names: import it once, build it as often as a copy is needed."""

from __future__ import annotations

# Only so that it is there to be seeded: if the user's module were the first to import it, it would start from the system's entropy.
import numpy.random  # noqa: F401

from feeder_server import entropy, seeding, snapshots
from feeder_server.failure import plain_error
from feeder_server.importer import load
from feeder_server.module_seeds import seeded
from feeder_server.source import IndexedSource, Shard, StreamSource, build, is_factory
from feeder_server.target import Target
from feeder_server.walk import find

_imported: dict[int, tuple[object, object]] = {}
"""The generators that modules hold, and the state in which their import left them; kept, so that their ids stay their own."""


class Maker:
    """Makes the copies of one target: imports it at once, and builds it at every call.

    Args:
        target: what to serve.
        seed: the server's seed.
        shard: index and number of the worker.

    Raises:
        SourceNotFound: see `importer.load`.
        SourceError: see `importer.load`.
    """

    def __init__(self, target: Target, *, seed: int, shard: Shard | None = None) -> None:
        self._target = target
        self._seed = seed
        self._shard = shard
        self._built = 0
        self._found = self._load(fresh=False)
        self._held = self._generators_held()

    def __call__(self) -> IndexedSource | StreamSource:
        found = self._found
        if self._built and not is_factory(found):
            # The object of the module has been used. Its module can make another one; copying it would copy what it has become.
            found = self._load(fresh=True)
            if found is self._found:
                text = "a second copy is needed, and its module gives the same object again: name its class, or a function that makes one"
                raise plain_error(f"{self._target.reference}: {text}", TypeError)
        self._built += 1
        # Built with numbers from a generator of its module, the second copy would be another one than the first.
        for key in self._held:
            snapshots.put(*_imported[key])
        value = seeding.build_seed(self._seed)
        seeding.seed_globals(value)
        # What a constructor imports is a module like any other.
        with seeded(seeding.import_seed(self._seed)), entropy.derived_from(value):
            return build(found, self._target.args, shard=self._shard, label=self._target.reference)

    def _load(self, *, fresh: bool) -> object:
        value = seeding.import_seed(self._seed)
        seeding.seed_globals(value)
        with seeded(value), entropy.derived_from(value):
            return load(self._target, fresh=fresh)

    def _generators_held(self) -> list[int]:
        """Note the generators that outlive a copy: those of the user's modules, where a factory makes the copies."""
        if not is_factory(self._found):
            return []
        held = []
        for _, holder, _ in find({"source": self._found}):
            # Another target of the same module has come first, and may have been built since.
            if id(holder) not in _imported:
                _imported[id(holder)] = (holder, snapshots.take(holder))
            held.append(id(holder))
        return held
