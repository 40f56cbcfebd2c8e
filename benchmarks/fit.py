"""Keras' ``fit`` on batches of 38.5 MB: ``python -m benchmarks fit [--rounds N] [--only tensorflow,...]``. What does feeder add to a step?

For each backend, one after the other in one process, on the same trivial model, milliseconds per batch:

* floor: the same batch over and over, in the form that the backend takes without a copy;
* in process: Keras' own PyDataset, made by the training process (ready in memory; stacked from 64 pictures);
* feeder: the same sources, two workers; and with a window that was filled before the pass began; on torch also as a DataLoader of
  `as_torch_dataset()`, whose tensors Keras takes without a copy (the stacked batches and the window that is filled are read so there), on
  TensorFlow also as `as_tf_dataset()`;
* iteration: ``for batch in seq``, without Keras.

Each for some seconds, of which the first ones don't count: a block of shared memory is filled ten times as slowly the first time, and with
batches of this size and two workers it takes some seconds until there are as many as there will ever be (NOTES.md).

And the script of the question that started this project: batches that sleep 2 s, 10 of them per epoch, 2 epochs, 4 workers.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise, repeat
from typing import Any

import numpy as np

from benchmarks import sources
from benchmarks.job import ENDLESS
from benchmarks.measuring import SOURCES
from benchmarks.pace import QUICK, WHOLE, Trainer
from benchmarks.program import Found, Measurement, Program, Row
from benchmarks.report import Claim, Table, quotients

BACKENDS = ("tensorflow", "jax", "torch")
FILLED = 16
"""Batches that wait before the pass begins: 617 MB."""
FILLED_PASSES = 5
QUESTION_SECONDS = 2.0
EPOCHS = 2


def backend(name: str, quick: bool = False) -> dict[str, float]:
    """Everything of one backend, in this process, which has imported none yet."""
    os.environ["KERAS_BACKEND"] = name
    import keras

    model = keras.Sequential(
        [keras.Input((224, 224, 3)), keras.layers.Cropping2D(((0, 223), (0, 223))), keras.layers.Flatten(), keras.layers.Dense(1)]
    )
    model.compile(optimizer="sgd", loss="mse", jit_compile=False if name != "jax" else "auto")
    span = QUICK if quick else WHOLE
    trainer = Trainer(keras, model, span)
    found = {"floor": trainer.per_batch(floor(name, ENDLESS))}
    for title, kind in (("ready", sources.Big), ("stacked", sources.Stacked)):
        found[f"in process, {title}"] = trainer.per_batch(in_process(keras, kind(ENDLESS)))
        with _sequence(kind.__name__, ENDLESS) as seq:
            data = _tensors(seq) if name == "torch" and title == "stacked" else seq
            found[f"feeder, {title}"] = trainer.per_batch(data)
    if name == "torch":
        with _sequence("Big", ENDLESS) as seq:
            found["feeder, tensors"] = trainer.per_batch(_tensors(seq))
    if name == "tensorflow":
        with _sequence("Big", ENDLESS) as seq:
            found["feeder, as_tf_dataset"] = trainer.per_batch(seq.as_tf_dataset())
    with _sequence("Big", ENDLESS) as seq:
        found["iteration"] = span.per_batch(span.until_over(seq))
    return found | filled(trainer, name, quick)


def floor(name: str, steps: int) -> Any:
    """One batch, again and again, in the form that this backend likes best."""
    x, y = sources.Big(1)[0]
    if name == "tensorflow":
        import tensorflow as tf

        return tf.data.Dataset.from_tensors((x, y)).repeat(steps)
    if name == "jax":
        return same(steps)
    import torch
    from torch.utils.data import DataLoader, IterableDataset

    class Same(IterableDataset):  # type: ignore[misc]
        def __iter__(self) -> Any:
            batch = (torch.from_numpy(x), torch.from_numpy(y))
            return repeat(batch, steps)

    return DataLoader(Same(), batch_size=None)


def same(steps: int) -> Any:
    """Keras' own PyDataset of one batch, in arrays that TensorFlow and JAX take as they are."""
    return repeated(tuple(map(aligned, sources.Big(1)[0])), steps)


def repeated(batch: Any, steps: int) -> Any:
    """Keras' own PyDataset that gives one batch again and again."""
    import keras

    class Same(keras.utils.PyDataset):  # type: ignore[misc]
        def __len__(self) -> int:
            return steps

        def __getitem__(self, index: int) -> Any:
            return batch

    return Same()


def aligned(array: Any) -> Any:
    """A copy at an address that is a multiple of 64: such an array JAX takes as it is."""
    room = np.empty(array.nbytes + 64, np.uint8)
    start = -room.__array_interface__["data"][0] % 64
    made = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    np.copyto(made, array)
    return made


def in_process(keras: Any, source: Any) -> Any:
    """Made by the training process, as without feeder."""

    class Made(keras.utils.PyDataset):  # type: ignore[misc]
        def __len__(self) -> int:
            return len(source)

        def __getitem__(self, index: int) -> Any:
            return source[index]

    return Made()


def _sequence(source: str, length: int, **options: Any) -> Any:
    from feeder_client import FeederSequence

    return FeederSequence.local(f"{SOURCES}:{source}", workers=2, args={"length": length}, **options)


def _tensors(seq: Any) -> Any:
    """What Keras on torch takes without a copy."""
    from torch.utils.data import DataLoader

    return DataLoader(seq.as_torch_dataset(), batch_size=None)


def filled(trainer: Trainer, name: str, quick: bool) -> dict[str, float]:
    """Milliseconds that feeder adds where every batch waits already: medians of the time between two batches, over some passes.

    The first pass doesn't count: a block that this process has just mapped is slower to read, once (NOTES.md), as fresh arrays of its own
    would be. The workers are halted, for what they would do meanwhile is not the adapter's.
    """
    length, passes = (6, 1) if quick else (FILLED, FILLED_PASSES)
    room = {"memory": "2GiB"}
    added, beside = [], []
    with _sequence("Big", length, prefetch=length, memory="2GiB", server=room) as seq:
        for _ in range(1 + passes):
            _until(lambda: seq.stats().stored >= length, seq)
            with _halted():
                waiting = _median_gap(trainer.ends(_tensors(seq) if name == "torch" else seq, length))
            added.append(waiting - _median_gap(trainer.ends(floor(name, length), length)))
            if name == "tensorflow":
                beside.append(waiting - _median_gap(trainer.ends(same(length), length)))
    found = {"added": statistics.median(added[1:])}
    return found | ({"added, PyDataset": statistics.median(beside[1:])} if beside else {})


@contextmanager
def _halted() -> Iterator[None]:
    """Without the workers of this process' server."""
    import psutil

    workers = [worker for server in psutil.Process().children() for worker in server.children()]
    try:
        for worker in workers:
            worker.suspend()
        yield
    finally:
        for worker in workers:
            worker.resume()


def _median_gap(ends: list[float]) -> float:
    gaps = [b - a for a, b in pairwise(ends[1:])]  # the first one began before the pass did
    return statistics.median(gaps) * 1e3


def _until(condition: Callable[[], bool], what: object) -> None:
    deadline = time.monotonic() + 60.0
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"not filled: {what!r}")
        time.sleep(0.01)


def question(quick: bool = False) -> dict[str, float]:
    """Seconds per epoch of the script that was asked about: 10 batches that sleep 2 s, two epochs, in process and with 4 workers."""
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import keras

    from feeder_client import FeederSequence

    pause = 0.05 if quick else QUESTION_SECONDS
    model = keras.Sequential([keras.Input((26, 3)), keras.layers.Flatten(), keras.layers.Dense(1)])
    model.compile(optimizer="sgd", loss="mse")
    model.train_on_batch(*sources.Sleep(1, 0.0)[0])
    found = {"in process": _fit_seconds(model, in_process(keras, sources.Sleep(10, pause)), EPOCHS) / EPOCHS}
    started = time.perf_counter()
    with FeederSequence.local(f"{SOURCES}:Sleep", workers=4, args={"length": 10, "seconds": pause}) as seq:
        start = time.perf_counter() - started
        whole = _fit_seconds(model, seq, EPOCHS)
        found["feeder"], found["feeder and its start"] = whole / EPOCHS, (start + whole) / EPOCHS
        found["feeder, a third epoch"] = _fit_seconds(model, seq, 1)
    return found


def _fit_seconds(model: Any, data: Any, epochs: int) -> float:
    started = time.perf_counter()
    model.fit(data, epochs=epochs, verbose=0)
    return time.perf_counter() - started


def claims(found: Found) -> list[Claim]:
    """Goal 3, and the question's script of goal 2."""
    made = [Claim("2. the question's script: `fit` with 4 workers, per epoch", found.of("question", "feeder"), 5.3, " s", at_most=True)]
    for name in BACKENDS:
        best = "feeder, tensors" if name == "torch" else "feeder, ready"
        base = [
            a + b if a is not None and b is not None else None
            for a, b in zip(found.of(name, "floor"), found.of(name, "iteration"), strict=True)
        ]
        made += [
            Claim(f"3. {name}: {best} / (floor + iteration)", quotients(found.of(name, best), base), 1.2, at_most=True),
            Claim(
                f"3. {name}, ready: in process / {best}",
                quotients(found.of(name, "in process, ready"), found.of(name, best)),
                1.0,
            ),
            Claim(
                f"3. {name}, stacked: in process / feeder",
                quotients(found.of(name, "in process, stacked"), found.of(name, "feeder, stacked")),
                1.0,
            ),
            Claim(f"3. {name}: added to the floor when batches wait", found.of(name, "added"), 0.3, " ms", at_most=True),
        ]
    # from_tensors, the floor of TensorFlow, runs no Python: this is what is left of it if Keras' own PyDataset is the floor.
    added = found.of("tensorflow", "added, PyDataset")
    datasets = quotients(found.of("tensorflow", "feeder, as_tf_dataset"), found.of("tensorflow", "feeder, ready"))
    made.append(Claim("3. tensorflow: feeder, as_tf_dataset / ready", datasets, 1.0, at_most=True))
    return [*made, Claim("3. tensorflow: added to a PyDataset of one array when batches wait", added, 0.3, " ms", at_most=True)]


KINDS = (
    "floor",
    "iteration",
    "feeder, ready",
    "feeder, tensors",
    "feeder, as_tf_dataset",
    "in process, ready",
    "feeder, stacked",
    "in process, stacked",
    "added",
    "added, PyDataset",
)
QUESTION = ("in process", "feeder", "feeder and its start", "feeder, a third epoch")
LIKE = {"feeder, tensors": "torch", "feeder, as_tf_dataset": "tensorflow", "added, PyDataset": "tensorflow"}  # figures of one backend
MEASUREMENTS = {
    **{name: Measurement(f"fit on {name}", "benchmarks.fit:backend", {"name": name}) for name in BACKENDS},
    "question": Measurement("the question's script", "benchmarks.fit:question"),
}
ROWS = [
    *(Row(f"{name}: {kind}", name, kind, "ms per batch") for name in BACKENDS for kind in KINDS if LIKE.get(kind, name) == name),
    *(Row(f"the question's script: {kind}", "question", kind, "s per epoch") for kind in QUESTION),
]
PROGRAM = Program(
    "fit", __doc__ or "", MEASUREMENTS, ROWS, claims, limit=180.0, packages=("keras-feeder", "numpy", "keras", "tensorflow", "jax", "torch")
)


def main(arguments: Sequence[str] | None = None) -> list[Table]:
    """Entry point; see the module. Returns what it shows, the goals first."""
    return PROGRAM.main(arguments)


if __name__ == "__main__":
    main()
