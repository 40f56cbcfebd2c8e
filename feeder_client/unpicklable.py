"""Says in the user's own names why an object can't be handed to worker processes, and what to write instead.

Python names only the type in the way ("cannot pickle '_thread.lock' object"). The search here names the place: it follows
what pickling follows (attributes, containers, closures, globals, defaults, the class itself where that travels by value), and
goes down wherever the part by itself can't be pickled either. It runs only after pickling has failed, and is bounded.
"""

from __future__ import annotations

import dis
import functools
import inspect
import json
import os
import re
import sys
import time
import types
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from feeder_wire.errors import ConfigError
from feeder_wire.parcel import picklable

_MAX_CHECKS = 5000
_MAX_SECONDS = 10.0
_MAX_DEPTH = 25
_MAX_ITEMS = 1000

_FIRST_USE = "Or keep only its name, and open it in the worker on first use."
_START = "Or start it in the worker on first use."
# By the full name of a class, or the module of a class, anywhere among an object's bases. Such an object isn't looked into.
_HINTS = {
    "_thread.lock": "Or do without: a worker makes one batch at a time.",
    "_thread.RLock": "Or do without: a worker makes one batch at a time.",
    "threading": "Or do without: a worker makes one batch at a time.",
    "threading.Thread": _START,
    "queue": _START,
    "concurrent.futures._base.Executor": _START,
    "builtins.generator": "Or keep the function that makes it, and call that in the worker on first use.",
    "_io._IOBase": _FIRST_USE,
    "tempfile": _FIRST_USE,
    "mmap.mmap": _FIRST_USE,
    "zipfile": _FIRST_USE,
    "tarfile": _FIRST_USE,
    "sqlite3": _FIRST_USE,
    "_socket.socket": "Or keep only its address, and connect in the worker on first use.",
    "h5py._hl.base.HLObject": _FIRST_USE,
    "lmdb.cpython": _FIRST_USE,
    "tables.file": _FIRST_USE,
    "netCDF4._netCDF4": _FIRST_USE,
    "tensorflow": "Or keep NumPy arrays or file names, and make it in the worker on first use.",
}


@dataclass(frozen=True, slots=True)
class _Place:
    """A part of the object: its value, the path to it as the user would write it, and what the path's first name is."""

    value: Any
    path: str
    note: str = ""


def explain(obj: Any, error: BaseException) -> ConfigError:
    """Explain why `obj` couldn't be packed.

    Args:
        obj: what the user handed over.
        error: what `feeder_wire.parcel.pack` raised.

    Returns:
        The error to raise, ``from error``. It names the part in the way by its path, and the call that works.
    """
    name = _name_of(obj)
    if inspect.isgenerator(obj):
        return ConfigError(_about_generator(obj, name))
    place = _Place(obj, name)
    with suppress(Exception):  # much of what runs here is the user's; the explanation must not hide the error
        place = _Search().deepest(place) or place
    note = place.note.removeprefix(f"{place.path} is ")
    subject = "it" if place.path == name else place.path + (f" ({note})" if note else "")
    lines = [f"feeder can't send {name} to its workers: {subject} is {_describe(place.value)}, which can't be pickled."]
    hint = _hint(place.value)
    if not hint:
        reason = str(picklable(place.value) or error).strip().split("\n")[0]
        lines[0] += f" ({reason[:200]})"
    return ConfigError("\n".join([*lines, *_advice(obj, name), *([hint] if hint else [])]))


class _Search:
    """One search; remembers what it has tried, and keeps it alive, so that no id is used twice."""

    def __init__(self) -> None:
        self._tried: dict[int, tuple[Any, bool]] = {}
        self._deadline = time.monotonic() + _MAX_SECONDS

    def deepest(self, place: _Place, depth: int = 0) -> _Place | None:
        """The part of `place` that stands in the way; None if that lies elsewhere: `place` only refers back to a part above it."""
        refers_back = False
        self._tried.setdefault(id(place.value), (place.value, True))
        for child in _children(place) if depth < _MAX_DEPTH else ():
            if id(child.value) in self._tried:
                refers_back |= self._tried[id(child.value)][1]
                continue
            if len(self._tried) >= _MAX_CHECKS or time.monotonic() > self._deadline:
                break
            bad = picklable(child.value) is not None
            self._tried[id(child.value)] = (child.value, bad)
            if bad and (found := self.deepest(child, depth + 1)):
                return found
            refers_back |= bad
        return None if refers_back else place


def _children(place: _Place) -> Iterator[_Place]:
    """What pickling would follow from here."""
    value, path, note = place.value, place.path, place.note
    if isinstance(value, types.FunctionType):
        yield from _function_parts(value)
    elif isinstance(value, types.MethodType):
        yield _Place(value.__self__, _name_of(value.__self__))
        yield _Place(value.__func__, value.__func__.__qualname__)
    elif isinstance(value, (staticmethod, classmethod)):
        yield _Place(value.__func__, path)
    elif isinstance(value, property):
        yield from (_Place(function, path) for function in (value.fget, value.fset, value.fdel))
    elif isinstance(value, functools.partial):
        for part in ("func", "args", "keywords"):
            yield _Place(getattr(value, part), f"{path}.{part}", note)
    elif isinstance(value, type):
        for key, part in list(vars(value).items()):
            if key != "_abc_impl" and not isinstance(part, (types.GetSetDescriptorType, types.MemberDescriptorType)):  # not pickled
                yield _Place(part, f"{_label(value)}.{key}")
        yield from (_Place(base, _label(base)) for base in value.__bases__)
    else:
        if isinstance(value, dict):
            for key, part in list(value.items())[:_MAX_ITEMS]:
                yield _Place(part, f"{path}[{_short(key)}]", note)
        elif isinstance(value, (list, tuple, set, frozenset, deque)):
            for index, part in enumerate(list(value)[:_MAX_ITEMS]):
                yield _Place(part, f"{path}[{index}]", note)
        if not _hint(value):
            for key, part in _attributes(value):
                yield _Place(part, f"{path}.{key}", note)
            yield _Place(type(value), _label(type(value)))


def _function_parts(function: types.FunctionType) -> Iterator[_Place]:
    label = _label(function)
    for key, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with suppress(ValueError):  # not bound yet
            yield _Place(cell.cell_contents, key, f"{key} is a variable that {label} uses")
    for key in sorted(_globals_used(function.__code__)):
        if key in function.__globals__:
            yield _Place(function.__globals__[key], key, f"{key} is a variable that {label} uses")
    for key, parameter in inspect.signature(function).parameters.items():
        if parameter.default is not parameter.empty:
            yield _Place(parameter.default, key, f"{key} is a default argument of {label}")


def _globals_used(code: types.CodeType) -> set[str]:
    names = {str(step.argval) for step in dis.get_instructions(code) if step.opname == "LOAD_GLOBAL"}
    return names.union(*(_globals_used(part) for part in code.co_consts if isinstance(part, types.CodeType)))


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    """What pickling takes of an instance, by the names the user gave them. The insides of a library's object are no help."""
    kind = type(value)
    if not _is_users(kind) and kind.__module__.partition(".")[0] in sys.stdlib_module_names and kind is not types.SimpleNamespace:
        return
    reduced: Any = None
    with suppress(Exception):  # the user's own __getstate__ and __reduce__; and what can't be reduced at all has no parts
        reduced = value.__reduce_ex__(5)
    state = reduced[2] if isinstance(reduced, tuple) and len(reduced) > 2 else None
    for names in state if isinstance(state, tuple) and len(state) == 2 else (state,):  # a pair where there are __slots__
        for key, part in list(names.items())[:_MAX_ITEMS] if isinstance(names, dict) else ():
            if isinstance(key, str) and (_is_users(kind) or not key.startswith("_")):
                yield re.sub(r"^_[^_]\w*?(?=__)", "", key), part  # the user wrote self.__lock


def _is_users(kind: type) -> bool:
    """Whether a class is the user's own: neither Python's nor from an installed package."""
    if kind.__module__ == "__main__":
        return True
    file = getattr(sys.modules.get(kind.__module__), "__file__", None) or ""
    folders = file.replace("\\", "/").split("/")
    return (
        file.endswith(".py")
        and kind.__module__.partition(".")[0] not in sys.stdlib_module_names
        and not {"site-packages", "dist-packages"} & set(folders)
    )


def _hint(value: Any) -> str:
    for kind in type(value).__mro__:
        full = f"{kind.__module__}.{kind.__qualname__}"
        for key in (full, kind.__module__, "tensorflow" if full.startswith("tensorflow.") else ""):
            if key in _HINTS and not _is_users(type(value)):
                return _HINTS[key]
    return ""


def _describe(value: Any) -> str:
    if inspect.isgenerator(value):
        return f"a generator object (made by {value.gi_code.co_name})"
    if isinstance(value, (types.FunctionType, type)):
        return f"a {'class' if isinstance(value, type) else 'function'} ({_label(value)})"
    kind = type(value)
    full = f"{kind.__module__}.{kind.__qualname__}"
    if full in ("_thread.lock", "_thread.RLock"):
        return f"a threading.{'Lock' if full == '_thread.lock' else 'RLock'} ({full})"
    bases = {f"{base.__module__}.{base.__qualname__}" for base in kind.__mro__}
    if "tensorflow.python.data.ops.dataset_ops.DatasetV2" in bases:
        return "a tf.data.Dataset"
    if "_io._IOBase" in bases:
        file = getattr(value, "name", None)
        return f"an open file ({full}{f' of {file!r}' if isinstance(file, str) else ''})"
    top = kind.__module__.partition(".")[0]
    if getattr(sys.modules.get(top), kind.__name__, None) is kind:
        full = kind.__name__ if top in ("__main__", "builtins") else f"{top}.{kind.__name__}"  # the name it is imported by
    return f"{'an' if full[0] in 'aeioAEIO' or top == 'h5py' else 'a'} {full}"


def _about_generator(generator: types.GeneratorType[Any, Any, Any], name: str) -> str:
    function = generator.gi_code.co_name
    head = f"feeder can't send {name} to its workers: it is a generator object, which can't be pickled and runs only once."
    if not function.isidentifier():
        return f"{head}\nWrite it as a generator function, one that says yield, and pass that without calling it."
    code = generator.gi_code
    held = generator.gi_frame.f_locals if generator.gi_frame else {}
    parameters = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    if parameters[:1] == ("self",) and "self" in held:
        function, parameters = f"{_name_of(held['self'])}.{function}", parameters[1:]
    arguments = {key: _literal(held.get(key)) for key in parameters}
    return f"{head}\nPass the function that makes it, without calling it:\n    {_call(function, arguments)}"


def _advice(obj: Any, name: str) -> list[str]:
    """How to name code in place of the object."""
    made: Any = obj if isinstance(obj, (types.FunctionType, type)) else type(obj)
    what = "function" if isinstance(obj, types.FunctionType) else "class"
    arguments: dict[str, str] = {}
    if (isinstance(made, types.FunctionType) or _is_users(made)) and made.__name__.isidentifier():
        attribute = made.__name__
        arguments = _arguments(made, obj)
    else:  # an object of a library, a lambda, a bound method
        what, attribute = "function that makes it", f"make_{name}" if name.isidentifier() else "make_batches"
        made = explain
    script = getattr(sys.modules.get("__main__"), "__file__", None) or ""
    module = made.__module__
    if made is not explain and module != "__main__" and getattr(sys.modules.get(module), "__file__", None):
        call = _call(f'"{module}:{attribute}"', arguments)
        return [f"Let the workers make their own: name the {what} instead of handing over the object:", f"    {call}"]
    file = os.path.basename(script) if script.endswith(".py") else re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", attribute).lower() + ".py"
    article = "a" if what.endswith("it") else "the"
    lines = [
        f"Let the workers make their own: put {article} {what} in a file and name it:",
        "    " + _call(f'"{file}:{attribute}"', arguments),
    ]
    if script.endswith(".py"):
        guard = 'if __name__ == "__main__":'
        lines.append(
            f"A separate file is better: the workers import it, and the top-level code of {file} would run again, unless under `{guard}`."
        )
    return lines


def _arguments(made: Any, obj: Any) -> dict[str, str]:
    """The arguments that are needed or seem to be in use, as text; "..." for what doesn't fit on a line."""
    found: dict[str, str] = {}
    with suppress(TypeError, ValueError):  # no signature
        for key, parameter in inspect.signature(made).parameters.items():
            value = getattr(obj, "__dict__", {}).get(key) if made is type(obj) else None
            needed = parameter.default is parameter.empty
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) or not (needed or _is_plain(value)):
                continue
            if needed or type(value) is not type(parameter.default) or value != parameter.default:
                found[key] = _literal(value)
    return found


def _call(target: str, arguments: dict[str, str]) -> str:
    items = ", ".join(f'"{key}": {value}' for key, value in arguments.items())
    return f"FeederSequence.local({target}, workers=4{f', args={{{items}}}' if items else ''})"


def _is_plain(value: Any) -> bool:
    return type(value) in (bool, int, float, str) and len(repr(value)) <= 30


def _literal(value: Any) -> str:
    if not _is_plain(value):
        return "..."
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 30 else text[:27] + "..."


def _label(thing: Any) -> str:
    return str(thing.__qualname__).rpartition("<locals>.")[2]


def _name_of(obj: Any) -> str:
    """The variable that holds `obj` where feeder was called, else what the object is."""
    if isinstance(obj, (types.FunctionType, type)) and obj.__name__.isidentifier():
        return obj.__name__
    if isinstance(obj, types.MethodType):
        return f"{_name_of(obj.__self__)}.{obj.__name__}"
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None:
        if str(frame.f_globals.get("__name__", "")).partition(".")[0] not in ("feeder_client", "feeder_wire"):
            for key, value in list(frame.f_locals.items()):
                if value is obj and not key.startswith("_"):
                    return key
        frame = frame.f_back
    return "this lambda" if isinstance(obj, types.FunctionType) else f"{type(obj).__name__}(...)"
