"""The private random generators of a source: found by walking its objects, named by their paths, and set before everything it makes.

    source.aug.rng      an attribute or slot           source.steps[2].rng    an element of a list, tuple, deque or dict
    source.f.rng        a closure's or default's       augment.RNG            a global of a module of the user's
    run.rng             a local of a running generator

What is looked into is in walk.py, what counts as a generator in states.py.

Two that are in the same state when they are found were seeded alike on purpose, so that pictures and their masks are turned alike, say.
They stay alike: both are set by the path of the first. (Two that were made without a seed never are: see entropy.py.)
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from feeder_server import snapshots
from feeder_server.states import Setter, digest
from feeder_server.walk import find

log = logging.getLogger("feeder.generators")


@dataclass(slots=True)
class _Known:
    name: str
    path: bytes
    holder: object  # kept, so that its id stays its own
    setter: Setter
    mark: bytes | None  # of its state when it was found


class Generators:
    """The generators that can be reached from some objects.

    Args:
        roots: the objects by name.
    """

    def __init__(self, **roots: object) -> None:
        self._roots = roots
        self._known: dict[int, _Known] = {}

    def __repr__(self) -> str:
        return f"<Generators {', '.join(self.names) or 'none'}>"

    @property
    def names(self) -> list[str]:
        """The paths under which they are known."""
        return [known.name for known in self._known.values()]

    @property
    def holders(self) -> list[object]:
        """What is set: the generators, or the parts of them that hold their states."""
        return [known.holder for known in self._known.values()]

    def walk(self) -> bool:
        """Look for generators again, and forget those that are gone. Says whether there is a new one.

        One that is known keeps its name as long as it is there: another way to it, made in one worker and not yet in another, must
        not change its numbers.
        """
        found: dict[int, tuple[str, object, Setter]] = {}
        for path, holder, setter in find(self._roots):
            found.setdefault(id(holder), (path, holder, setter))
        known = {key: entry for key, entry in self._known.items() if key in found}
        taken = {entry.name for entry in known.values()}
        alike = {entry.mark: entry.path for entry in reversed(list(known.values())) if entry.mark is not None}
        new = [entry for key, entry in found.items() if key not in known]
        for path, holder, setter in new:
            name, count = path, 1
            while name in taken:
                count += 1
                name = f"{path}#{count}"
            taken.add(name)
            mark, own = snapshots.mark(holder), name.encode("utf-8", "surrogatepass")
            path_of_first = own if mark is None else alike.setdefault(mark, own)
            known[id(holder)] = _Known(name, path_of_first, holder, setter, mark)
        if new:
            log.debug("private generators: %s", ", ".join(sorted(taken)))
        self._known = known
        return bool(new)

    def reseed(self, value: int) -> None:
        """Set each from `value` and its path; takes some microseconds for each, see states.py."""
        for entry in list(self._known.values()):
            try:
                entry.setter(entry.holder, digest(value, entry.path))
            except Exception as exc:  # a foreign bit generator that can't be set: say so once, and leave it
                log.warning("the random generator %s can't be seeded, so its numbers differ from run to run: %s", entry.name, exc)
                del self._known[id(entry.holder)]
