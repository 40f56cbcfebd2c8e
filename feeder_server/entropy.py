"""Where unseeded generators get their seeds from while a source is made: from feeder's seed, in all workers alike.

``np.random.default_rng()`` and ``random.Random()`` without a seed ask the operating system for one. A list of files that is split
at random in ``__init__`` with such a generator is split differently in every worker, and no re-seeding afterwards can mend that. So
while user code is imported, built, told of an epoch, makes an item or begins a stream, their question is answered here; at other
times, and for other threads, the operating system answers as ever.

Covered: NumPy's ``default_rng``, ``SeedSequence``, ``RandomState`` and all bit generators; ``random.Random`` and ``random.seed``.
Not covered, since they are asked for on purpose: ``os.urandom``, ``secrets``, ``SystemRandom``, ``uuid``, the clock, ``torch.seed``.
"""

from __future__ import annotations

import functools
import importlib
import random
import sys
import threading
from collections import Counter
from contextlib import AbstractContextManager
from typing import Any

from feeder_server.importer import own_name
from feeder_server.seeding import derive

_lock = threading.Lock()
_users = 0  # threads (and nested blocks) that need the stand-ins in place
_local = threading.local()
_originals: list[tuple[Any, str, Any, Any]] = []  # holder, name, what was there, what we put there


class _Answers:
    """Answers the questions of one block: the n-th question of a module has the same answer wherever it is asked.

    They are counted per module, because what a library asks for when it is imported happens in the first build only.
    """

    def __init__(self, value: int) -> None:
        self._value = value
        self._asked: Counter[str] = Counter()

    def bits(self, count: int, module: str) -> int:
        self._asked[module] += 1
        words = [derive(self._value, "entropy", module, self._asked[module], word) for word in range(-(-count // 64))]
        return sum(word << 64 * place for place, word in enumerate(words)) & ((1 << count) - 1)


class _Block:
    """What `derived_from` gives. Not made of a generator: this is entered for every item."""

    __slots__ = ("_before", "_value")

    def __init__(self, value: int) -> None:
        self._value = value

    def __enter__(self) -> None:
        self._before = getattr(_local, "answers", None)
        _install()
        _local.answers = _Answers(self._value)

    def __exit__(self, *exc_info: object) -> None:
        _local.answers = self._before
        _uninstall()


def derived_from(value: int) -> AbstractContextManager[None]:
    """Let generators that are made without a seed be seeded from `value`, in this thread and for this block.

    Blocks may be nested; the inner one counts. Takes 5 us, or 2 us after `stay`.
    """
    return _Block(value)


def stay() -> None:
    """Leave the stand-ins in place until this process ends. Outside of blocks they ask the operating system, as ever.

    For workers: to put them there and away again for each item would take half of that time.
    """
    _install()


def _install() -> None:
    global _users
    with _lock:
        _users += 1
        if _users > 1:
            return
        # A module global that SeedSequence looks up at each call: the same from NumPy 1.17 to 2.4.
        numpy_part = importlib.import_module("numpy.random.bit_generator")
        _put(numpy_part, "randbits", _randbits)
        # `__new__` takes its seed in C, and `__init__` then calls this method: patching it leaves the class what it is.
        _put(random.Random, "seed", _seed)
        _put(random, "seed", functools.partial(_seed, random._inst))


def _put(holder: Any, name: str, ours: Any) -> None:
    theirs = getattr(holder, name, None)
    if theirs is not None:
        _originals.append((holder, name, theirs, ours))
        setattr(holder, name, ours)


def _uninstall() -> None:
    global _users
    with _lock:
        _users -= 1
        if _users:
            return
        for holder, name, theirs, ours in _originals:
            if getattr(holder, name, None) is ours:  # else the user has put something there meanwhile, which stays
                setattr(holder, name, theirs)
        _originals.clear()


def _asked_by() -> str:
    """Name the module that wants a seed."""
    frame = sys._getframe(2)
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).partition(".")[0] in ("random", "numpy"):
        frame = frame.f_back
    return own_name(str(frame.f_globals.get("__name__")))


def _randbits(count: int) -> int:
    answers = getattr(_local, "answers", None)
    if answers is None:
        return _system.getrandbits(count)
    return int(answers.bits(count, _asked_by()))


def _seed(self: random.Random, a: Any = None, version: int = 2) -> None:
    answers = getattr(_local, "answers", None)
    if a is None and answers is not None:
        module = _asked_by()
        if module != "tempfile":  # workers that all try the same file names would be in each other's way
            a = answers.bits(128, module)
    _original_seed(self, a, version)


_system = random.SystemRandom()
_original_seed = random.Random.seed
