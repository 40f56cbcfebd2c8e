"""Ray Data: an actor pool on this machine. Its documentation: a class for `map_batches` that holds state, rows are examples."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.job import Batches, Job, Peer

BLOCKS, PER_BLOCK = 32, 2000
"""Blocks of the ids that batches are made from, and for how many batches one is: few, for each is a task that costs a start."""


class Make:
    """The actor: takes the ids of the examples of one batch."""

    def __init__(self, job: Job) -> None:
        self._job, self._source = job, job.make()

    def __call__(self, ids: dict[str, Any]) -> dict[str, Any]:
        x, y = self._source[int(ids["id"][0]) // self._job.batch]
        return {"x": x, "y": y}


@contextmanager
def actor_pool(job: Job) -> Iterator[Batches]:
    """From actors, through the object store."""
    import ray

    # Its sockets lie there, and their paths may have 107 characters: TMPDIR is too long sometimes.
    short = "/tmp" if os.path.isdir("/tmp") else None
    with tempfile.TemporaryDirectory(dir=short, ignore_cleanup_errors=True) as folder:
        ray.init(num_cpus=job.producers + 1, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False, _temp_dir=folder)
        try:
            yield _batches(job)
        finally:
            ray.shutdown()


def _batches(job: Job) -> Batches:
    import ray

    ray.data.DataContext.get_current().enable_progress_bars = False
    examples = job.batch * PER_BLOCK * BLOCKS
    data = ray.data.range(examples, override_num_blocks=BLOCKS).map_batches(
        Make, batch_size=job.batch, compute=ray.data.ActorPoolStrategy(size=job.producers), fn_constructor_args=(job,)
    )
    rows = data.iter_batches(batch_size=job.batch, batch_format="numpy", prefetch_batches=2)
    return ((row["x"], row["y"]) for row in rows)


PEERS = {
    "ray": Peer(
        "Ray Data, actor pool",
        "`range(...).map_batches(class, compute=ActorPoolStrategy(size=producers))."
        "iter_batches(prefetch_batches=2)`; batches come in any order",
        actor_pool,
        needs=("ray", "pyarrow", "pandas"),
    )
}
