"""Callbacks for `fit`. They get Keras' `Callback` for a base when the first object is made, like FeederSequence."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Any

from feeder_client import saved
from feeder_client.keras_base import base_of
from feeder_client.position import Position
from feeder_client.sequence import FeederSequence
from feeder_wire.errors import ConfigError

log = logging.getLogger("feeder.client")

_made: dict[tuple[type[Any], type[Any]], type[Any]] = {}


class FeederCheckpoint:
    """Saves the position in the data while `fit` runs, and takes it up again by itself.

    What counts is what was *trained on*, not what Keras has read ahead. After a kill the script is started again as it is: the training
    then gets exactly the batches that it would have got undisturbed. The weights are somebody else's, for example
    ``keras.callbacks.BackupAndRestore``: put it before this one, with the same frequency. The position that belongs to the weights is
    found by the optimizer's count of steps, so a kill between the two writes does no harm.

    ::

        train = FeederSequence("tcp://127.0.0.1:5555", resume="run/position.json")
        backup = keras.callbacks.BackupAndRestore("run/backup", save_freq=100)
        model.fit(train, epochs=10, callbacks=[backup, FeederCheckpoint("run/position.json", train, every=100)])

    Without ``resume=`` the position is taken up when this object is made; a few batches that were asked for before are then made for
    nothing.

    Args:
        path: of the file. It is replaced as a whole.
        sequence: what is trained on.
        every: batches between two writes; None: only at the end of each epoch, where it is written in any case.
        delete: remove the file when the training has come to its end, as BackupAndRestore does.

    Attributes:
        initial_epoch: Keras' number of the epoch that was saved, else 0. In Keras 3 `fit` begins with it by itself; Keras 2 needs
            ``fit(initial_epoch=...)``.

    Raises:
        ConfigError: an argument can't work, or the file belongs to other data.
    """

    model: Any  # Keras sets it

    def __new__(cls, path: str | os.PathLike[str], sequence: FeederSequence, *args: Any, **kwargs: Any) -> FeederCheckpoint:
        """Make an instance of this class with Keras' base."""
        if not isinstance(sequence, FeederSequence):
            raise ConfigError(
                f"FeederCheckpoint(path, sequence) needs the FeederSequence that is trained on, not {type(sequence).__name__}"
            )
        base = _callback_of(sequence)
        if issubclass(cls, base):
            return object.__new__(cls)
        key = (cls, base)
        if key not in _made:
            _made[key] = type(cls.__name__, (cls, base), {"__module__": cls.__module__, "__doc__": cls.__doc__})
        made: FeederCheckpoint = object.__new__(_made[key])
        return made

    def __init__(self, path: str | os.PathLike[str], sequence: FeederSequence, every: int | None = None, *, delete: bool = True) -> None:
        """See the class."""
        if every is not None and (type(every) is not int or every < 1):
            raise ConfigError(f"every={every!r}: a number of batches from 1 on is needed, or None")
        super().__init__()
        self.path = Path(path)
        self._sequence = sequence
        self._every = every
        self._delete = delete
        self._entries = saved.read(self.path)
        self._epoch = self._batch = self._unsaved = 0
        self.initial_epoch = 0
        if self._entries:
            self._take_up(self._entries[0])

    def _take_up(self, entry: dict[str, Any]) -> None:
        if self._sequence.state_dict() != entry["state"]:  # it may have been made with resume=
            self._sequence.load_state_dict(entry["state"])
        self.initial_epoch = int(entry.get("epoch", 0))
        log.info("taking up the position of %s: epoch %d, step %s", self.path, self.initial_epoch, entry.get("iterations"))

    # ------------------------------------------------------------------------------------------------- what Keras calls

    def on_train_begin(self, logs: Any = None) -> None:
        """Find the position that belongs to the weights, and begin to count what is trained on."""
        self._match_weights()
        if self.initial_epoch and hasattr(self.model, "_initial_epoch"):  # as BackupAndRestore does it; Keras 2 has no such place
            self.model._initial_epoch = self.initial_epoch
        self._sequence._core.where(Position.track)

    def _match_weights(self) -> None:
        now = self._iterations()
        if not self._entries or now is None or self._entries[0].get("iterations") in (now, None):
            return
        fitting = [entry for entry in self._entries if entry.get("iterations") == now]
        if fitting:
            self._take_up(fitting[0])
            return
        log.warning(
            "the position of %s was saved after step %s, and the model has seen %d steps: restore the weights of that step, or remove the "
            "file to begin anew",
            *(self.path, self._entries[0].get("iterations"), now),
        )

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Keras' epoch begins."""
        self._epoch, self._batch = epoch, 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Batches up to number `batch` of the epoch were trained on: one, or several with ``steps_per_execution``."""
        count, self._batch = batch + 1 - self._batch, batch + 1
        self._sequence.mark_trained(count)
        self._unsaved += count
        if self._every is not None and self._unsaved >= self._every:
            self._save(self._epoch)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Save."""
        self._save(epoch + 1)

    def on_train_end(self, logs: Any = None) -> None:
        """The training has come to its end."""
        self._sequence._core.where(Position.untrack)
        if self._delete:
            self.path.unlink(missing_ok=True)
            self._entries = []

    # --------------------------------------------------------------------------------------------------------- helpers

    def _save(self, epoch: int) -> None:
        self._unsaved = 0
        state = self._sequence.state_dict()
        length, (start, run, rest) = state["num_batches"], state["place"]["given"]
        if epoch == self._epoch and length is not None and run - start + len(rest) >= length:
            epoch += 1  # after the last batch of an epoch the next one begins, whether Keras has come to say so or not
        entry = {"state": state, "epoch": epoch, "iterations": self._iterations()}
        self._entries = [entry, *self._entries[:1]]
        try:
            saved.write(self.path, self._entries)
        except OSError as e:  # a full disk must not end the training
            log.error("the position could not be saved in %s: %s", self.path, e)

    def _iterations(self) -> int | None:
        iterations = getattr(getattr(self.model, "optimizer", None), "iterations", None)
        return None if iterations is None else int(iterations)


def _callback_of(sequence: FeederSequence) -> type[Any]:
    """Keras' Callback, of the Keras that the sequence belongs to."""
    top = base_of(type(sequence), FeederSequence).__module__.partition(".")[0]
    callback = getattr(getattr(sys.modules.get(top), "callbacks", None), "Callback", None)
    if callback is None:
        import importlib

        callback = importlib.import_module(f"{top}.callbacks").Callback
    found: type[Any] = callback
    return found
