"""Milliseconds per batch, of a pass that is ended after some seconds: in Keras' ``fit`` and without it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from benchmarks.job import ENDLESS

LEAST_STEPS = 4


@dataclass(frozen=True)
class Span:
    """How long a pass is: seconds that don't count, and those after them, which do."""

    warm: float
    measured: float

    def over(self, ends: list[float]) -> bool:
        """Is that enough? `ends`: when each batch of the pass ended."""
        return len(ends) >= LEAST_STEPS and ends[-1] - ends[0] >= self.warm + self.measured

    def per_batch(self, ends: list[float]) -> float:
        """Milliseconds: the mean over the seconds that count."""
        counted = [end for end in ends if end >= ends[0] + self.warm]
        if len(counted) < 2:  # a machine so busy that it makes one in the last seconds
            counted = ends[-2:]
        return (counted[-1] - counted[0]) / (len(counted) - 1) * 1e3

    def until_over(self, batches: Iterable[object]) -> list[float]:
        """Read as many as are enough. Returns when each of them had come."""
        ends: list[float] = []
        for _batch in batches:
            ends.append(time.perf_counter())
            if self.over(ends):
                break
        return ends


WHOLE, QUICK = Span(4.0, 2.0), Span(0.1, 0.1)


@dataclass(frozen=True)
class Trainer:
    """A model that does next to nothing with what it is given, and a clock in its callbacks."""

    keras: Any
    model: Any
    span: Span

    def per_batch(self, data: Any) -> float:
        """Milliseconds per batch of a pass that is ended after some seconds."""
        return self.span.per_batch(self.ends(data, ENDLESS, self.span.over))

    def ends(self, data: Any, steps: int, over: Callable[[list[float]], bool] = lambda ends: False) -> list[float]:
        """When each batch of one epoch ended; the epoch ends early where `over` says so."""
        found: list[float] = []

        class Clock(self.keras.callbacks.Callback):  # type: ignore[misc, name-defined]
            def on_train_batch_end(self, batch: int, logs: object = None) -> None:
                found.append(time.perf_counter())
                self.model.stop_training = over(found)

        self.model.fit(data, epochs=1, steps_per_epoch=steps, shuffle=False, verbose=0, callbacks=[Clock()])
        return found
