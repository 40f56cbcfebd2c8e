"""Bare pyzmq between two processes over tcp: frames sent without a copy, received without a copy, turned into arrays. A floor for tcp.

What is sent is the first batch of the source, over and over: nothing but the way is measured.
"""

from __future__ import annotations

import multiprocessing
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from benchmarks.job import Batches, Job, Peer


def free_endpoint() -> str:
    """Of loopback. Somebody else may take it before it is used: good enough for a measurement."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{found.getsockname()[1]}"


def send(job: Job, endpoint: str) -> None:
    """The producer."""
    import zmq

    x, y = job.make()[0]
    with zmq.Context() as context, context.socket(zmq.PUSH) as pusher:
        pusher.sndhwm = 8  # frames: four batches
        pusher.linger = 0
        pusher.connect(endpoint)
        while True:
            pusher.send_multipart([x, y], copy=False)


@contextmanager
def pull(job: Job) -> Iterator[Batches]:
    """The consumer."""
    import zmq

    x, y = job.make()[0]
    with zmq.Context() as context, context.socket(zmq.PULL) as puller:
        puller.rcvhwm = 8
        puller.linger = 0
        port = puller.bind_to_random_port("tcp://127.0.0.1")
        spawn = multiprocessing.get_context("spawn")
        producer = spawn.Process(target=send, args=(job, f"tcp://127.0.0.1:{port}"), daemon=True)
        producer.start()

        def batches() -> Batches:
            while True:
                first, second = puller.recv_multipart(copy=False)
                yield np.frombuffer(first.buffer, x.dtype).reshape(x.shape), np.frombuffer(second.buffer, y.dtype).reshape(y.shape)

        try:
            yield batches()
        finally:
            producer.kill()


PEERS = {
    "pyzmq": Peer(
        "bare pyzmq over tcp",
        "one process sends `copy=False`, one receives `copy=False`; nothing is encoded, ordered or made again when it is lost",
        pull,
        works=("big", "mid", "small"),
        serves=False,
    )
}
