"""feeder itself: over shared memory, over tcp, and with batches made where they have to be in the end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from benchmarks.job import Batches, Job, Open, Peer
from benchmarks.measuring import SOURCES, served


@contextmanager
def same_host(job: Job) -> Iterator[Batches]:
    """From a private server."""
    from feeder_client import FeederClient

    with FeederClient.local(f"{SOURCES}:{job.attribute}", workers=job.producers, args=job.args) as client:
        yield iter(client)


@contextmanager
def tcp(job: Job) -> Iterator[Batches]:
    """Through a socket, without keys, as between two machines that trust their network."""
    from feeder_client import FeederClient

    args = [item for key, value in job.args.items() for item in ("-a", f"{key}={value}")]
    server = served(f"{SOURCES}:{job.attribute}", *args, workers=job.producers)
    with server as endpoint, FeederClient(endpoint, transport="tcp") as client:
        yield iter(client)


@contextmanager
def encrypted(job: Job) -> Iterator[Batches]:
    """Through a socket, with the keys of a private server."""
    from feeder_client import FeederClient

    target = f"{SOURCES}:{job.attribute}"
    with FeederClient.local(target, workers=job.producers, args=job.args, transport="tcp") as client:
        yield iter(client)


def of(source: str) -> Open:
    """Over shared memory, from another class of sources.py."""

    @contextmanager
    def open_it(job: Job) -> Iterator[Batches]:
        with same_host(replace(job, source=source)) as batches:
            yield batches

    return open_it


_LOCAL = "`FeederClient.local(...)`, all defaults"
PEERS = {
    "feeder": Peer("**feeder**", _LOCAL, same_host),
    "feeder-tcp": Peer("**feeder** over tcp", '`feeder-server serve` without keys, `FeederClient(..., transport="tcp")`', tcp),
    "feeder-curve": Peer("**feeder** over tcp, encrypted", f'{_LOCAL} but `transport="tcp"`', encrypted, works=("big",)),
    "feeder-stacked": Peer(
        "**feeder**, `np.stack` of 64 pictures", f"{_LOCAL}; the source stacks into a new array", of("Stacked"), works=("big",)
    ),
    "feeder-empty": Peer(
        "**feeder**, the same into `feeder_server.empty`", f"{_LOCAL}; the source stacks in place", of("Inplace"), works=("big",)
    ),
}
