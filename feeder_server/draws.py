"""`feeder_server.rng`: random numbers for sources that keep no generator of their own.

    def __getitem__(self, i):
        rng = feeder_server.rng()
        return self.x[i] + rng.normal(size=self.x[i].shape), self.y[i]

In a worker it is seeded for what is being made, as the global generators are: import, build, epoch or item. Elsewhere, in a script or
a test that runs the same code without feeder, it is an ordinary generator.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from feeder_server import seeding

if TYPE_CHECKING:
    import numpy as np

_PATH = b"rng"

_fed: np.random.Generator | None = None  # in a worker: the one that everybody shares
_own: tuple[int | None, np.random.Generator] | None = None  # elsewhere


def rng(seed: int | None = None) -> np.random.Generator:
    """Give the generator of the item, epoch or build that is being made.

    It is one object, which feeder sets to the seed of each item before that item: a second call within the item goes on where the
    first was, and it may as well be kept, for example as ``self.rng = feeder_server.rng()``. The first call of a process takes 100 us,
    others 0.1 us, and setting the seed 2 us per item. To be called in one thread.

    Args:
        seed: for code that runs without feeder, which otherwise gets fresh numbers in every process; a call with the same seed goes on,
            one with another begins anew. In a worker the server's seed counts, and this is ignored.
    """
    global _fed, _own
    if seeding.current() is None:
        import numpy as np

        if _own is None or _own[0] != seed:
            _own = seed, np.random.default_rng(seed)
        return _own[1]
    if _fed is None:
        import numpy as np

        _fed = np.random.Generator(np.random.PCG64(0))
        seeding.follow(set_to)
    return _fed


def shared() -> np.random.Generator | None:
    """Give what `rng` gives in a worker, if anybody has asked: it isn't anybody's private generator."""
    return _fed


def set_to(value: int) -> None:
    """Set it, where there is one, as `seeding.seed_globals` does."""
    from feeder_server.states import digest, set_pcg64

    if _fed is not None:
        set_pcg64(_fed.bit_generator, digest(value, _PATH))
