"""A training that is killed and started again as it is, on one backend: run as a script, with KERAS_BACKEND set.

    python resuming.py keras|tf_keras ENDPOINT [check ...]

Every training is a process of its own. Importing Keras takes longer than all of them, so they are forked from this one, in which
nothing but the import has happened; each ends by `os._exit`, or by SIGKILL in the middle of a batch's callbacks.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import signal
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from checking import check, run

from feeder_client import FeederSequence
from feeder_client.callbacks import FeederCheckpoint

keras: Any = importlib.import_module(sys.argv[1])
KERAS_2 = sys.argv[1] == "tf_keras"
BACKEND = "tf_keras" if KERAS_2 else keras.backend.backend()
ENDPOINT = sys.argv[2]
FULL = BACKEND == "torch"  # where a process takes the least; elsewhere what differs there
N = 8

Batches = list[list[int]]


@dataclass(frozen=True)
class Training:
    """A user's script. `n` names the source; `saves`: of FeederCheckpoint; `backup`: of BackupAndRestore, None: not there."""

    n: int = N
    shuffle: bool = True
    epochs: int = 3
    saves: int | None = 1
    backup: int | str | None = None
    steps_per_epoch: int | None = None
    steps_per_execution: int = 1
    resume: bool = True
    evaluates: bool = False


@dataclass
class Outcome:
    """What one process did: the batches that reached its train step, its last weights, and whether it came to its end."""

    batches: Batches
    weights: Any
    ended: bool
    said: str


class Noting(keras.losses.Loss):  # type: ignore[misc]
    """Mean squared error that writes down the targets that it is given, one line for each batch."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file = file.open("a", encoding="utf-8")

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        found = array(y_true)
        if found is not None:
            print(json.dumps([round(v) for v in found.ravel().tolist()]), file=self.file, flush=True)
        ops = keras.backend if KERAS_2 else keras.ops
        return ops.mean(ops.square(y_true - y_pred))


def array(tensor: Any) -> Any:
    """As NumPy array; None where Keras only builds the model."""
    if KERAS_2:
        return tensor.numpy()
    if BACKEND == "jax" and isinstance(tensor, importlib.import_module("jax").core.Tracer):
        return None
    if BACKEND == "torch" and tensor.is_meta:
        return None
    return keras.ops.convert_to_numpy(tensor)


class Kill(keras.callbacks.Callback):  # type: ignore[misc]
    """Ends its process after so many batches, or after so many epochs."""

    def __init__(self, batches: int | None = None, epochs: int | None = None) -> None:
        super().__init__()
        self.batches, self.epochs = batches, epochs
        self.seen, self.ended, self.last = 0, 0, -1

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.last = -1

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.last = max(self.last, batch - 1)  # Keras 2 with BackupAndRestore begins in the middle

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.seen, self.last = self.seen + batch - self.last, batch
        if self.batches is not None and self.seen >= self.batches:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.ended += 1
        if self.ended == self.epochs:
            os.kill(os.getpid(), signal.SIGKILL)


def fit(training: Training, folder: Path, kill: Kill | None, where: str) -> None:
    """The script. The model is the same on every start, and learns from what it gets."""
    dense = keras.layers.Dense(1, use_bias=False)
    inputs = keras.Input((3,))
    model = keras.Model(inputs, dense(inputs))
    dense.set_weights([np.array([[0.5], [0.25], [-0.5]], np.float32)])
    options = {} if KERAS_2 and training.steps_per_execution == 1 else {"steps_per_execution": training.steps_per_execution}
    model.compile(optimizer=keras.optimizers.SGD(1e-9), loss=Noting(folder / "batches"), run_eagerly=True, **options)
    path = folder / "position.json"
    with FeederSequence(ENDPOINT, f"n{training.n}", resume=path if training.resume else None, keras=keras, connect_timeout=60) as train:
        checkpoint = FeederCheckpoint(path, train, every=training.saves, delete=False)
        callbacks: list[Any] = [checkpoint]
        if training.backup is not None:
            backup = keras.callbacks.BackupAndRestore(str(folder / "backup"), save_freq=training.backup)
            callbacks.insert(0, backup)
        if kill is not None:
            callbacks.insert({"between": 1, "last": len(callbacks)}[where], kill)
        extra = {"initial_epoch": checkpoint.initial_epoch} if KERAS_2 else {}
        if training.evaluates:
            extra["validation_data"] = FeederSequence(ENDPOINT, "n5", keras=keras)
        model.fit(
            train, epochs=training.epochs, shuffle=training.shuffle, steps_per_epoch=training.steps_per_epoch, verbose=0,
            callbacks=callbacks, **extra,
        )  # fmt: skip
        np.save(folder / "weights.npy", dense.get_weights()[0])


def start(training: Training, folder: Path, kill: dict[str, int] | None = None, where: str = "last") -> Outcome:
    """One process."""
    for name in ("batches", "weights.npy", "said"):
        (folder / name).unlink(missing_ok=True)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            said = os.open(folder / "said", os.O_CREAT | os.O_WRONLY)
            os.dup2(said, 1)
            os.dup2(said, 2)
            fit(training, folder, Kill(**kill) if kill else None, where)
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    said = (folder / "said").read_text(encoding="utf-8", errors="replace")
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    assert killed if kill else status == 0, (status, said)
    lines = (folder / "batches").read_text().splitlines() if (folder / "batches").exists() else []
    weights = None if kill else np.load(folder / "weights.npy").tolist()
    return Outcome([json.loads(line) for line in lines], weights, not kill, said)


@functools.cache
def undisturbed(training: Training) -> Outcome:
    """What the training does where nothing disturbs it, for comparison."""
    with tempfile.TemporaryDirectory() as folder:
        return start(training, Path(folder))


def plain(training: Training) -> Training:
    """Without what makes no difference to an undisturbed run."""
    return replace(training, saves=None, backup=None, resume=False)


def killed_and_started_again(
    training: Training, *kills: dict[str, int], saved: list[int], where: str = "last", weights: bool = False
) -> Outcome:
    """Starts it as often as it is killed, and once more. `saved`: the steps after which each next start begins.

    Every start must be given what the undisturbed run was given from there on, in that order.
    """
    whole = undisturbed(plain(training))
    begins = 0
    with tempfile.TemporaryDirectory() as folder:
        for kill, next_begins in zip([*kills, None], [*saved, -1], strict=True):
            found = start(training, Path(folder), kill, where)
            expected = whole.batches[begins : begins + len(found.batches)]
            assert found.batches[: len(expected)] == expected, (training, kill, begins, found.batches, expected, found.said)
            if kill is None:
                break
            begins = next_begins
    assert not weights or "saved after step" not in found.said, found.said
    left = len(whole.batches) - begins
    # Keras 2 can't end within an execution. Keras 3 cuts an epoch of steps_per_epoch short where the data end: other ones after a restart.
    more = (KERAS_2 and training.steps_per_execution > 1) or training.n % (training.steps_per_epoch or 1)
    assert len(found.batches) >= left if more else len(found.batches) == left, (training, begins, len(found.batches), left)
    if weights:
        assert found.weights == whole.weights, (found.weights, whole.weights, training, kills)
    return found


@check
def saved_after_each_batch() -> None:
    for shuffle in (True, False):
        training = Training(shuffle=shuffle)
        for step in (3, N - 1, N, 2 * N + 5) if FULL else (N - 1,):
            killed_and_started_again(training, {"batches": step}, saved=[step])


@check
def killed_twice() -> None:
    if FULL:
        killed_and_started_again(Training(), {"batches": 3}, {"batches": 9}, saved=[3, 12])
    killed_and_started_again(Training(saves=3), {"batches": 5}, {"batches": 2}, {"batches": 4}, saved=[3, 3, 6])


@check
def killed_between_epochs() -> None:
    for shuffle in (True, False) if FULL else (True,):
        killed_and_started_again(Training(shuffle=shuffle, saves=None), {"epochs": 1}, saved=[N])
        if FULL:
            killed_and_started_again(Training(shuffle=shuffle, saves=None), {"batches": N + 3}, saved=[N])


@check
def with_weights() -> None:
    """Both are saved every three batches, the weights first; the kill may fall between the two."""
    training = Training(saves=3, backup=3)
    for step in (5, 9, 10, N) if FULL else ():
        killed_and_started_again(training, {"batches": step}, saved=[step - step % 3], weights=True)
    for step in (3, 9) if FULL else (9,):
        killed_and_started_again(training, {"batches": step}, saved=[step], where="between", weights=True)
    killed_and_started_again(replace(training, shuffle=False), {"batches": 9}, {"batches": 5}, saved=[9, 12], where="between", weights=True)


@check
def with_weights_at_other_times() -> None:
    killed_and_started_again(Training(saves=1, backup=5), {"batches": 9}, saved=[5], weights=True)
    if not FULL:
        return
    killed_and_started_again(Training(saves=1, backup="epoch"), {"batches": N + 5}, saved=[N], weights=True)
    killed_and_started_again(Training(saves=None, backup=3), {"batches": N + 5}, saved=[12], weights=True)
    killed_and_started_again(Training(saves=4, backup=2), {"batches": 3}, {"batches": 7}, saved=[2, 8], weights=True)


@check
def short_epochs() -> None:
    """Keras 3 goes on where an epoch of `steps_per_epoch` has stopped."""
    if KERAS_2:
        return  # it begins a pass anew, and how much it has read ahead of the one before depends on the time
    for shuffle in (True, False) if FULL else (True,):
        for steps in (1, 2, 4) if FULL else (2,):
            training = Training(n=5, shuffle=shuffle, epochs=6, steps_per_epoch=steps)
            killed_and_started_again(training, {"batches": 4}, saved=[4])
    killed_and_started_again(Training(steps_per_epoch=4, saves=2, backup=2), {"batches": 7}, saved=[6], weights=True)


@check
def several_steps_per_execution() -> None:
    if BACKEND == "torch":
        return  # has none
    training = Training(n=5, steps_per_execution=2, saves=2)
    killed_and_started_again(training, {"batches": 2}, saved=[2])
    killed_and_started_again(training, {"batches": 6}, saved=[7 if KERAS_2 else 5])  # Keras 3 counts the last execution as two
    if not KERAS_2:
        killed_and_started_again(replace(training, backup=2), {"batches": 4}, saved=[4], weights=True)


@check
def with_validation() -> None:
    if KERAS_2:
        return  # its epochs end elsewhere
    training = Training(epochs=2, evaluates=True, saves=3)
    killed_and_started_again(training, {"batches": 5}, saved=[3])


if __name__ == "__main__":
    # JAX compiles anew in each process, which takes seconds.
    run(sys.argv[3:] or ([] if BACKEND != "jax" else ["killed_between_epochs", "with_weights_at_other_times"]))
