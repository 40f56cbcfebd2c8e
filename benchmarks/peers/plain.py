"""Floors: nothing is brought from one process to another."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from benchmarks.job import Batches, Job, Peer


@contextmanager
def memcpy(job: Job) -> Iterator[Batches]:
    """The batch, copied by one thread into memory that is there already."""
    x, y = job.make()[0]
    target, labels = np.empty_like(x), np.empty_like(y)

    def batches() -> Batches:
        while True:
            np.copyto(target, x)
            np.copyto(labels, y)
            yield target, labels

    yield batches()


@contextmanager
def in_process(job: Job) -> Iterator[Batches]:
    """Made by the thread that consumes."""
    source = job.make()
    yield (source[i] for i in itertools.count())


PEERS = {
    "memcpy": Peer("one memcpy", "one thread, into memory that is there already", memcpy, works=("big", "mid", "small"), serves=False),
    "in-process": Peer("in process, one thread", "`source[i]` in the consuming thread", in_process, works=("cpu", "sleep"), serves=False),
}
