"""Keras and TensorFlow that are not loaded before they are needed.

Many sources import one of them for nothing but the base class of their Sequence, and `to_categorical`. That costs each worker 4 s and
350 MB. So in a worker these names are first given by *stand-ins*:

    keras, keras.utils, tf_keras, tf_keras.utils                     Sequence, PyDataset, to_categorical, cut out of Keras' own files
    tensorflow, tensorflow.keras, tensorflow.keras.utils             (borrowed.py); the modules in which these really lie

The first touch of anything else, by attribute or import, loads the real libraries, in the order in which they were imported. Then all
is as if it had been so from the start: the names in all modules that held a stand-in hold the real thing, a borrowed class has the real
one for its base (so `isinstance` says what it would have said), and the global generators are as they would be. A stand-in
that somebody holds elsewhere, in a closure say, hands everything on.

Stand-ins are made only where the library is installed, and a name only where its text can be taken as it is: a version of Keras that
is built otherwise is loaded at once, as ever.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import itertools
import os
import sys
import threading
import types
import warnings
from abc import abstractmethod
from collections.abc import Callable, Sequence
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from typing import Any

from feeder_server.borrowed import borrow

_KERAS_3 = {
    "Sequence": ("keras.src.trainers.data_adapters.py_dataset_adapter", "PyDataset"),
    "PyDataset": ("keras.src.trainers.data_adapters.py_dataset_adapter", "PyDataset"),
    "to_categorical": ("keras.src.utils.numerical_utils", "to_categorical"),
}
_KERAS_2 = {
    "Sequence": ("tf_keras.src.utils.data_utils", "Sequence"),
    "to_categorical": ("tf_keras.src.utils.np_utils", "to_categorical"),
}
_TRUE = ("true", "True", "1")  # what TensorFlow takes for yes
_BACKENDS = ("tensorflow", "jax", "torch")  # for which Keras takes no array of NumPy for a tensor
# What code asks of every module that there is, or of a module that it is about to describe. It says nothing of the library.
_ASKED_OF_ALL = frozenset({"__wrapped__", "__warningregistry__", "__bases__", "__class_getitem__", "__test__", "__cached__"})

_finder: _Finder | None = None


def install(around: Callable[[], Any]) -> None:
    """Use stand-ins in this process from now on, for what isn't loaded yet.

    Args:
        around: gives a context manager, in which the real libraries are loaded when they are.
    """
    global _finder
    if _finder is None:
        _finder = _Finder(around)
        sys.meta_path.insert(0, _finder)


def uninstall() -> None:
    """Give this up; stand-ins that are there stay what they are, and load the real thing when they are touched."""
    global _finder
    if _finder is not None and _finder in sys.meta_path:
        sys.meta_path.remove(_finder)
    _finder = None


def is_stand_in(module: object) -> bool:
    """Whether this is no real module."""
    return type(module) is _StandIn


class _StandIn(types.ModuleType):
    """A module that isn't loaded; `_feeder` is the finder that made it, and under which name: the real one may call itself otherwise."""

    def __getattr__(self, name: str) -> Any:
        finder, own = self.__dict__["_feeder"]
        if name in _ASKED_OF_ALL:
            raise AttributeError(f"module {own!r} has no attribute {name!r}")
        return finder.attribute(own, name)

    def __setattr__(self, name: str, value: Any) -> None:
        # The import system makes a submodule an attribute, and modules have their own affairs in dunders.
        if type(value) is not _StandIn and not name.startswith("__"):
            setattr(_real(self), name, value)
        self.__dict__[name] = value

    def __delattr__(self, name: str) -> None:
        delattr(_real(self), name)
        self.__dict__.pop(name, None)

    def __dir__(self) -> list[str]:
        return dir(_real(self))


def _real(module: _StandIn) -> types.ModuleType:
    finder, name = module.__dict__["_feeder"]
    found: types.ModuleType = finder.real(name)
    return found


class _Finder:
    """Finds stand-ins, makes them, and replaces them. Stands on sys.meta_path."""

    def __init__(self, around: Callable[[], Any]) -> None:
        self._around = around
        self._lock = threading.RLock()
        self._made: dict[str, _StandIn] = {}
        self._imported: list[str] = []  # by an import, and not only as an attribute; in this order
        self._borrowed: dict[tuple[str, str], Any] = {}
        self._loading = self._loaded = False

    # -- the import system's questions -------------------------------------------------------------------------------------------

    def find_spec(self, name: str, path: Sequence[str] | None, target: types.ModuleType | None = None) -> ModuleSpec | None:
        """The spec of a stand-in; None: none of our business, or the real one is there by now."""
        top = name.partition(".")[0]
        if top not in _TOPS or self._loading or self._loaded or (name == top and self._really_there()):
            return None
        if name in self._modules and (name == top or top in self._made):
            module = self.make(name)
            spec = ModuleSpec(name, _Loader(self), origin=module.__file__, is_package=True)
            spec.submodule_search_locations = list(module.__path__)
            return spec
        if top not in self._made:
            return None
        # Not to be waited for: who loads will want this very module, whose lock this thread has.
        if not self.load(wait=False):
            return None
        if name in sys.modules:
            return ModuleSpec(name, _Already(sys.modules[name]), origin=getattr(sys.modules[name], "__file__", None))
        return importlib.util.find_spec(name)

    def _really_there(self) -> bool:
        return any(name in sys.modules and name not in self._made for name in _TOPS)

    @functools.cached_property
    def _modules(self) -> dict[str, dict[str, tuple[str, str]]]:
        """What there is to stand in for: modules, and in each the names that are borrowed and where from."""
        found: dict[str, dict[str, tuple[str, str]]] = {}
        for top, names in (("keras", _KERAS_3), ("tf_keras", _KERAS_2)):
            if self._folder(top):
                self._enter(found, f"{top}.utils", names)
                for module, name in names.values():
                    self._enter(found, module, {name: (module, name)})
        if self._folder("tensorflow"):
            old = os.environ.get("TF_USE_LEGACY_KERAS") in _TRUE
            library = "tf_keras" if old else "keras"
            # Before 2.16 TensorFlow had a Keras of its own.
            routed = _mentions(os.path.join(self._folder("tensorflow"), "__init__.py"), "keras._tf_keras.keras")
            found["tensorflow"] = {}
            if routed and f"{library}.utils" in found:
                self._enter(found, "tensorflow.keras.utils", _KERAS_2 if old else _KERAS_3)
        return found

    def _enter(self, found: dict[str, dict[str, tuple[str, str]]], module: str, names: dict[str, tuple[str, str]]) -> None:
        taken = {name: where for name, where in names.items() if self.borrowed(*where) is not None}
        if not taken:
            return
        found.setdefault(module, {}).update(taken)
        while "." in module:
            module = module.rpartition(".")[0]
            found.setdefault(module, {})

    @functools.cache  # noqa: B019 - there is one finder
    def _folder(self, top: str) -> str:
        """Where a library is installed; empty where it isn't, or is no ordinary package."""
        spec = self._real_spec(top)
        if spec is None or not spec.origin or os.path.basename(spec.origin) != "__init__.py":
            return ""
        return os.path.dirname(spec.origin)

    def _real_spec(self, name: str) -> ModuleSpec | None:
        for finder in sys.meta_path:
            if finder is not self and hasattr(finder, "find_spec"):
                found = finder.find_spec(name, None)
                if found is not None:
                    return found
        return None

    # -- stand-ins -----------------------------------------------------------------------------------------------------------------

    def make(self, name: str) -> _StandIn:
        """The stand-in of that name, which there is once."""
        if name not in self._made:
            made = _StandIn(name)
            top, *rest = name.split(".")
            folder = os.path.join(self._folder(top), *rest)
            file = next((f for f in (os.path.join(folder, "__init__.py"), f"{folder}.py") if os.path.isfile(f)), folder)
            made.__dict__.update(__file__=file, __path__=[folder], __package__=name, _feeder=(self, name))
            self._made.setdefault(name, made)
        return self._made[name]

    def imported(self, name: str) -> None:
        """A stand-in got into sys.modules."""
        if name not in self._imported:
            self._imported.append(name)
            try:  # all of them load it, and NumPy knows the name "bfloat16" from then on
                importlib.import_module("ml_dtypes")
            except ImportError:
                pass

    def attribute(self, module: str, name: str) -> Any:
        """What a stand-in has to say for one of its names."""
        full = f"{module}.{name}"
        if not self._loaded:
            where = self._modules[module].get(name)
            if where is not None:
                return self.borrowed(*where)
            if full in self._modules:
                # `import keras` loads keras.utils as well, and `import tensorflow` doesn't load tensorflow.keras.
                return self.make(full) if full.startswith("tensorflow.") else importlib.import_module(full)
        return getattr(self.real(module), name)

    def borrowed(self, module: str, name: str) -> Any:
        """A class or function of a library that isn't loaded; None: it can't be had so."""
        if (module, name) not in self._borrowed:
            import numpy

            top, *rest = module.split(".")
            names = {"itertools": itertools, "warnings": warnings, "np": numpy, "abstractmethod": abstractmethod, "backend": _Backend}
            found = borrow(os.path.join(self._folder(top), *rest) + ".py", name, module, names)
            if isinstance(found, types.FunctionType):
                found = self._for_arrays(found, module) if _backend() in _BACKENDS else None
            self._borrowed[module, name] = found
        return self._borrowed[module, name]

    def _for_arrays(self, function: types.FunctionType, module: str) -> Any:
        @functools.wraps(function)
        def either(*args: Any, **kwargs: Any) -> Any:
            first = args[0] if args else next(iter(kwargs.values()), None)
            if self._loaded or not _is_plain(first):
                self.load()
                return getattr(importlib.import_module(module), function.__name__)(*args, **kwargs)
            return function(*args, **kwargs)

        return either

    # -- the real thing ------------------------------------------------------------------------------------------------------------

    def real(self, name: str) -> types.ModuleType:
        """The module that the stand-in of that name stands in for."""
        self.load()
        found = sys.modules.get(name)
        if found is None or is_stand_in(found):
            parent, _, child = name.rpartition(".")
            if not parent:
                return importlib.import_module(name)
            return getattr(self.real(parent), child)  # type: ignore[no-any-return]
        return found

    def load(self, wait: bool = True) -> bool:
        """Load what has been imported, and put it in the place of the stand-ins.

        Args:
            wait: for another thread that is at it.

        Returns:
            False: another thread is at it. Raises what the libraries raise; then all is as before.
        """
        if not self._lock.acquire(blocking=wait):
            return False
        try:
            if not self._loaded and not self._loading:
                self._load()
        finally:
            self._lock.release()
        return True

    def _load(self) -> None:
        self._loading = True
        away = {name: sys.modules.pop(name) for name in list(sys.modules) if is_stand_in(sys.modules[name])}
        try:
            with self._around():
                for name in list(self._imported):
                    importlib.import_module(name)
        except BaseException:
            sys.modules.update({name: module for name, module in away.items() if name not in sys.modules})
            raise
        finally:
            self._loading = False
        self._loaded = True
        self._replace()

    def _replace(self) -> None:
        others: dict[int, Any] = {}
        for own, module in self._made.items():
            try:
                real = self.real(own)
            except Exception:  # it isn't there in this version: who touches it is told
                continue
            others[id(module)] = real
            vars(module).update({key: value for key, value in vars(real).items() if key != "_feeder"})
        for (where, name), borrowed in self._borrowed.items():
            if borrowed is not None and where.partition(".")[0] in sys.modules:
                real_one = getattr(importlib.import_module(where), name)
                others[id(borrowed)] = real_one
                if isinstance(borrowed, type):
                    _become(borrowed, real_one)
        for holder in list(sys.modules.values()):
            if isinstance(holder, types.ModuleType):
                names: dict[Any, Any] = _DICT.__get__(holder)  # of the module itself, whatever it says
                for key, value in list(names.items()):
                    if id(value) in others and type(key) is str:
                        names[key] = others[id(value)]


_DICT: Any = vars(types.ModuleType)["__dict__"]
_TOPS = ("keras", "tf_keras", "tensorflow")
_TENSORS = frozenset({*_TOPS, "torch", "jax", "jaxlib", "openvino"})


class _Backend:
    """What Keras' function asks of its backend, where the answer is known: see `_is_plain`."""

    @staticmethod
    def is_tensor(x: object) -> bool:
        return False


class _Loader(Loader):
    """Loads a stand-in: there is nothing to do."""

    def __init__(self, finder: _Finder) -> None:
        self._finder = finder

    def create_module(self, spec: ModuleSpec) -> types.ModuleType:
        return self._finder.make(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        self._finder.imported(module.__name__)


class _Already(Loader):
    """Gives a module that was loaded while somebody was about to."""

    def __init__(self, module: types.ModuleType) -> None:
        self._module, self._spec = module, getattr(module, "__spec__", None)

    def create_module(self, spec: ModuleSpec) -> types.ModuleType:
        return self._module

    def exec_module(self, module: types.ModuleType) -> None:
        module.__spec__ = self._spec


def _become(borrowed: type, real: type) -> None:
    """Let a borrowed class be the real one, as far as those who derive from it can tell."""
    try:
        borrowed.__bases__ = (real,)
    except TypeError:  # the real one is built otherwise than a class of Python: then the borrowed one has to do
        return
    for name in list(vars(borrowed)):
        if name not in ("__dict__", "__weakref__", "__module__", "__doc__", "__qualname__"):
            try:
                delattr(borrowed, name)
            except (AttributeError, TypeError):  # what `type` itself keeps there
                continue


def _is_plain(x: object) -> bool:
    """Whether this can be no tensor, of any library."""
    return not any(str(cls.__module__).partition(".")[0] in _TENSORS for cls in type(x).__mro__)


def _mentions(file: str, text: str) -> bool:
    try:
        with open(file, encoding="utf-8") as opened:
            return text in opened.read()
    except (OSError, ValueError):
        return False


def _backend() -> str:
    """Which backend Keras will have."""
    named = os.environ.get("KERAS_BACKEND")
    if named:
        return named
    import json

    base = os.path.expanduser("~")
    home = os.environ.get("KERAS_HOME", os.path.join(base if os.access(base, os.W_OK) else "/tmp", ".keras"))
    try:
        with open(os.path.join(home, "keras.json"), encoding="utf-8") as file:
            return str(json.load(file).get("backend", "tensorflow"))
    except (OSError, ValueError, AttributeError):
        return "tensorflow"
