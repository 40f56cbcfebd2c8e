"""How to set a generator that exists already to a seed, in a microsecond or a few.

Building one takes 70 us, most of it for spreading a small seed over a large state. Here the seed is 256 bits of a hash, which is
spread enough to be the state itself. Measured on one core of the build machine, hashing included: PCG64,
PCG64DXSM, SFC64 and torch 2 us; Philox 3 us; random.Random 4 us; MT19937 and RandomState 8 us.
"""

from __future__ import annotations

import hashlib
import random
import sys
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from feeder_server.library_states import library_state_of

Setter: TypeAlias = Callable[[Any, bytes], None]


def digest(value: int, path: bytes) -> bytes:
    """Hash the seed of an item with the name of a generator into 256 bits.

    Args:
        value: 0 .. 2**64 - 1.
        path: anything.
    """
    return hashlib.blake2b(value.to_bytes(8, "little") + path, digest_size=32).digest()


def state_of(thing: object) -> tuple[object, Setter] | None:
    """Find what there is to be set in a generator, and how; None where `thing` is no generator, or is one to be left alone.

    Left alone are the global ones, which `seeding.seed_globals` sets, and `random.SystemRandom`, which can't be set. Runs no code
    of the user's: `thing` may be anything.
    """
    cls = type(thing)
    if issubclass(cls, random.Random):
        if issubclass(cls, random.SystemRandom) or thing is getattr(random, "_inst", None):
            return None
        return thing, _set_random
    if issubclass(cls, np.random.RandomState):
        return None if thing is _global_state() else (thing, _set_randomstate)
    if issubclass(cls, np.random.Generator):
        # Two may share one bit generator, and that is where the state is. Asked of NumPy's class, not of a subclass.
        thing = _GENERATOR_BITS.__get__(thing)
    if issubclass(type(thing), np.random.BitGenerator):
        return None if thing is _STATE_BITS.__get__(_global_state()) else (thing, _SETTERS.get(type(thing), _set_other))
    torch = getattr(sys.modules.get("torch"), "Generator", None)
    if isinstance(torch, type) and issubclass(cls, torch):
        return None if thing is getattr(sys.modules["torch"], "default_generator", None) else (thing, _set_torch)
    setter = library_state_of(thing)
    return None if setter is None else (thing, setter)


def _global_state() -> object:
    return np.random.mtrand._rand


def set_pcg64(bits: Any, seed: bytes) -> None:
    """Set a PCG64 or PCG64DXSM bit generator."""
    state = {"state": int.from_bytes(seed[:16], "little"), "inc": int.from_bytes(seed[16:], "little") | 1}
    bits.state = {"bit_generator": type(bits).__name__, "state": state, "has_uint32": 0, "uinteger": 0}


def _set_philox(bits: Any, seed: bytes) -> None:
    words = np.frombuffer(seed, "<u8").astype(np.uint64)
    state = {"counter": np.zeros(4, np.uint64), "key": words[:2]}
    buffer = {"buffer": np.zeros(4, np.uint64), "buffer_pos": 4}  # used up
    bits.state = {"bit_generator": "Philox", "state": state, **buffer, "has_uint32": 0, "uinteger": 0}


def _set_sfc64(bits: Any, seed: bytes) -> None:
    words = np.frombuffer(seed, "<u8").astype(np.uint64)
    words[3] = 1  # a counter
    bits.state = {"bit_generator": "SFC64", "state": {"state": words}, "has_uint32": 0, "uinteger": 0}


def _set_mt19937(bits: Any, seed: bytes) -> None:
    words = np.frombuffer(seed, "<u4").astype(np.uint32)
    legacy = getattr(bits, "_legacy_seeding", None)
    if legacy is not None:  # 7 us, where the state as a dictionary takes 70
        legacy(words)
        return
    _set_other(bits, seed)


def _set_other(bits: Any, seed: bytes) -> None:
    """Set a bit generator that isn't NumPy's own, such as those of randomgen."""
    bits.state = type(bits)(int.from_bytes(seed, "little")).state


def _set_randomstate(generator: Any, seed: bytes) -> None:
    if type(_STATE_BITS.__get__(generator)) is np.random.MT19937:
        np.random.RandomState.seed(generator, np.frombuffer(seed, "<u4").astype(np.uint32))
        return
    bits = _STATE_BITS.__get__(generator)
    _SETTERS.get(type(bits), _set_other)(bits, seed)
    # It keeps the second of two normal numbers, where a Generator doesn't.
    np.random.RandomState.set_state(generator, {**bits.state, "has_gauss": 0, "gauss": 0.0})


def _set_random(generator: Any, seed: bytes) -> None:
    random.Random.seed(generator, int.from_bytes(seed[:8], "little"))


def _set_torch(generator: Any, seed: bytes) -> None:
    generator.manual_seed(int.from_bytes(seed[:8], "little"))


_SETTERS: dict[type, Setter] = {
    np.random.PCG64: set_pcg64,
    np.random.PCG64DXSM: set_pcg64,
    np.random.Philox: _set_philox,
    np.random.SFC64: _set_sfc64,
    np.random.MT19937: _set_mt19937,
}
_GENERATOR_BITS: Any = vars(np.random.Generator)["bit_generator"]
_STATE_BITS: Any = vars(np.random.RandomState)["_bit_generator"]
