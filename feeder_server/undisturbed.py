"""A block of code that may draw as it likes: after it the global generators are as they were before it.

For what runs in one worker and not in another, or here now and there later: the import of a module (module_seeds.py), and what is
computed once for all workers (sharing.py).
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from feeder_server import draws, seeding, snapshots


@contextmanager
def undisturbed(loading: str = "", more: Iterable[Any] = ()) -> Iterator[None]:
    """Put the states back at the end of the block: of `random`, NumPy, torch and `feeder_server.rng`.

    A library that the block loads is seeded as if it had been there before. TensorFlow, Keras and OpenCV, which don't tell their state,
    stay as the block leaves them.

    Args:
        loading: name of the library whose import the block is, so that it counts as one that the block loads.
        more: other generators to put back.
    """
    own = draws.shared()
    torch = getattr(sys.modules.get("torch"), "default_generator", None)
    holders = (random._inst, np.random.mtrand._rand, torch, None if own is None else own.bit_generator, *more)
    states = [(holder, snapshots.take(holder)) for holder in holders if holder is not None]
    loaded = [name for name in seeding.frameworks() if name != loading]
    value = seeding.current()
    try:
        yield
    finally:
        if value is not None:
            seeding.seed_frameworks(value, [name for name in seeding.frameworks() if name not in loaded])
            seeding.now(value)
            if own is None:  # it may have been made by the block
                draws.set_to(value)
        for holder, state in states:
            snapshots.put(holder, state)
