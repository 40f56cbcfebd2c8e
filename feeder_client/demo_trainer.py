"""The training process of ``feeder-server demo``: ``python -m feeder_client.demo_trainer``.

    demo ── one line of JSON, the plan, through the stdin pipe ──▶ this process ──▶ a private server and its workers
         ◀── lines of JSON: what is measured, how far, figures ──
         ── the pipe stays open; its end means stop ────────────▶

Each source of the plan is fitted four ways, with one model: from batches that are ready in memory, by a plain ``fit``, with
Keras' threads, through feeder. Each fit has one epoch more than is counted: in the first one Keras traces and compiles, threads
and workers start, and the window fills, so that the counted ones neither pay for that nor profit from it.

No ``if __name__ == "__main__"`` is needed for any of it: the demo starts `main` from a line of code.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import runpy
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any, BinaryIO, TextIO

from feeder_client.keras_base import find_base
from feeder_client.sequence import FeederSequence
from feeder_wire.errors import ConfigError, FeederError

READY = 4  # different batches in memory
STEP_SECONDS = 0.1  # not more often is it said how far a fit is
INTERRUPTED = 130
STEPS = 3  # by which a model is measured, after two in which Keras traces and compiles
SMALLEST = 32  # units of a hidden layer


class Link:
    """Both pipes to the demo, taken away from everybody else: what Keras or a source prints goes to stderr."""

    def __init__(self) -> None:
        self._in: BinaryIO = os.fdopen(os.dup(0), "rb", buffering=0)
        self._out: TextIO = os.fdopen(os.dup(1), "w", encoding="utf-8")
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        os.dup2(2, 1)
        self._lock = threading.Lock()
        self.stopping = False
        self.sequence: FeederSequence | None = None

    def say(self, event: str, **fields: Any) -> None:
        """Write one line. Any thread."""
        with self._lock:
            try:
                self._out.write(json.dumps({"event": event, **fields}) + "\n")
                self._out.flush()
            except OSError:  # the demo is gone; its end of stdin says so too
                pass

    def read_plan(self) -> dict[str, Any]:
        """The plan; empty if the demo is gone already."""
        line = self._in.readline()
        return dict(json.loads(line)) if line else {}

    def watch(self) -> None:
        """From now on: when stdin ends, end the private server and this process."""
        threading.Thread(target=self._await_end, name="demo-watch", daemon=True).start()

    def _await_end(self) -> None:
        while self._in.read(4096):
            pass
        self.stopping = True
        try:
            if self.sequence is not None:
                self.sequence.close()
        finally:
            os._exit(INTERRUPTED)


class Notes(logging.Handler):
    """Feeder's warnings belong on the user's screen: they may explain a figure."""

    def __init__(self, link: Link) -> None:
        super().__init__(logging.WARNING)
        self._link = link

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        self._link.say("note", text=record.getMessage())


def main() -> int:
    """Entry point; see the module."""
    link = Link()
    plan = link.read_plan()
    if not plan:
        return INTERRUPTED
    link.watch()
    code = 0
    try:
        _measure_all(plan, link)
    except BaseException as e:  # an interpreter that ends by itself would wait for Keras' threads
        if link.stopping:
            time.sleep(60)  # the watching thread ends us; what broke just now broke because of that
        link.say("error", text=str(e) if isinstance(e, FeederError) else traceback.format_exc())
        code = 1
    os._exit(code)


def _measure_all(plan: Mapping[str, Any], link: Link) -> None:
    try:
        import keras

        base = find_base(keras)
    except (ImportError, ConfigError) as e:
        link.say("missing", text=str(e))
        return
    _hide_gpus(keras)
    logging.getLogger("feeder").addHandler(Notes(link))
    link.say("trainer", keras=keras.__version__, backend=_backend(keras))
    for part in plan["parts"]:
        _measure(keras, base, part, plan["epochs"], link)


def _backend(keras: Any) -> str:
    return str(keras.backend.backend())


def _hide_gpus(keras: Any) -> None:
    # The environment that the demo sets hides those of CUDA and ROCm; others, as Apple's, listen to this only.
    if _backend(keras) == "tensorflow":
        import tensorflow

        tensorflow.config.set_visible_devices([], "GPU")


def _measure(keras: Any, base: type[Any], part: Mapping[str, Any], epochs: int, link: Link) -> None:
    """Fit one source in each of the four ways."""
    source = runpy.run_path(part["file"])[part["attr"]](**part["args"])
    ready = [source[i] for i in range(min(READY, len(source)))]
    model = _sized(keras, ready[0], part["hidden"], part["seconds"] / part["at_once"])

    def fit(way: str, data: Any, started_seconds: float = 0.0, **options: Any) -> None:
        clock = _clock(keras, link)
        model.fit(data, epochs=epochs + 1, verbose=0, callbacks=[clock], **options)
        ends = clock.ends
        took = [later - earlier for earlier, later in itertools.pairwise(ends)]
        link.say("result", source=part["name"], way=way, epochs=took, started_seconds=started_seconds)

    def in_process(way: str, get: Callable[[int], Any], threads: int = 0) -> None:
        link.say("begin", source=part["name"], way=way)
        # Keras 3 is told about its threads when the dataset is made, Keras 2 when it is fitted.
        new = base.__name__ == "PyDataset"
        data = _dataset(base, get, len(source), {"workers": threads} if new and threads else {})
        fit(way, data, **({"workers": threads} if threads and not new else {}))

    in_process("ready", lambda index: ready[index % len(ready)])
    in_process("plain", source.__getitem__)
    in_process("threads", source.__getitem__, part["threads"])
    link.say("begin", source=part["name"], way="feeder")
    start = time.perf_counter()
    with ExitStack() as stack:
        target = f"{part['file']}:{part['attr']}"
        link.sequence = stack.enter_context(FeederSequence.local(target, workers=part["workers"], args=part["args"], keras=keras))
        _ = link.sequence[0]
        fit("feeder", link.sequence, time.perf_counter() - start)
    link.sequence = None


def _dataset(base: type[Any], get: Callable[[int], Any], length: int, options: Mapping[str, Any]) -> Any:
    """What users write by hand: a PyDataset (Keras 3) or Sequence (Keras 2)."""

    class Data(base):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(**options)

        def __len__(self) -> int:
            return length

        def __getitem__(self, index: int) -> Any:
            return get(index)

    return Data()


def _sized(keras: Any, batch: Any, hidden: int, seconds: float) -> Any:
    """The largest model, up to `hidden`, whose step leaves room: about half of the `seconds` in which batches come at best.

    Processors differ by a factor of ten in what they take for one, and where the model is the limit all ways of feeding it look alike.
    """
    while True:
        model = _model(keras, batch, hidden)
        took = []
        for _ in range(2 + STEPS):
            before = time.perf_counter()
            model.train_on_batch(*batch)
            took.append(time.perf_counter() - before)
        if min(took[2:]) <= seconds / 2 or hidden <= SMALLEST:
            return model
        hidden //= 2


def _model(keras: Any, batch: Any, hidden: int) -> Any:
    x, y = batch
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input(x.shape[1:]),
            layers.Flatten(),
            layers.Dense(hidden, activation="relu"),
            layers.Dense(hidden, activation="relu"),
            layers.Dense(y.shape[-1]),
        ]
    )
    model.compile(optimizer="sgd", loss="mse")
    return model


def _clock(keras: Any, link: Link) -> Any:
    """A callback that notes when each epoch ended, and says how far the fit is."""

    class Clock(keras.callbacks.Callback):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.ends: list[float] = []
            self.epoch = 0
            self.said = 0.0

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            now = time.perf_counter()
            if now - self.said >= STEP_SECONDS:
                self.said = now
                link.say("step", done=self.epoch + (batch + 1) / self.params["steps"])

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.ends.append(time.perf_counter())
            self.epoch = epoch + 1
            link.say("step", done=self.epoch)

    return Clock()


if __name__ == "__main__":
    main()
