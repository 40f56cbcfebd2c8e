"""A training process of a chaos run: `python -m tests.chaos.trainer SETTINGS.json`. What it gets it writes down, batch by batch.

Journal, one line each, written at once, so that kill -9 takes nothing away:

    start COUNT TIME       goes on after COUNT batches
    batch DIGEST TIME      got one
    changed DIGEST         one that it still holds is another one now
    left {...}             closed in order; what of feeder's is still there

The position goes to a file of its own, together with how many batches that is. It is replaced as a whole, after the batch was written
down: a kill in between means that some batches come again, and the books know which (books.py).
"""

from __future__ import annotations

import gc
import importlib
import json
import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from feeder_client import FeederClient, FeederSequence
from tests.chaos.sources import digest
from tests.leaks import PREFIX, open_or_mapped

HELD = 5
"""Batches that are kept and looked at again: nobody may write what somebody reads."""

SABOTAGED = 20
"""Number of the batch that a sabotaged trainer loses, doubles or changes: the program has to be able to fail."""


class Journal:
    """See the module."""

    def __init__(self, folder: Path, sabotage: str = "") -> None:
        self._sabotage = sabotage
        self._file = (folder / "journal").open("ab", buffering=0)
        self._position = folder / "position"
        self._stop = folder / "stop"
        self.count, self.state = 0, None
        if self._position.exists():
            saved = json.loads(self._position.read_text())
            self.count, self.state = saved["count"], saved["state"]

    def write(self, *words: object) -> None:
        self._file.write((" ".join(map(str, words)) + "\n").encode())

    def start(self, count: int | None = None) -> None:
        self.count = self.count if count is None else count
        self.write("start", self.count, time.monotonic())

    def batch(self, found: str) -> None:
        if self.count == SABOTAGED and self._sabotage in ("lose", "double", "change"):
            now, what, self._sabotage = time.monotonic(), self._sabotage, ""
            found = found[::-1] if what == "change" else found
            if what != "lose":
                self.write("batch", found, now)
            if what != "double":
                self.count += 1
                return
        self.write("batch", found, time.monotonic())
        self.count += 1

    def save(self, state: Any) -> None:
        replace(self._position, json.dumps({"count": self.count, "state": state}))

    @property
    def stopped(self) -> bool:
        return self._stop.exists()


def replace(path: Path, text: str) -> None:
    """Writes a file as a whole."""
    beside = path.with_suffix(".new")
    beside.write_text(text)
    while True:
        try:
            os.replace(beside, path)
            return
        except PermissionError:  # Windows: somebody reads it
            time.sleep(0.01)


def by_hand(settings: dict[str, Any], journal: Journal) -> None:
    """Passes as a loop of one's own makes them, or as Keras asks a sequence for them."""
    make: Callable[..., FeederClient] = FeederClient
    options: dict[str, Any] = settings["options"]
    if settings["kind"] == "sequence":
        make, options = FeederSequence, {**options, "keras": _keras_without_keras()}
    where = (settings["endpoints"], settings["source"])
    if settings["kind"] == "local":
        make, where = FeederClient.local, (options.pop("source"), options.pop("workers"))
    with make(*where, resume=journal.state, **options) as client:
        journal.start()
        held: deque[tuple[str, Any]] = deque()
        stopped = False
        while not stopped:  # a pass at least: it may begin in the middle of one, and that has to be brought to its end
            for batch in _pass(client):
                found = digest(batch)
                journal.batch(found)
                held.append((found, batch))
                if len(held) > HELD:
                    _look_again(journal, *held.popleft())
                if journal.count % settings["every"] == 0:
                    journal.save(client.state_dict())
                time.sleep(settings["step"])
                del batch
            stopped = journal.stopped
        for one in held:
            _look_again(journal, *one)
        held.clear()
    gc.collect()


def _look_again(journal: Journal, found: str, batch: Any) -> None:
    if digest(batch) != found:
        journal.write("changed", found)


def _pass(client: FeederClient) -> Iterator[Any]:
    if isinstance(client, FeederSequence):
        client.on_epoch_begin()
        for index in range(len(client)):
            yield client[index]
        client.on_epoch_end()
    else:
        yield from client


def _keras_without_keras() -> ModuleType:
    """A module with the class that FeederSequence looks for: importing Keras takes seconds and half a gigabyte."""
    found: Any = ModuleType("keras_without_keras")
    found.utils = ModuleType("utils")
    found.utils.PyDataset = type("PyDataset", (), {"__init__": lambda self: None, "on_epoch_begin": lambda self: None})
    return found  # type: ignore[no-any-return]


def by_fit(settings: dict[str, Any], journal: Journal, folder: Path) -> None:
    """`model.fit`, saved and restored by callbacks. What is written down is what comes into the model's train step."""
    os.environ["KERAS_BACKEND"] = "torch"
    import keras
    from keras import ops

    from feeder_client.callbacks import FeederCheckpoint

    class Model(keras.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.dense = keras.layers.Dense(1)

        def call(self, x: Any) -> Any:
            return self.dense(x)

        def train_step(self, data: Any) -> Any:
            journal.batch(digest(tuple(ops.convert_to_numpy(part) for part in data)))
            time.sleep(settings["step"])
            x, y = data
            return super().train_step((x, ops.cast(y[:, :1], "float32")))

    class Backup(keras.callbacks.Callback):  # type: ignore[misc]
        """Of the weights all that matters here is how many steps they have seen. Keras' own isn't safe from a kill while it writes."""

        file = folder / "backup.json"

        def on_train_begin(self, logs: Any = None) -> None:
            self.model.optimizer.build(self.model.trainable_variables)
            if self.file.exists():
                self.model.optimizer.iterations.assign(json.loads(self.file.read_text()))

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            steps = int(self.model.optimizer.iterations)
            if steps % settings["every"] == 0:
                replace(self.file, json.dumps(steps))

    class Journaling(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_begin(self, logs: Any = None) -> None:
            journal.start(int(self.model.optimizer.iterations))

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            if journal.stopped:
                self.model.stop_training = True

    position = folder / "feeder.json"
    model = Model()
    model.compile(keras.optimizers.SGD(1e-6), "mse", jit_compile=False)
    model.build((None, 4))
    with FeederSequence(settings["endpoints"], settings["source"], resume=position, **settings["options"]) as data:
        callbacks = [
            Backup(),
            FeederCheckpoint(position, data, every=settings["every"]),
            Journaling(),
        ]
        model.fit(data, epochs=10**6, shuffle=settings["shuffle"], callbacks=callbacks, verbose=0)
    del model, callbacks
    gc.collect()


def left() -> dict[str, list[str]]:
    """What of feeder's is still there when everything was closed."""
    places = [os.environ.get("TMPDIR"), os.environ.get("FEEDER_SHM_DIR")]
    roots = [str(Path(place).resolve()) for place in places if place]
    found = {
        "threads": [thread.name for thread in threading.enumerate() if thread.name.startswith("feeder")],
        "files": [name for name in open_or_mapped() if any(name.startswith(root) for root in roots) and os.sep + PREFIX in name],
        "sockets": [],
    }
    try:
        psutil: Any = importlib.import_module("psutil")
    except ImportError:
        return found
    process = psutil.Process()
    connections = getattr(process, "net_connections", process.connections)(kind="inet")
    found["sockets"] = [f"{one.laddr} {one.raddr} {one.status}" for one in connections if one.status != "NONE"]
    return found


def main() -> None:
    folder = Path(sys.argv[1]).parent
    settings = json.loads(Path(sys.argv[1]).read_text())
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    journal = Journal(folder, settings["sabotage"])
    if settings["sabotage"] == "leave":
        threading.Thread(target=threading.Event().wait, name="feeder-left-behind", daemon=True).start()
    if settings["kind"] == "fit":
        by_fit(settings, journal, folder)
    else:
        by_hand(settings, journal)
    journal.write("left", json.dumps(left()))


if __name__ == "__main__":
    main()
