"""tf.data: user code in threads of the training process. Nothing crosses a process, and pure Python has one GIL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.job import Batches, Job, Peer


def _ready(data: Any, job: Job) -> Any:
    import tensorflow as tf

    options = tf.data.Options()
    # Its own default is one thread per core, and a producer that sleeps would keep the others waiting.
    options.threading.private_threadpool_size = job.producers + 1
    return iter(data.prefetch(tf.data.AUTOTUNE).with_options(options))


@contextmanager
def mapped(job: Job) -> Iterator[Batches]:
    """`map(numpy_function)`."""
    import tensorflow as tf

    source = job.make()
    data = tf.data.Dataset.range(job.length).map(
        lambda i: tf.numpy_function(lambda index: source[int(index)], [i], (tf.float32, tf.int64)), num_parallel_calls=job.producers
    )
    yield _ready(data, job)


@contextmanager
def generated(job: Job) -> Iterator[Batches]:
    """`from_generator`."""
    import tensorflow as tf

    source = job.make()
    signature = tuple(tf.TensorSpec.from_tensor(tf.constant(array)) for array in source[0])
    yield _ready(tf.data.Dataset.from_generator(lambda: (source[i] for i in range(job.length)), output_signature=signature), job)


_ALL = "`prefetch(AUTOTUNE)`, a private pool of producers + 1 threads"
PEERS = {
    "tf-map": Peer("tf.data map(numpy_function)", f"`num_parallel_calls` = producers, {_ALL}", mapped, needs=("tensorflow",)),
    "tf-generator": Peer("tf.data from_generator", f"one generator, one thread, {_ALL}", generated, needs=("tensorflow",)),
}
