"""A digest of the user's code behind a source, so that a client can tell that two nodes run different versions of it."""

from __future__ import annotations

import hashlib
import os
import sys
import types
from collections.abc import Iterator

from feeder_server.importer import module_name
from feeder_server.target import Target
from feeder_server.walk import is_users_file

DIGEST_BYTES = 16


def code_version(target: Target) -> bytes:
    """Digest the module of a target that has been loaded, and what it imports of the user's own modules.

    The names and the text count, not the folders or the line ends: one node may run on Windows. Empty where there is no text to read.
    """
    first = module_name(os.path.abspath(target.location))[0] if target.is_file else target.location
    state = hashlib.blake2b(digest_size=DIGEST_BYTES)
    texts = sorted(_texts(first))
    for name, text in texts:
        state.update(f"{len(name)} {name} {len(text)} ".encode("utf-8", "backslashreplace") + text)
    return state.digest() if texts else b""


def _texts(first: str) -> Iterator[tuple[str, bytes]]:
    waiting, seen = [first], {first}
    while waiting:
        name = waiting.pop()
        module = sys.modules.get(name)
        file = getattr(module, "__file__", None)
        if not isinstance(module, types.ModuleType) or not isinstance(file, str) or not is_users_file(name, file):
            continue
        try:
            with open(file, "rb") as opened:
                text = opened.read()
        except OSError:  # in a zip file, or gone
            continue
        yield name, text.replace(b"\r\n", b"\n")
        for used in _used_by(module):
            if used not in seen:
                seen.add(used)
                waiting.append(used)


def _used_by(module: types.ModuleType) -> Iterator[str]:
    for value in list(vars(module).values()):
        if isinstance(value, types.ModuleType):
            yield value.__name__
        elif isinstance(value, (type, types.FunctionType)) and isinstance(value.__module__, str):
            yield value.__module__
