"""Keras' own tests of its PyDataset and generator adapters, with every dataset and generator fed from a server. A plug-in for pytest.

Wherever the tests hand a dataset to Keras, or iterate over it, a `FeederSequence` takes its place whose batches are made by worker
processes out of a copy of that dataset. The copy has no Keras class above it, and arrays for tensors, so that workers import neither.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import itertools
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import cloudpickle
import numpy as np
import pytest

from feeder_client import FeederClient, FeederSequence

WORKERS = 2
_running: list[Any] = []


def fed(dataset: Any) -> Any:
    """A FeederSequence of what `dataset` gives."""
    kind = type(dataset)
    cloudpickle.register_pickle_by_value(sys.modules[kind.__module__])  # else workers would import the tests, and Keras with them
    own = {name: value for name, value in vars(kind).items() if name not in ("__init__", "__dict__", "__weakref__", "__doc__")}
    plain = object.__new__(type(kind.__name__, (), own))
    for name, value in vars(dataset).items():
        if name not in ("_workers", "_use_multiprocessing", "_max_queue_size"):
            setattr(plain, name, np.asarray(value) if hasattr(value, "__array__") else value)
    # test_speedup compares workers of Keras' with none, as a delay shows: here it is as many of feeder's with one.
    workers = max(1, dataset.workers) if getattr(dataset, "delay", 0) else max(WORKERS, dataset.workers)
    found = FeederSequence.local(plain, workers=workers)
    _running.append(found)
    return found


def fed_stream(generator: Iterator[Any]) -> Iterator[Any]:
    """One pass over a stream that gives what `generator` does, from a generator in a worker."""
    batches = [tuple(np.asarray(leaf) if hasattr(leaf, "__array__") else leaf for leaf in batch) for batch in generator]

    def stream() -> Iterator[Any]:
        yield from batches

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    found = FeederClient.local(stream, workers=1)
    _running.append(found)
    return iter(found)


def pytest_configure() -> None:
    """Puts feeder between the tests' datasets and Keras."""
    adapters: Any = importlib.import_module("keras.src.trainers.data_adapters.py_dataset_adapter")
    if importlib.util.find_spec("jax") is None:  # the tests import it in the first place, and use it for the datasets named after it
        jax: Any = ModuleType("jax")
        jax.Array, jax.numpy = np.ndarray, np
        sys.modules["jax"] = jax
    original = adapters.PyDatasetAdapter.__init__

    @functools.wraps(original)
    def init(self: Any, x: Any, *args: Any, **options: Any) -> None:
        original(self, x if isinstance(x, FeederSequence) else fed(x), *args, **options)

    streams: Any = importlib.import_module("keras.src.trainers.data_adapters.generator_data_adapter")
    init_stream = streams.GeneratorDataAdapter.__init__

    @functools.wraps(init_stream)
    def init_fed_stream(self: Any, generator: Iterator[Any], *args: Any, **options: Any) -> None:
        init_stream(self, fed_stream(generator), *args, **options)

    streams.GeneratorDataAdapter.__init__ = init_fed_stream

    def iterate(self: Any) -> Iterator[Any]:
        return iter(fed(self))

    adapters.PyDatasetAdapter.__init__ = init
    adapters.PyDataset.__iter__ = iterate


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown() -> None:
    """Stops the servers of a test."""
    for one in _running:
        one.close()
    _running.clear()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """One line for each test."""
    for outcome, report in itertools.chain.from_iterable(
        ((outcome, report) for report in terminalreporter.stats.get(outcome, [])) for outcome in ("passed", "failed", "error", "skipped")
    ):
        if outcome != "passed" or report.when == "call":
            terminalreporter.write_line(f"RESULT {outcome} {report.nodeid.rpartition('::')[2]}")
