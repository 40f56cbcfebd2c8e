"""FeederSequence: what Keras' fit, evaluate and predict take.

Keras 3 wants a `PyDataset`, Keras 2 and tf_keras a `Sequence`, and each refuses the other's. So the class gets its base when the
first object of it is made: ``FeederSequence(...)`` gives an instance of a class derived from this one and from that base.

Keras takes less than sources give. Before a batch is handed to it, nested lists become tuples, a trailing None goes, arrays
become native-endian and C-contiguous; a list at the top stays one, for Keras reads it as (x, y, sample_weight). Nothing is ever
split, joined or re-batched. `FeederClient` hands out what the source returned, unchanged.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from feeder_client.client import FeederClient
from feeder_client.keras_base import find_base
from feeder_client.local import LocalServer
from feeder_wire.errors import ConfigError

_made: dict[tuple[type[Any], type[Any]], type[Any]] = {}


class FeederSequence(FeederClient):
    """A dataset for Keras whose batches are made by feeder servers. Arguments as for `FeederClient`, and:

    Args:
        keras: the module whose ``fit`` will be called (``keras``, ``tf_keras``), where it isn't the one that is loaded.

    ``len(seq)``, ``seq.num_batches`` (None for an endless stream without `steps`), ``seq[i]`` and ``for batch in seq`` are what
    Keras uses; `stats`, `verdict` and `close` are those of `FeederClient`.
    """

    def __new__(cls, *args: Any, keras: ModuleType | str | None = None, **kwargs: Any) -> FeederSequence:
        """Make an instance of this class with Keras' base."""
        base = find_base(keras)
        if issubclass(cls, base):
            return object.__new__(cls)
        key = (cls, base)
        if key not in _made:
            _made[key] = type(cls.__name__, (cls, base), {"__module__": cls.__module__, "__doc__": cls.__doc__})
        made: FeederSequence = object.__new__(_made[key])
        return made

    def __init__(
        self, *args: Any, keras: ModuleType | str | None = None, workers: int = 1, use_multiprocessing: bool = False, **kwargs: Any
    ) -> None:
        """See the class."""
        if workers != 1 or use_multiprocessing:
            raise ConfigError(
                "workers and use_multiprocessing are Keras' own and stay at 1 and False: the workers are the server's. For more of them "
                "start the server with --workers, or use FeederSequence.local(..., workers=4)"
            )
        self._init_keras()
        super().__init__(*args, **kwargs)

    def _init_local(self, running: LocalServer, options: dict[str, Any]) -> None:
        options.pop("keras", None)
        self._init_keras()
        super()._init_local(running, options)

    def _init_keras(self) -> None:
        # PyDataset keeps its settings there; Keras 2's Sequence has no __init__ of its own.
        for base in type(self).__mro__:
            if base.__name__ == "PyDataset":
                base.__init__(self)  # type: ignore[misc]

    def _form(self, batch: Any) -> Any:
        return keras_form(batch)

    def on_epoch_begin(self) -> None:
        """Called by Keras 3: somebody begins to train, evaluate or predict."""
        self._core.begin_pass()

    def on_epoch_end(self) -> None:
        """Called by Keras, sometimes twice; passes are counted in batches, not here."""
        self._core.end_pass()


def keras_form(batch: Any) -> Any:
    """A batch as Keras takes it; see the module. Arrays that are fine already are the same objects."""
    if type(batch) in (tuple, list):
        items = [_tuples(item) for item in batch]
        # (x, None) and (x, y, None) are refused on TensorFlow; what is missing at the end means the same.
        while len(items) > 1 and items[-1] is None:
            items.pop()
        return tuple(items) if type(batch) is tuple else items
    return _tuples(batch)


def _tuples(item: Any) -> Any:
    if isinstance(item, np.ndarray):
        return _native(item)
    if isinstance(item, (tuple, list)):
        return tuple(_tuples(part) for part in item)
    if isinstance(item, dict):
        return {key: _tuples(part) for key, part in item.items()}
    return item


def _native(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    return array if array.flags.c_contiguous else np.ascontiguousarray(array)
