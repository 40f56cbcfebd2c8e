"""Walk through the objects of a source, and find the random generators in them.

Nothing of the user's runs on the way: only instance dictionaries, slots, and what Python's own types hold are read, never a property,
`__getattr__`, `__iter__` or `__len__`. The walk goes breadth first, and what it skips depends on counts alone, so that every worker
finds the same under the same names. Not looked into: sets, arrays of objects, weak references, objects of most of the standard
library, class attributes and globals of installed packages, and what extension types hide.

Measured on one core of the build machine: 0.1 us for a number or text in a list, 2 us for an object. A source of a few dozen objects
takes 0.1 to 0.5 ms, the most that is walked 40 ms.
"""

from __future__ import annotations

import functools
import gc
import itertools
import logging
import os
import sys
import sysconfig
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

import numpy as np

from feeder_server import draws
from feeder_server.importer import own_name
from feeder_server.library_states import set_count
from feeder_server.states import Setter, state_of

log = logging.getLogger("feeder.walk")

MOST_ITEMS = 1000  # of one list or dict: a million file names hold no generator
MOST_OBJECTS = 20_000

Parts: TypeAlias = Iterable[tuple[str, object]]


def find(roots: dict[str, object]) -> Iterator[tuple[str, object, Setter]]:
    """Give the path of each generator that can be reached, what is to be set in it, and how; the same one may come again.

    Args:
        roots: where to begin, by name.
    """
    queue: deque[tuple[str, object]] = deque(roots.items())
    seen: dict[int, object] = {}  # keeps what was made on the way, or its id could be another's
    own = draws.shared()
    parts_of: dict[int, Callable[[str, Any], Parts] | None] = {}  # by id of the type: hashing a type may be user code
    while queue:
        path, thing = queue.popleft()
        if id(type(thing)) in _ATOMS or id(thing) in seen:
            continue
        if len(seen) >= MOST_OBJECTS:
            _say_once(f"the source holds more than {MOST_OBJECTS} objects; random generators beyond them aren't seeded")
            return
        seen[id(thing)] = thing
        state = state_of(thing)
        if state is not None:
            if thing is not own:
                yield path, *state
            if state[1] is not set_count:  # an iterator holds the user's own things as well
                continue
        kind = id(type(thing))
        if kind not in parts_of:
            parts_of[kind] = _choose(type(thing))
        opened = parts_of[kind]
        if opened is not None:
            queue.extend(opened(path, thing))


@functools.cache
def _say_once(text: str) -> None:
    log.warning(text)


# -- what to look into, by type ---------------------------------------------------------------------------------------------------


def _choose(cls: type) -> Callable[[str, Any], Parts] | None:
    for types_, opened in _OPENED:
        if issubclass(cls, types_):
            return opened
    if _text(_own(cls, "__module__")).partition(".")[0] in _CLOSED:
        return None
    return functools.partial(_attributes, _layout(cls))


def _own(cls: type, name: str) -> Any:
    """Read an attribute of a class that `type` itself defines, whatever its metaclass says."""
    return type.__dict__[name].__get__(cls)


def _text(thing: object) -> str:
    return thing if type(thing) is str else ""


def _layout(cls: type) -> list[tuple[str, Any]]:
    """Find how the attributes of an object are stored: its slots, and "" for its dictionary."""
    found: dict[str, Any] = {}
    for base in _own(cls, "__mro__"):
        for name, value in list(_own(base, "__dict__").items()):
            if name == "__dict__" and "" not in found:
                # Anything but Python's own descriptor is something of the user's, and would run.
                found[""] = value if type(value) in (types.GetSetDescriptorType, types.MemberDescriptorType) else None
            elif type(value) is types.MemberDescriptorType and name != "__dict__":
                found.setdefault(name, value)
    return [(name, descriptor) for name, descriptor in found.items() if descriptor is not None]


def _attributes(layout: list[tuple[str, Any]], path: str, thing: Any) -> Iterator[tuple[str, object]]:
    user_class = _user_class(type(thing))
    if user_class:
        yield user_class
    for name, descriptor in layout:
        try:
            value = descriptor.__get__(thing)
        except Exception:  # a slot that is empty
            continue
        if name:
            yield f"{path}.{name}", value
        elif issubclass(type(value), dict):
            yield from _named(path, value)


def _named(path: str, names: dict[Any, object]) -> Iterator[tuple[str, object]]:
    for name, value in list(dict.items(names)):
        if id(type(value)) not in _ATOMS:
            yield f"{path}.{_text(name)}", value


def _items(path: str, thing: Any) -> Iterator[tuple[str, object]]:
    cls = next(known for known in (list, tuple, deque) if issubclass(type(thing), known))
    for place, value in enumerate(itertools.islice(cls.__iter__(thing), MOST_ITEMS)):
        if id(type(value)) not in _ATOMS:
            yield f"{path}[{place}]", value
    if type(thing) is not cls:
        yield from _attributes(_layout(type(thing)), path, thing)


def _entries(path: str, thing: Any) -> Iterator[tuple[str, object]]:
    if dict.__contains__(thing, "__builtins__"):  # the globals of a module; __spec__ and the like lead into the import system
        yield from _named(path, {name: value for name, value in dict.items(thing) if not _text(name).startswith("__")})
        return
    for place, (key, value) in enumerate(itertools.islice(dict.items(thing), MOST_ITEMS)):
        if id(type(value)) not in _ATOMS:
            # Another key has no text that could be had without its code.
            yield f"{path}[{repr(key) if type(key) in (str, int) else f'#{place}'}]", value
    if type(thing) is not dict:
        yield from _attributes(_layout(type(thing)), path, thing)


def _function(path: str, thing: types.FunctionType) -> Iterator[tuple[str, object]]:
    for name, cell in zip(thing.__code__.co_freevars, thing.__closure__ or (), strict=False):
        yield f"{path}.{name}", cell
    yield f"{path}.__defaults__", thing.__defaults__
    yield f"{path}.__kwdefaults__", thing.__kwdefaults__
    yield from _named(path, thing.__dict__)
    yield from _globals(thing.__globals__)


def _cell(path: str, thing: types.CellType) -> Iterator[tuple[str, object]]:
    try:
        yield path, thing.cell_contents
    except ValueError:  # not yet filled
        return


def _method(path: str, thing: Any) -> Iterator[tuple[str, object]]:
    yield path, thing.__self__
    yield f"{path}.__func__", getattr(thing, "__func__", None)


def _running(path: str, thing: types.GeneratorType[Any, Any, Any]) -> Iterator[tuple[str, object]]:
    if thing.gi_frame is not None:
        yield from _named(path, dict(thing.gi_frame.f_locals))
        yield from _globals(thing.gi_frame.f_globals)
    yield f"{path}.<from>", thing.gi_yieldfrom


def _referents(path: str, thing: Any) -> Iterator[tuple[str, object]]:
    for place, value in enumerate(gc.get_referents(thing)[:MOST_ITEMS]):
        yield f"{path}<{place}>", value


def _module(path: str, thing: types.ModuleType) -> Iterator[tuple[str, object]]:
    yield from _globals(_MODULE_DICT.__get__(thing))


def _globals(names: dict[str, Any]) -> Iterator[tuple[str, object]]:
    if _is_users(names):
        yield own_name(_text(names.get("__name__"))), names


def _class(path: str, thing: type) -> Iterator[tuple[str, object]]:
    if _user_class(thing):
        yield from filter(None, map(_user_class, _own(thing, "__mro__")[1:]))
        yield from _named(path, dict(_own(thing, "__dict__")))


def _user_class(cls: type) -> tuple[str, object] | None:
    """Name a class as a thing to look into, if its module is the user's."""
    name = _text(_own(cls, "__module__"))
    module = sys.modules.get(name)
    # The class of a notebook says __main__, which in a worker is feeder's own module.
    if name != "__main__" and (not isinstance(module, types.ModuleType) or not _is_users(_MODULE_DICT.__get__(module))):
        return None
    return f"{own_name(name)}.{_own(cls, '__qualname__')}", cls


def _is_users(names: dict[str, Any]) -> bool:
    """Whether these are the globals of a module of the user's: neither Python's, nor installed, nor feeder's."""
    return is_users_file(_text(names.get("__name__")), _text(names.get("__file__")))


@functools.cache
def is_users_file(name: str, file: str) -> bool:
    top = name.partition(".")[0]
    if top in sys.stdlib_module_names or top in ("feeder_server", "feeder_wire", "feeder_client"):
        return False
    path = os.path.normcase(os.path.abspath(file)) if file else ""
    if {"site-packages", "dist-packages"} & set(path.split(os.sep)):
        return False
    return not any(path.startswith(folder + os.sep) for folder in _INSTALLED)


_INSTALLED = {os.path.normcase(sysconfig.get_paths()[key]) for key in ("stdlib", "platstdlib", "purelib", "platlib")}
_MODULE_DICT: Any = vars(types.ModuleType)["__dict__"]

_ITERATORS = tuple(thing for thing in vars(itertools).values() if isinstance(thing, type))
_OPENED: list[tuple[Any, Callable[[str, Any], Parts]]] = [
    (types.ModuleType, _module),
    (type, _class),
    (dict, _entries),
    ((list, tuple, deque), _items),
    (types.FunctionType, _function),
    (types.CellType, _cell),
    ((types.MethodType, types.BuiltinMethodType, types.MethodWrapperType), _method),
    (types.GeneratorType, _running),
    ((map, filter, zip, enumerate, reversed, *_ITERATORS), _referents),
]

# Objects of these parts of the standard library hold what users put in; those of the others (loggers, threads, files) do not.
_OPEN = {"builtins", "functools", "collections", "types", "itertools", "operator", "random", "contextlib", "queue", "dataclasses"}
_CLOSED = sys.stdlib_module_names - _OPEN
_ATOMS = {
    id(cls)
    for cls in (
        *(int, float, complex, bool, str, bytes, bytearray, memoryview, range, slice, set, frozenset, object),
        *(type(None), type(...), type(NotImplemented)),
        *(types.CodeType, types.FrameType, types.TracebackType, types.CoroutineType, types.AsyncGeneratorType),
        *(types.GetSetDescriptorType, types.MemberDescriptorType, types.MethodDescriptorType, types.WrapperDescriptorType),
        *(np.ndarray, np.dtype, np.ufunc),
    )
}
