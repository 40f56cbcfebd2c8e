"""FeederSequence: what Keras' fit, evaluate and predict take.

Keras 3 wants a `PyDataset`, Keras 2 and tf_keras a `Sequence`, and each refuses the other's. So the class gets its base when the
first object of it is made: ``FeederSequence(...)`` gives an instance of a class derived from this one and from that base.

Keras 2 never says that a pass begins. But it asks for the length in the same thread right before, which the peek in front of it does
not, and this is taken for the word: see `FeederSequence._heed_keras_2`.

Keras takes less than sources give, so a batch is handed to it in a form of its own, see forms.py. Nothing is ever split, joined or
re-batched. `FeederClient` hands out what the source returned, unchanged.

On torch Keras makes a tensor of each array by a copy. So there its own reader, and nobody else, is given tensors that are views of the
arrays: ``seq[i]`` by hand is NumPy everywhere.
"""

from __future__ import annotations

import os
import sys
import threading
import warnings
import weakref
from types import ModuleType
from typing import Any

from feeder_client.client import FeederClient
from feeder_client.forms import keras_form, keras_tensors
from feeder_client.keras_base import Pass, announced, announces_passes, base_of, find_base, on_torch, takes_tensors, with_base
from feeder_client.local import LocalServer
from feeder_client.position import Position
from feeder_client.skips import Missing
from feeder_wire.errors import ConfigError


class FeederSequence(FeederClient):
    """A dataset for Keras whose batches are made by feeder servers. Arguments as for `FeederClient`, and:

    Args:
        keras: the module whose ``fit`` will be called (``keras``, ``tf_keras``), where it isn't the one that is loaded.
        pin: on torch, whether blocks of shared memory of 1 MB and more are page-locked once CUDA is in use, so that copies to its device
            are faster (docs/operations.md). Elsewhere it changes nothing.

    ``len(seq)``, ``seq.num_batches`` (None for an endless stream without `steps`), ``seq[i]`` and ``for batch in seq`` are what
    Keras uses; `stats`, `verdict` and `close` are those of `FeederClient`.
    """

    _more_options: tuple[str, ...] = ("keras", "pin", "use_multiprocessing", "max_queue_size")

    def __new__(cls, *args: Any, keras: ModuleType | str | None = None, **kwargs: Any) -> FeederSequence:
        """Make an instance of this class with Keras' base."""
        made: FeederSequence = object.__new__(with_base(cls, find_base(keras)))
        return made

    def __init__(
        self,
        *args: Any,
        keras: ModuleType | str | None = None,
        pin: bool = False,
        workers: int = 1,
        use_multiprocessing: bool = False,
        max_queue_size: int = 10,
        **kwargs: Any,
    ) -> None:
        """See the class. `max_queue_size` is taken as every Keras dataset takes it, and changes nothing."""
        _refuse(workers > 1 or use_multiprocessing)
        self._init_keras(pin)
        super().__init__(*args, **kwargs)

    def _init_local(self, running: LocalServer, options: dict[str, Any]) -> None:
        options.pop("keras", None)
        options.pop("max_queue_size", None)
        _refuse(options.pop("use_multiprocessing", False))
        self._init_keras(bool(options.pop("pin", False)))
        super()._init_local(running, options)

    def _init_keras(self, pin: bool = False) -> None:
        self._pin = pin
        base = base_of(type(self), FeederSequence)
        self._pid = os.getpid()
        self._announces_passes = announces_passes(base)
        self._on_torch = on_torch(base)
        self._reader: weakref.ref[Any] | None = None  # Keras' own object that read this last
        self._allowed: Any = None  # the filter that keeps Keras from warning of a short pass
        self._sweeper: int | None = None  # the thread that has asked for the length, and for no batch since
        if base.__name__ == "PyDataset":  # it keeps its settings there; Keras 2's Sequence has no __init__ of its own
            base.__init__(self)

    @property
    def workers(self) -> int:
        """Keras' own setting, always 1: no threads of Keras' are wanted between it and batches that are ready."""
        return 1

    @workers.setter
    def workers(self, value: int) -> None:
        _refuse(value > 1)

    @property
    def use_multiprocessing(self) -> bool:
        """Keras' own setting, always False."""
        return False

    @use_multiprocessing.setter
    def use_multiprocessing(self, value: bool) -> None:
        _refuse(value)

    @property
    def num_batches(self) -> int | None:
        """See `FeederClient.num_batches`."""
        self._heed_length()
        return super().num_batches

    def __len__(self) -> int:
        """See `FeederClient.__len__`."""
        self._heed_length()
        return super().__len__()

    def __getitem__(self, index: int) -> Any:
        """See `FeederClient.__getitem__`."""
        if os.getpid() != self._pid:  # first of all: locks that were held at the fork stay so for ever
            raise ConfigError(f"a FeederSequence can't be read in another process than the one that made it: {_WORKERS}")
        if not self._announces_passes:
            self._heed_keras_2()
        if not self._on_torch or not takes_tensors(self, sys._getframe(1)):
            return self._form(self._core.get(index, Missing.STAND_IN))  # Keras counts steps: it must get a batch
        with self._page_locked(self._pin):
            batch = self._core.get(index, Missing.STAND_IN)
        # What a training does to its input in place (a ReLU, a step of the user's) is done to the batch itself where it is a view. So the
        # first two of an epoch, which may have been looked at only, are copied as ever.
        return self._form(batch) if self._core.keeps(batch) else keras_tensors(batch)

    def _rolls(self) -> bool:
        return not self._announces_passes  # Keras 2 ends the training where a pass is shorter than the first one

    def _heed_length(self) -> None:
        # The main thread's is Keras' own look-around, or the user's; passes are read in a thread of tf.data's.
        if not self._announces_passes and threading.current_thread() is not threading.main_thread():
            self._sweeper = threading.get_ident()

    def _heed_keras_2(self) -> None:
        """A batch is asked for by a Keras without ``on_epoch_begin``: does a pass begin?

        ``for i in range(len(seq)): yield seq[i]`` is how it reads one, shuffled or not: asked for the length, then for a batch.
        """
        if self._sweeper == threading.get_ident():
            self._sweeper = None
            self._begin_pass(announced(self, sys._getframe(2)))
        module = sys.modules.get(base_of(type(self), FeederSequence).__module__)
        pooled: dict[Any, Any] = getattr(module, "_SHARED_SEQUENCES", {})  # what Keras' pool of threads or processes reads
        _refuse(any(one is self for one in list(pooled.values())))

    def _form(self, batch: Any) -> Any:
        return keras_form(batch)

    def on_epoch_begin(self) -> None:
        """Called by Keras 3: somebody begins to train, evaluate or predict."""
        self._begin_pass(announced(self, sys._getframe(1)))

    def _begin_pass(self, known: Pass) -> None:
        anew = False
        if known.reader is not None and not known.look:
            anew = self._reader is None or self._reader() is not known.reader
            self._reader = weakref.ref(known.reader)
        self._core.begin_pass(known.shuffle, known.look, anew, known.parts)
        self._allow_short_pass(self._core.where(Position.short))

    def _allow_short_pass(self, short: bool) -> None:
        # Keras warns that the data ran out and the training is interrupted. It isn't: this epoch was begun by another process.
        if short and self._allowed is None:
            warnings.filterwarnings("ignore", "Your input ran out of data", UserWarning)
            self._allowed = warnings.filters[0]
        elif not short and self._allowed is not None:
            filters: Any = warnings.filters  # a list, says the documentation
            if self._allowed in filters:
                filters.remove(self._allowed)
            self._allowed = None

    def on_epoch_end(self) -> None:
        """Called by Keras, sometimes twice; passes are counted in batches, not here."""
        self._core.end_pass()


_WORKERS = (
    "workers and use_multiprocessing are Keras' own and stay at 1 and False, here and in fit(): the workers are the server's. For more of "
    "them start the server with --workers, or use FeederSequence.local(..., workers=4)"
)


def _refuse(unwanted: bool) -> None:
    if unwanted:
        raise ConfigError(_WORKERS)
