"""What makes two calls the same: the code of a function and everything that goes into it, as a digest that is the same in all workers.

For `feeder_server.shared`, see sharing.py. What is looked at: the function's code, its defaults, the variables it has from around it, the
globals of the user's modules that it reads, its arguments, and for a method the object that it belongs to. Random generators count by
their kind only: they are seeded for the call. Nothing of the user's runs on the way, but for the repr of Python's own types.

Whatever can't be looked into (a lock, an open file, an object of an extension) makes it impossible to tell, and the user is asked for a
key: to share what isn't the same would be wrong data, and nobody would know.
"""

from __future__ import annotations

import dis
import enum
import functools
import hashlib
import mmap
import os
import random
import sys
import types
from collections import deque
from typing import Any

import numpy as np

from feeder_server.importer import own_name
from feeder_server.states import state_of
from feeder_server.walk import is_users_file

_ATOMS = frozenset({int, float, complex, bool, str, bytes, bytearray, range, slice, type(None), type(...), type(NotImplemented)})
_PLAIN_MODULES = frozenset({"datetime", "decimal", "fractions", "uuid", "zoneinfo", "re", "ipaddress"})  # their repr says all
_GENERATORS = (random.Random, np.random.RandomState, np.random.Generator, np.random.BitGenerator)
_CACHED = type(functools.lru_cache(lambda: None))
_POINTER_BYTES = 8


class CanNotTellError(Exception):
    """Something can't be looked into; the text says what, and where."""


def name_of(function: Any) -> str:
    """Name a function for people, and for its seeds: the same in all workers, and on all machines."""
    function = _innermost(function)
    owner = function if hasattr(function, "__qualname__") else type(function)
    return f"{own_name(str(getattr(owner, '__module__', None) or 'builtins'))}.{owner.__qualname__}"


def identity_of(function: Any, args: tuple[object, ...], kwargs: dict[str, object], key: object = None) -> str:
    """Digest a call.

    Args:
        function: what is called.
        args, kwargs: its arguments.
        key: counts in place of the arguments, and of what the function has from around it; the code still counts.

    Returns:
        32 hexadecimal digits, the same in every process that runs the same code under the same Python.

    Raises:
        CanNotTellError: see the class.
    """
    digest = _Digest()
    digest.word("name", name_of(function))
    if key is not None:
        code = getattr(_innermost(function), "__code__", None)
        if code is not None:
            digest.code(code)
        digest.put("key", key)
    else:
        digest.put(name_of(function), function)
        digest.put("args", args)
        for name in sorted(kwargs):
            digest.word("argument", name)
            digest.put(name, kwargs[name])
    return digest.hex()


def _innermost(function: Any) -> Any:
    while isinstance(function, (functools.partial, types.MethodType, _CACHED)):
        if isinstance(function, functools.partial):
            function = function.func
        else:
            function = function.__func__ if isinstance(function, types.MethodType) else function.__wrapped__
    return function


class _Digest:
    """Takes things in, one after the other; each with its kind and length, so that no two rows of things are the same text."""

    def __init__(self, seen: dict[int, tuple[int, object]] | None = None) -> None:
        self._state = hashlib.blake2b(digest_size=16)
        self._seen = {} if seen is None else seen  # keeps what was made on the way, or its id could be another's

    def hex(self) -> str:
        return self._state.hexdigest()

    def word(self, kind: str, text: str) -> None:
        raw = text.encode("utf-8", "surrogatepass")
        self._state.update(f"{kind} {len(raw)} ".encode() + raw)

    def put(self, path: str, thing: Any) -> None:
        """Take in anything. Raises `CanNotTellError` with `path`."""
        cls = type(thing)
        if cls in _ATOMS:
            self.word(cls.__name__, repr(thing))
            return
        if id(thing) in self._seen:
            self.word("again", str(self._seen[id(thing)][0]))
            return
        self._seen[id(thing)] = len(self._seen), thing
        self.word("a", f"{cls.__module__}.{cls.__qualname__}")
        self._open(path, thing, cls)

    def _open(self, path: str, thing: Any, cls: type) -> None:
        if _is_installed(thing):
            self._named(path, thing)
        elif isinstance(thing, (list, tuple, deque)):
            self._items(path, thing)
        elif isinstance(thing, dict):
            self._entries(path, thing)
        elif isinstance(thing, (set, frozenset)):
            self._set(path, thing)
        elif isinstance(thing, (type, types.ModuleType, types.BuiltinFunctionType, np.ufunc)):
            self._named(path, thing)
        elif isinstance(thing, (functools.partial, types.MethodType, types.FunctionType, _CACHED)):
            self._callable(path, thing)
        elif isinstance(thing, np.ndarray):
            self._array(path, thing)
        elif isinstance(thing, enum.Enum):
            self.word("member", thing.name if isinstance(thing.name, str) else repr(thing.value))
        elif isinstance(thing, os.PathLike):
            self.word("path", repr(os.fspath(thing)))
        elif isinstance(thing, (np.generic, np.dtype)) or cls.__module__.partition(".")[0] in _PLAIN_MODULES:
            self.word("repr", repr(thing))
        elif isinstance(thing, _GENERATORS) or state_of(thing) is not None:
            self.word("generator", "")
        else:
            self._object(path, thing, cls)

    def _items(self, path: str, thing: Any) -> None:
        items = list(thing)
        if set(map(type, items)) <= _ATOMS:  # a million file names
            self.word("items", repr(items))
            return
        self.word("count", str(len(items)))
        for place, item in enumerate(items):
            self.put(f"{path}[{place}]", item)

    def _entries(self, path: str, thing: dict[Any, Any]) -> None:
        self.word("count", str(len(thing)))
        for name, value in list(dict.items(thing)):
            self.put(f"a key of {path}", name)
            self.put(f"{path}[{name!r:.60}]" if type(name) in _ATOMS else path, value)

    def _set(self, path: str, thing: Any) -> None:
        parts = []
        for item in set(thing):  # in an order that differs from process to process
            part = _Digest()
            part.put(f"an item of {path}", item)
            parts.append(part.hex())
        self.word("set", " ".join(sorted(parts)))

    def _named(self, path: str, thing: Any) -> None:
        holder = getattr(thing, "__self__", None)
        if holder is not None and not isinstance(holder, (types.ModuleType, type)):
            self.put(path, holder)
        self.word("name", f"{getattr(thing, '__module__', '')}.{getattr(thing, '__qualname__', getattr(thing, '__name__', ''))}")

    def _callable(self, path: str, thing: Any) -> None:
        if isinstance(thing, functools.partial):
            for name, part in (("func", thing.func), ("args", thing.args), ("keywords", thing.keywords)):
                self.put(f"{path}.{name}", part)
        elif isinstance(thing, types.MethodType):
            self.put(path, thing.__func__)
            self.put("self", thing.__self__)
        elif isinstance(thing, types.FunctionType):
            self._function(path, thing)
        else:
            self.put(path, thing.__wrapped__)

    def _function(self, path: str, thing: types.FunctionType) -> None:
        self.word("function", f"{own_name(str(thing.__module__))}.{thing.__qualname__}")
        self.code(thing.__code__)
        self.put(f"the defaults of {path}", (thing.__defaults__, thing.__kwdefaults__))
        for name, cell in zip(thing.__code__.co_freevars, thing.__closure__ or (), strict=False):
            try:
                value = cell.cell_contents
            except ValueError:  # not yet filled
                continue
            self.put(name, value)
        module = str(thing.__globals__.get("__name__"))
        if module != "__main__" and not is_users_file(module, str(thing.__globals__.get("__file__") or "")):
            return
        for name in sorted(_globals_read(thing.__code__)):
            if name in thing.__globals__:
                self._global(name, thing.__globals__[name])

    def _global(self, name: str, value: object) -> None:
        # What two sources of one node see in a module is mostly the same; so what can't be told here is no reason to give up.
        part = _Digest(dict(self._seen))
        try:
            part.put(name, value)
        except CanNotTellError:
            return
        self.word(f"global {name}", part.hex())

    def code(self, code: types.CodeType) -> None:
        """Take in what a function does; not where it stands in its file."""
        self.word("code", code.co_code.hex())
        self.word("names", repr((code.co_names, code.co_varnames, code.co_freevars, code.co_argcount, code.co_kwonlyargcount)))
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                self.code(constant)
            else:
                self.put("a constant", constant)

    def _array(self, path: str, thing: Any) -> None:
        self.word("array", f"{thing.dtype!r} {thing.shape}")
        if thing.dtype.hasobject or thing.dtype.kind == "T":
            self._items(path, thing.ravel().tolist())
        elif isinstance(thing, np.memmap) and isinstance(thing.base, mmap.mmap) and thing.filename:
            self.word("mapped", f"{thing.filename} {thing.offset}")  # it may be larger than memory
        else:
            self._state.update(np.ascontiguousarray(np.asarray(thing)).reshape(-1).view(np.uint8).data)
            if isinstance(thing, np.ma.MaskedArray):
                self.put(f"{path}.mask", np.asarray(thing.mask))

    def _object(self, path: str, thing: Any, cls: type) -> None:
        if not _holds_all_in_attributes(cls):
            raise CanNotTellError(f"{path} is a {cls.__module__}.{cls.__qualname__}")
        attributes = dict(getattr(thing, "__dict__", {}))
        for base in cls.__mro__:
            for name, slot in vars(base).items():
                if isinstance(slot, types.MemberDescriptorType):
                    try:
                        attributes[name] = slot.__get__(thing)
                    except AttributeError:  # empty
                        continue
        for name in sorted(attributes):
            self.word("attribute", name)
            self.put(f"{path}.{name}", attributes[name])


def _is_installed(thing: Any) -> bool:
    """Whether this is a function or class of an installed package, to be found there under its own name: the same for all."""
    kind = sys.modules.get(type(thing).__module__)
    if not callable(thing) or kind is None or is_users_file(kind.__name__, str(getattr(kind, "__file__", None) or "")):
        return False  # an object of a class of the user's, whose attributes may be code of theirs
    module, qualname = getattr(thing, "__module__", None), getattr(thing, "__qualname__", getattr(thing, "__name__", None))
    if not isinstance(module, str) or not isinstance(qualname, str) or module == "__main__":
        return False
    found: object = sys.modules.get(module)
    if found is None or is_users_file(module, str(getattr(found, "__file__", None) or "")):
        return False
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found is thing


def _holds_all_in_attributes(cls: type) -> bool:
    """Whether its objects have no more than a dictionary and slots; what C code keeps in them nobody can see. Much as pickle tells it."""
    slots, has_dictionary = 0, False
    for base in cls.__mro__[-2::-1]:  # all but `object`
        names = vars(base)
        has_dictionary = has_dictionary or "__dict__" in names
        if not has_dictionary and "__slots__" not in names:  # a class of C, for one of Python has one or the other
            return False
        slots += sum(isinstance(value, types.MemberDescriptorType) for value in names.values())
    most = object.__basicsize__ + _POINTER_BYTES * (slots + 2)  # with the dictionary, and weak references
    return cls is not object and not cls.__itemsize__ and cls.__basicsize__ <= most


def _globals_read(code: types.CodeType) -> set[str]:
    read, written = set(), set()
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            read.add(str(step.argval))
        elif step.opname in ("STORE_GLOBAL", "DELETE_GLOBAL"):  # a counter, or its own cache: no two calls would be the same
            written.add(str(step.argval))
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            read |= _globals_read(constant)
    return read - written
