"""grain. Its documentation: data in memory want ``num_threads=0``; `mp_prefetch` brings arrays through shared memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.job import Batches, Job, Peer


class Source:
    """A random access source; at the top of a module, for it is pickled."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._source: Any = None

    def __len__(self) -> int:
        return self._job.length

    def __getitem__(self, index: int) -> Any:
        if self._source is None:  # in the worker: 38 MB need not be pickled
            self._source = self._job.make()
        return self._source[index]


@contextmanager
def mp_prefetch(job: Job) -> Iterator[Batches]:
    """From processes."""
    import grain
    from absl import flags

    if not flags.FLAGS.is_parsed():  # it reads them, and expects a program that was started by absl
        flags.FLAGS.mark_as_parsed()
    read = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    processes = grain.MultiprocessingOptions(num_workers=job.producers, per_worker_buffer_size=2)
    batches = iter(grain.MapDataset.source(Source(job)).to_iter_dataset(read).mp_prefetch(processes))
    try:
        yield batches
    finally:
        batches.close()


PEERS = {
    "grain": Peer(
        "grain",
        "`MapDataset.source(...).to_iter_dataset(ReadOptions(num_threads=0)).mp_prefetch(...)`, `per_worker_buffer_size=2`",
        mp_prefetch,
        needs=("grain",),
    )
}
