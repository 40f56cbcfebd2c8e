"""The state that a generator is in: taken, compared and put back. What counts as a generator is in states.py.

Two uses. Generators that were seeded alike on purpose, one for pictures and one for masks, say, have to stay alike (generators.py). And
generators that a module holds for good go on from build to build, so that a second copy of a source would not be like the first: they
are put back to where the import left them (maker.py).
"""

from __future__ import annotations

import hashlib
import random
import sys
from typing import Any

import numpy as np


def take(holder: Any) -> object:
    """Copy the state of a generator; None where it can't be had. Takes 2 to 100 us."""
    try:
        return _take(holder)
    except Exception:  # a foreign bit generator without a state: then it is unlike any other, and isn't put back
        return None


def put(holder: Any, state: Any) -> None:
    """Put a generator into a state that `take` gave; None is no state."""
    if state is None:
        return
    if isinstance(holder, random.Random):
        random.Random.setstate(holder, state)
    elif isinstance(holder, np.random.RandomState):
        np.random.RandomState.set_state(holder, state)
    elif isinstance(holder, np.random.BitGenerator):
        holder.state = state
    elif _is_torch(holder):
        holder.set_state(state)
    elif type(state) is np.ndarray:
        holder.state.assign(state)


def mark(holder: Any) -> bytes | None:
    """Digest the state and kind of a generator, to tell whether another one is in the same; None where it can't be had."""
    state = take(holder)
    if state is None:
        return None
    digest = hashlib.blake2b(f"{type(holder).__module__}.{type(holder).__qualname__};".encode(), digest_size=16)
    _feed(digest, state)
    return digest.digest()


def _take(holder: Any) -> object:
    if isinstance(holder, random.Random):
        return random.Random.getstate(holder)
    if isinstance(holder, np.random.RandomState):
        return np.random.RandomState.get_state(holder, legacy=False)
    if isinstance(holder, np.random.BitGenerator):
        return holder.state
    if _is_torch(holder):
        return holder.get_state().clone()
    names = object.__getattribute__(holder, "__dict__")
    if "total_batches_seen" in names:  # an iterator of Keras: see library_states.py
        return names["seed"], names["total_batches_seen"], names.get("n"), names.get("batch_size")
    return np.array(holder.state)


def _is_torch(holder: object) -> bool:
    torch = getattr(sys.modules.get("torch"), "Generator", None)
    return isinstance(torch, type) and isinstance(holder, torch)


def _feed(digest: Any, state: Any) -> None:
    if isinstance(state, dict):
        for key in sorted(state):
            digest.update(f"{key}:".encode())
            _feed(digest, state[key])
    elif hasattr(state, "__array__"):
        array = np.ascontiguousarray(state)
        digest.update(f"{array.dtype} {array.shape}".encode() + array.tobytes())
    else:
        digest.update(f"{state!r};".encode())
