"""tensorpack, the model of "producers push over ZeroMQ": `send_dataflow_zmq` in processes, `RemoteDataZMQ` in the consumer."""

from __future__ import annotations

import itertools
import multiprocessing
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.job import Batches, Job, Peer
from benchmarks.peers.bare_zmq import free_endpoint


def without_tensorflow() -> None:
    """Its dataflow works without, and importing TensorFlow in each producer takes longer than the measurement."""
    sys.modules.setdefault("tensorflow", None)  # type: ignore[arg-type]


def send(job: Job, endpoint: str, number: int) -> None:
    """A producer, in a process of its own: every `producers`-th batch."""
    without_tensorflow()
    from tensorpack.dataflow import DataFlow, send_dataflow_zmq

    class Flow(DataFlow):  # type: ignore[misc]
        def __iter__(self) -> Iterator[Any]:
            source = job.make()
            for i in itertools.count(number, job.producers):
                yield list(source[i])

    send_dataflow_zmq(Flow(), endpoint, hwm=4)


@contextmanager
def remote(job: Job) -> Iterator[Batches]:
    """From processes that push."""
    without_tensorflow()
    from tensorpack.dataflow import RemoteDataZMQ

    endpoint = free_endpoint()
    spawn = multiprocessing.get_context("spawn")
    producers = [spawn.Process(target=send, args=(job, endpoint, number), daemon=True) for number in range(job.producers)]
    for producer in producers:
        producer.start()
    flow = RemoteDataZMQ(endpoint, hwm=4)
    flow.reset_state()
    try:
        yield iter(flow)
    finally:
        for producer in producers:
            producer.kill()


PEERS = {
    "tensorpack": Peer(
        "tensorpack over ZeroMQ",
        "`send_dataflow_zmq` to `RemoteDataZMQ` over tcp, `hwm=4`, its own serialization (pickle); batches come in any order",
        remote,
        needs=("tensorpack",),
    )
}
