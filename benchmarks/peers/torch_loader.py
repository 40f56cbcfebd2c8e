"""torch's DataLoader. Its documentation: batches that are whole already take ``batch_size=None``; tensors go through shared memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.job import Batches, Job, Open, Peer


class Source:
    """Map-style, as a DataLoader wants it; at the top of a module, for spawned workers have to find it."""

    def __init__(self, job: Job, tensors: bool) -> None:
        self._source, self._length, self._tensors = job.make(), job.length, tensors

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Any:
        batch = self._source[index]
        if not self._tensors:
            return batch
        import torch

        return tuple(torch.from_numpy(array) for array in batch)


def as_it_is(batch: Any) -> Any:
    """Without it, a DataLoader makes tensors of arrays in the worker."""
    return batch


def loader(tensors: bool, method: str) -> Open:
    """Tensors or arrays, from workers that were forked or spawned."""

    @contextmanager
    def open_it(job: Job) -> Iterator[Batches]:
        from torch.utils.data import DataLoader

        made: Any = DataLoader(
            Source(job, tensors),
            batch_size=None,
            shuffle=False,
            num_workers=job.producers,
            persistent_workers=True,
            multiprocessing_context=method,
            collate_fn=None if tensors else as_it_is,
        )
        yield iter(made)

    return open_it


_ALL = "`batch_size=None`, `persistent_workers=True`, `prefetch_factor` as it is (2)"
PEERS = {
    "torch": Peer("torch DataLoader, tensors", f"{_ALL}, forked", loader(True, "fork"), needs=("torch",)),
    "torch-numpy": Peer("torch DataLoader, NumPy", f"{_ALL}, forked, arrays as they are", loader(False, "fork"), needs=("torch",)),
    "torch-spawn": Peer("torch DataLoader, tensors, spawned", f"{_ALL}, `spawn`", loader(True, "spawn"), needs=("torch",)),
}
