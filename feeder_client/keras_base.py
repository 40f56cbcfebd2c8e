"""Finds the class that Keras wants a dataset to be, without importing a Keras that the user doesn't use."""

from __future__ import annotations

import importlib
import os
import sys
from dataclasses import dataclass
from types import FrameType, ModuleType
from typing import Any

from feeder_wire.errors import ConfigError

_BASES = ("PyDataset", "Sequence")


def find_base(keras: ModuleType | str | None = None) -> type[Any]:
    """The base class for a dataset: ``keras.utils.PyDataset`` in Keras 3, ``Sequence`` in Keras 2 and tf_keras.

    Args:
        keras: the module whose ``fit`` will be called, or its name; None: the one that is loaded, ``keras`` before ``tf_keras``.

    Raises:
        ConfigError: there is none, or the argument is none.
    """
    module = _import(keras) if isinstance(keras, str) else keras or _loaded()
    utils = getattr(module, "utils", None)
    for name in _BASES:
        found = getattr(utils, name, None)
        if isinstance(found, type):
            return found
    raise ConfigError(f"keras={keras!r} has neither utils.PyDataset nor utils.Sequence: pass the module whose model.fit you call")


_made: dict[tuple[type[Any], type[Any]], type[Any]] = {}


def with_base(cls: type[Any], base: type[Any]) -> type[Any]:
    """A class of ours over one of Keras': `cls` itself where it is one, else one that is made once for each pair."""
    if issubclass(cls, base):
        return cls
    key = (cls, base)
    if key not in _made:
        _made[key] = type(cls.__name__, (cls, base), {"__module__": cls.__module__, "__doc__": cls.__doc__})
    return _made[key]


def base_of(cls: type[Any], adapter: type[Any]) -> type[Any]:
    """Keras' class among the bases of `cls`, which `FeederSequence` (`adapter`) has made, or the user from one that it has made."""
    for base in cls.__mro__:
        if base.__name__ in _BASES and not issubclass(base, adapter):
            return base
    raise ConfigError(f"{cls.__name__} has no Keras class among its bases: make it by calling it")


@dataclass(frozen=True, slots=True)
class Pass:
    """What Keras lets us know of a pass.

    Attributes:
        shuffle: whether it asks for the indices out of sequence; None: not known, as the next.
        look: whether it only builds the model with what it gets.
        reader: its own object that reads the data, another one in each fit.
        parts: it reads one pass in several of its epochs, with ``steps_per_epoch``.
    """

    shuffle: bool | None = None
    look: bool | None = None
    reader: object | None = None
    parts: bool = False


_READERS = {"PyDatasetAdapter": ("py_dataset", "shuffle"), "KerasSequenceAdapter": ("_keras_sequence", "_shuffle_sequence")}
_DEPTH = 12


def announced(dataset: object, frame: FrameType | None) -> Pass:
    """Read in the stack what Keras doesn't say: who reads `dataset`, and what for. All unknown where it looks otherwise.

    Keras hands over neither its `shuffle` nor that it begins with a pass that is thrown away. Both can be inferred from what it asks for,
    but not always at the first batch (see order.py); so this is worth a look, and nothing depends on it.
    """
    reader: object | None = None
    shuffle: bool | None = None
    parts = False
    for _ in range(_DEPTH):
        if frame is None:
            break
        if frame.f_code.co_name == "_enumerate_iterator":
            parts = getattr(frame.f_locals.get("self"), "steps_per_epoch", None) is not None
        if reader is None:
            owner = frame.f_locals.get("self")
            names = _READERS.get(type(owner).__name__)
            if names is not None and getattr(owner, names[0], None) is dataset:
                reader, shuffle = owner, getattr(owner, names[1], None)
        elif frame.f_code.co_name in ("_symbolic_build", "_maybe_symbolic_build"):
            return Pass(shuffle if isinstance(shuffle, bool) else None, True, reader)
        elif frame.f_code.co_name == "fit":
            return Pass(shuffle if isinstance(shuffle, bool) else None, False, reader, parts)
        frame = frame.f_back
    return Pass(shuffle if isinstance(shuffle, bool) else None, None, reader)


def takes_tensors(dataset: object, frame: FrameType | None) -> bool:
    """Is it Keras' own reader that asks `dataset` for a batch in `frame`, and is the next thing it does to make torch's tensors of it?

    A generator of ``PyDatasetAdapter``, read by the dataset that converts for a torch DataLoader. False where it looks otherwise.
    """
    # Names of modules come first: ``f_locals`` of a frame, once asked for, holds what lies there now, such as the batch before this one.
    if frame is None or not _is_of(frame, "py_dataset_adapter"):
        return False
    above = frame.f_back
    if above is None or above.f_code.co_name != "__iter__" or not _is_of(above, "data_adapter_utils"):
        return False
    return getattr(frame.f_locals.get("self"), "py_dataset", None) is dataset


def _is_of(frame: FrameType, module: str) -> bool:
    return str(frame.f_globals.get("__name__")).rpartition(".")[2] == module


def on_torch(base: type[Any]) -> bool:
    """Does the Keras with this class for its datasets compute with torch? Looked up in what is loaded: imports nothing."""
    module = sys.modules.get(base.__module__.partition(".")[0])
    backend = getattr(getattr(module, "config", None), "backend", None)
    return base.__name__ == "PyDataset" and "torch" in sys.modules and callable(backend) and backend() == "torch"


def announces_passes(base: type[Any]) -> bool:
    """Does a Keras with this class for its datasets say when a pass begins? Keras 2 doesn't."""
    return hasattr(base, "on_epoch_begin")


def _loaded() -> ModuleType:
    names = ["keras", "tf_keras"]
    if os.environ.get("TF_USE_LEGACY_KERAS") in ("1", "true", "True"):
        names.reverse()
    for name in names:
        found = sys.modules.get(name)  # None: somebody forbids its import
        if found is not None:
            return found
    return _import(names[0])


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except (ImportError, ValueError, TypeError) as e:  # the last two: "" and ".keras" are no names of modules
        raise ConfigError(
            # Double quotes: cmd knows no others.
            f"FeederSequence needs Keras, and {name} can't be imported ({e}): "
            'pip install "keras-feeder[tensorflow]", or use FeederClient, which needs none'
        ) from None
