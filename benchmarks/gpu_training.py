"""What ``python -m benchmarks gpu`` measures: one training, in a process of its own, which has imported no backend yet."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks import sources
from benchmarks.measuring import SOURCES, AbsentError

RATIO = 6.0
"""Seconds of augmentation for one of the step: more than four producers make, less than sixteen."""
STEP_SECONDS = 0.05
DEEPEST = 64
EPOCHS = 2  # that are measured; one comes before, in which things are compiled and memory is touched for the first time
SMI = ("nvidia-smi", "--format=csv,noheader,nounits")


@dataclass(frozen=True)
class Size:
    """Of one training. `depth`: layers of the model; `loops`: of pure Python for each batch."""

    device: str
    batch: int
    pixels: int
    steps: int
    depth: int = 1
    loops: int = 0

    @property
    def args(self) -> dict[str, int]:
        """Of its source."""
        return {"length": self.steps, "loops": self.loops, "batch": self.batch, "size": self.pixels}


@dataclass(frozen=True)
class Training:
    """A model on one backend, in this process, which has imported none yet."""

    name: str
    size: Size

    def ready(self) -> None:
        """Import the backend. Raises AbsentError where it isn't installed, or sees no GPU."""
        os.environ["KERAS_BACKEND"] = self.name
        try:
            module = __import__(self.name)
            __import__("keras")
        except ImportError as e:
            raise AbsentError(f"not installed: {e.name}") from None
        if self.size.device == "gpu":
            seen = module.cuda.is_available() if self.name == "torch" else module.default_backend() == "gpu"
            if not seen:
                raise AbsentError(f"{self.name} {module.__version__} sees no GPU")

    def model(self) -> Any:
        """Convolutions at half the resolution; they are most of the step."""
        import keras

        width = 64 if self.size.device == "gpu" else 8
        layers = [keras.layers.Conv2D(width, 3, padding="same", activation="relu") for _ in range(self.size.depth)]
        shape = (self.size.pixels, self.size.pixels, 3)
        ends = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(1, activation="sigmoid")]
        made = keras.Sequential([keras.Input(shape), keras.layers.AveragePooling2D(2), *layers, *ends])
        made.compile(optimizer="sgd", loss="binary_crossentropy", jit_compile="auto" if self.name == "jax" else False)
        return made

    def run(self, data: Any, epochs: int = EPOCHS) -> dict[str, float]:
        """Milliseconds per step, seconds per epoch, and percent of nvidia-smi's."""
        import keras

        times: list[float] = []
        seen: list[int] = []  # how many samples there were
        settle, made = self._settle, self.model()
        with sampled(self.size.device == "gpu") as samples:

            class Clock(keras.callbacks.Callback):  # type: ignore[misc]
                def on_epoch_end(self, epoch: int, logs: object = None) -> None:
                    settle(made)
                    times.append(time.perf_counter())
                    seen.append(len(samples()))

            # In one fit: what happens between two epochs belongs to the second one.
            made.fit(data, epochs=1 + epochs, shuffle=False, verbose=0, callbacks=[Clock()])
            used = samples()[seen[0] : seen[-1]]
        epoch = (times[-1] - times[0]) / epochs
        fastest = min(after - before for before, after in pairwise(times)) / self.size.steps
        found = {"step": epoch / self.size.steps * 1e3, "epoch": epoch, "fastest": fastest * 1e3}
        return found | ({"used": sum(used) / len(used)} if used else {})

    def _settle(self, made: Any) -> None:
        """Wait until the device has done what it was told."""
        if self.name == "jax":
            import jax

            jax.block_until_ready([weight.value for weight in made.weights])
        elif self.size.device == "gpu":
            import torch

            torch.cuda.synchronize()

    def same(self) -> Any:
        """One batch that lies on the device, for a whole training."""
        x, y = sources.Augmented(**{**self.size.args, "loops": 0})[0]
        steps = self.size.steps
        if self.name == "torch":
            import torch
            from torch.utils.data import DataLoader, IterableDataset

            batch = tuple(torch.from_numpy(a).to("cuda" if self.size.device == "gpu" else "cpu") for a in (x, y))

            class Same(IterableDataset):  # type: ignore[misc]
                def __iter__(self) -> Any:
                    return iter([batch] * steps)

                def __len__(self) -> int:
                    return steps

            return DataLoader(Same(), batch_size=None)
        import jax

        from benchmarks.fit import repeated

        return repeated(tuple(map(jax.device_put, (x, y))), steps)


@contextmanager
def sampled(wanted: bool) -> Iterator[Callable[[], list[float]]]:
    """Gives a function: what nvidia-smi has said of the utilization of the first GPU so far, in percent, five times a second."""
    if not wanted:
        yield list
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "samples")
        shown = os.environ.get("CUDA_VISIBLE_DEVICES", "").partition(",")[0] or "0"
        command = [*SMI, "--query-gpu=utilization.gpu", "-i", shown, "-lms", "200"]
        with file.open("wb") as out:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.DEVNULL)
        try:
            yield lambda: [float(line) for line in file.read_text().splitlines() if line.strip().isdigit()]
        finally:
            process.terminate()
            process.wait()


def fit(backend: str, size: Mapping[str, Any], feed: str, workers: int = 0, pin: bool = False) -> dict[str, float]:
    """One training."""
    training = Training(backend, Size(**size))
    training.ready()
    with FEEDS[feed](training, workers, pin) as data:
        return training.run(data)


def calibrate(backend: str, size: Mapping[str, Any], quick: bool = False) -> dict[str, float]:
    """How deep the model has to be, and how many loops of Python make the augmentation six times as long as its step."""
    training = Training(backend, Size(**size))
    training.ready()
    least = 0.0 if quick or training.size.device == "cpu" else STEP_SECONDS
    while (step := training.run(training.same(), 3)["fastest"] / 1e3) < least and training.size.depth < DEEPEST:
        training = Training(backend, Size(**{**size, "depth": 2 * training.size.depth}))
    return {"depth": training.size.depth, "loops": loops_beside(training.size, RATIO * step), "step": step * 1e3}


def loops_beside(size: Size, seconds: float) -> int:
    """Loops of Python that make a batch take so long, beside what its pictures take."""
    source = sources.Augmented(**{**size.args, "loops": 0})
    took = []
    for index in range(5):
        started = time.perf_counter()
        source[index]
        took.append(time.perf_counter() - started)
    left = seconds - min(took)
    return sources.loops_for(left) if left > 0 else 0


def _loader(method: str, training: Training, workers: int, pin: bool) -> AbstractContextManager[Any]:
    try:
        from torch.utils.data import DataLoader
    except ImportError:
        raise AbsentError("not installed: torch") from None
    locked = training.size.device == "gpu" and training.name == "torch"
    made = DataLoader(
        sources.Augmented(**training.size.args), batch_size=None, num_workers=workers, persistent_workers=True,
        multiprocessing_context=method, pin_memory=locked,
    )  # fmt: skip
    return nullcontext(made)


def _feeder(training: Training, workers: int, pin: bool) -> AbstractContextManager[Any]:
    from feeder_client import FeederSequence

    # Three workers of feeder's and more have several batches of 38.5 MB ready: room for them on both sides.
    room: dict[str, Any] = {"memory": "4GiB", "server": {"memory": "4GiB"}} if training.size.device == "gpu" else {}
    made: AbstractContextManager[Any] = FeederSequence.local(
        f"{SOURCES}:Augmented", workers=workers, args=training.size.args, pin=pin, **room
    )
    return made


def _in_process(training: Training, workers: int, pin: bool) -> AbstractContextManager[Any]:
    import keras

    from benchmarks.fit import in_process

    return nullcontext(in_process(keras, sources.Augmented(**training.size.args)))


Feed = Callable[[Training, int, bool], AbstractContextManager[Any]]
FEEDS: dict[str, Feed] = {
    "same": lambda training, workers, pin: nullcontext(training.same()),
    "in process": _in_process,
    "fork": partial(_loader, "fork"),
    "spawn": partial(_loader, "spawn"),
    "feeder": _feeder,
}
