"""Keras' own tests of its PyDataset adapter, with every dataset in them fed from a feeder server. A plug-in for pytest.

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

from feeder_client import FeederSequence

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
    found = FeederSequence.local(plain, workers=max(WORKERS, dataset.workers))
    _running.append(found)
    return found


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
