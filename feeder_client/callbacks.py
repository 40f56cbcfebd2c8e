"""Callbacks for `fit`. They get Keras' `Callback` for a base when the first object is made, like FeederSequence."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Any

from feeder_client import saved
from feeder_client.keras_base import base_of, with_base
from feeder_client.position import Position
from feeder_client.sequence import FeederSequence
from feeder_wire.errors import ConfigError

log = logging.getLogger("feeder.client")


class FeederCheckpoint:
    """Saves the position in the data while `fit` runs, and takes it up again by itself.

    What counts is what was *trained on*, not what Keras has read ahead. After a kill the script is started again as it is: the training
    then gets exactly the batches that it would have got undisturbed. The weights are somebody else's, for example
    ``keras.callbacks.BackupAndRestore``: put it before this one in the list, for it has to restore them first. The position that
    belongs to the weights is found by the optimizer's count of steps: they may be saved at other times, and a kill between the two
    writes does no harm. Of a stream's positions only those are known that were saved, so there give both the same frequency.

    ::

        train = FeederSequence("tcp://127.0.0.1:5555", resume="run/position.json")
        backup = keras.callbacks.BackupAndRestore("run/backup", save_freq=100)
        model.fit(train, epochs=10, callbacks=[backup, FeederCheckpoint("run/position.json", train, every=100)])

    Without ``resume=`` the position is taken up when this object is made; a few batches that were asked for before are then made for
    nothing.

    Args:
        path: of the file. It is replaced as a whole.
        sequence: what is trained on.
        every: batches between two writes; None: only at the beginning and at the end of each epoch, where it is written in any case.
        delete: remove the file when the training has come to its end, as BackupAndRestore does.

    Attributes:
        initial_epoch: Keras' number of the epoch that was saved, else 0. In Keras 3 `fit` begins with it by itself; Keras 2 needs
            ``fit(initial_epoch=...)``.

    Raises:
        ConfigError: an argument can't work, or the file belongs to other data.
    """

    model: Any  # Keras sets it, as the next
    params: Any

    def __new__(cls, path: str | os.PathLike[str], sequence: FeederSequence, *args: Any, **kwargs: Any) -> FeederCheckpoint:
        """Make an instance of this class with Keras' base."""
        if not isinstance(sequence, FeederSequence):
            raise ConfigError(
                f"FeederCheckpoint(path, sequence) needs the FeederSequence that is trained on, not {type(sequence).__name__}"
            )
        made: FeederCheckpoint = object.__new__(with_base(cls, _callback_of(sequence)))
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
        self._epoch = self._first = self._batch = self._unsaved = 0
        self._skipped = 0  # batches of Keras' epoch that were trained on before a restart, where it makes a whole epoch of the rest
        self.initial_epoch = 0
        if self._entries:
            self._take_up(self._entries[0])

    def _take_up(self, entry: dict[str, Any]) -> None:
        if self._sequence.state_dict() != entry["state"]:  # it may have been made with resume=
            self._sequence.load_state_dict(entry["state"])
        step, steps = entry.get("step"), entry.get("steps")
        self.initial_epoch, self._skipped = divmod(step, steps) if step is not None and steps else (int(entry.get("epoch", 0)), 0)
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
        found = saved.fitting(self._entries, now) if now else None  # 0: the weights were not restored, or without their optimizer
        if found is not None:
            self._take_up(found)
            self._entries = [found, *(entry for entry in self._entries if (entry.get("iterations") or 0) < now)]
            return
        log.warning(
            "the position of %s was saved after step %s, and the model has seen %d steps: restore the weights of that step%s, or remove "
            "the file to begin anew",
            *(self.path, self._entries[0].get("iterations"), now, "" if now else " (by a callback that stands before this one)"),
        )

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Keras' epoch begins."""
        self._epoch, self._first, self._batch = int(epoch), -1, 0  # Keras 2 has numbers of NumPy's after a restart

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Keras 2 with BackupAndRestore begins in the middle of an epoch, and says so by the number of the first batch."""
        if self._first < 0:
            self._first = self._batch = int(batch)
            if batch:
                self._skipped = 0
                self._sequence._core.where(Position.known)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Batches up to number `batch` of the epoch were trained on: one, or several with ``steps_per_execution``."""
        count, self._batch = int(batch) + 1 - self._batch, int(batch) + 1
        # The last execution of an epoch may have got less, and Keras doesn't say so.
        self._sequence._core.where(lambda position: position.trained(count, one_epoch=not self._sequence._rolls()))
        self._unsaved += count
        due = self._every is not None and self._unsaved >= self._every
        if due:
            self._unsaved = 0
            self._save()
        elif not self._entries:
            self._save_beginning(count)
        steps = self._steps()
        if self._skipped and steps and self._epoch + 1 == self.params.get("epochs") and self._batch + self._skipped >= steps:
            self.model.stop_training = True  # the undisturbed training would have ended here

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Save."""
        steps = self._steps()
        if steps and self._batch - max(self._first, 0) < steps:
            self._skipped = 0  # what was left of it was an epoch for Keras too
        self._epoch, self._first, self._batch = int(epoch) + 1, -1, 0
        self._save()

    def on_train_end(self, logs: Any = None) -> None:
        """The training has come to its end."""
        self._sequence._core.where(Position.untrack)
        if self._delete:
            self.path.unlink(missing_ok=True)
            self._entries = []

    # --------------------------------------------------------------------------------------------------------- helpers

    def _save(self) -> None:
        state = self._sequence.state_dict()
        steps, whole = self._steps(), state["num_batches"]
        step = None if not steps else self._epoch * steps + self._batch + self._skipped
        if step is not None and steps is not None and steps == whole and not self._sequence._rolls():
            # Keras counts whole executions, also where the last one of an epoch got less.
            step = min(step, (self._epoch + 1) * steps)
        entry = {"state": state, "epoch": self._epoch, "step": step, "steps": steps, "iterations": self._iterations()}
        self._write([entry, *self._entries])

    def _save_beginning(self, count: int) -> None:
        # Now that `count` batches have come, it is known whether they come shuffled, and so which belong to any weights.
        state, iterations = self._sequence.state_dict(), self._iterations()
        before = saved.moved_state(state, -count)
        if iterations is not None and before is not None:
            size = self._steps()
            step = self._epoch * size + self._first if size else None
            entry = {"state": before, "epoch": self._epoch, "step": step, "steps": size, "iterations": iterations - count}
            self._write([entry])

    def _write(self, entries: list[dict[str, Any]]) -> None:
        self._entries = saved.thinned(entries)
        try:
            saved.write(self.path, self._entries)
        except OSError as e:  # a full disk must not end the training
            log.error("the position could not be saved in %s: %s", self.path, e)

    def _steps(self) -> int | None:
        """Batches that Keras takes for an epoch: ``steps_per_epoch``, or all."""
        steps = self.params.get("steps")
        return int(steps) if steps else None

    def _iterations(self) -> int | None:
        optimizer = getattr(self.model, "optimizer", None)
        iterations = getattr(optimizer, "_iterations", None)  # not divided by gradient_accumulation_steps
        if iterations is None:
            iterations = getattr(optimizer, "iterations", None)
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
