"""What a module of the user's draws while it is imported is its own affair, whoever imports it, and when.

    common.py     IDS = np.random.permutation(1000); TRAIN, VALIDATION = IDS[:800], IDS[800:]
    train.py      import augment, common            val.py     import common

Were `common` just run when somebody imports it, the split would depend on what `augment` has drawn before: on the order of the sources
on the command line, and with training and validation on two servers each would have a split of its own. So each module of the user's
begins from the seed for imports, and when it is done the global generators are as they were before it. A library that draws when
it is first imported changes nothing for the module that imports it, and one that is loaded by then is seeded as if it had been before.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import SourceFileLoader
from types import ModuleType
from typing import Any

from feeder_server import entropy, seeding
from feeder_server.undisturbed import undisturbed
from feeder_server.walk import is_users_file

_local = threading.local()


@contextmanager
def seeded(value: int) -> Iterator[None]:
    """Let modules that this block imports in this thread begin from `value`. Blocks may be nested; the outer one counts."""
    if getattr(_local, "value", None) is not None:
        yield
        return
    _local.value, _local.in_library = value, False
    had = SourceFileLoader.__dict__.get("exec_module", _MISSING)
    original = SourceFileLoader.exec_module

    def exec_module(self: SourceFileLoader, module: ModuleType) -> None:
        if getattr(_local, "value", None) is None:  # another thread
            original(self, module)
        else:
            _run(original, self, module)

    SourceFileLoader.exec_module = exec_module  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        _local.value = None
        if had is _MISSING:
            del SourceFileLoader.exec_module
        else:
            SourceFileLoader.exec_module = had  # type: ignore[method-assign]


_MISSING = object()


def _run(original: Any, loader: SourceFileLoader, module: ModuleType) -> None:
    if is_users_file(module.__name__, str(loader.path)):
        in_library, _local.in_library = _local.in_library, False
        try:
            with undisturbed(loading=module.__name__), entropy.derived_from(_local.value):
                seeding.seed_globals(_local.value)
                original(loader, module)
        finally:
            _local.in_library = in_library
    elif _local.in_library:
        original(loader, module)
    else:
        _local.in_library = True
        try:
            with undisturbed(loading=module.__name__):
                original(loader, module)
        finally:
            _local.in_library = False
