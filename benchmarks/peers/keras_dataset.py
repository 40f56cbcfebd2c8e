"""Keras' own PyDataset with its worker pool, read as `fit` reads it: through the adapter's enqueuer."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.job import Batches, Job, Open, Peer


def dataset(use_multiprocessing: bool) -> Open:
    """With threads or with processes."""

    @contextmanager
    def open_it(job: Job) -> Iterator[Batches]:
        os.environ.setdefault("KERAS_BACKEND", "numpy")  # no backend takes part: batches are taken before one gets them
        import keras
        from keras.src.trainers.data_adapters.py_dataset_adapter import PyDatasetAdapter

        source = job.make()

        class Source(keras.utils.PyDataset):  # type: ignore[misc]
            def __len__(self) -> int:
                return job.length

            def __getitem__(self, index: int) -> Any:
                return source[index]

        made = Source(workers=job.producers, use_multiprocessing=use_multiprocessing)
        yield PyDatasetAdapter(made, shuffle=False)._get_iterator()

    return open_it


_ALL = "`PyDataset(workers=producers)`, `max_queue_size` as it is (10)"
PEERS = {
    # Ready batches are handed from thread to thread as they are: nothing is brought anywhere.
    "keras-threads": Peer("Keras PyDataset, threads", _ALL, dataset(False), works=("cpu", "sleep"), needs=("keras",)),
    "keras-processes": Peer("Keras PyDataset, multiprocessing", f"{_ALL}, `use_multiprocessing=True`", dataset(True), needs=("keras",)),
}
