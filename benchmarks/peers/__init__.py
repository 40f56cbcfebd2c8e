"""Feeder and its peers, each behind one small file, each used as its documentation recommends.

Importing this imports no framework: a peer's own package is imported where it is opened, in the process that measures it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping

from benchmarks.job import Job, Peer, figures
from benchmarks.measuring import AbsentError
from benchmarks.peers import bare_zmq, feeder, grain_dataset, keras_dataset, plain, ray_data, tensorpack_zmq, tf_data, torch_loader

PEERS: dict[str, Peer] = {
    **feeder.PEERS,
    **torch_loader.PEERS,
    **grain_dataset.PEERS,
    **tensorpack_zmq.PEERS,
    **tf_data.PEERS,
    **keras_dataset.PEERS,
    **ray_data.PEERS,
    **bare_zmq.PEERS,
    **plain.PEERS,
}
"""By the name that `--peers` takes."""


def rate_of(peer: str, job: Mapping[str, object]) -> Mapping[str, float]:
    """Measures one of them, in this process.

    Raises:
        AbsentError: a package that it needs is not installed.
    """
    chosen, wanted = PEERS[peer], Job(**job)  # type: ignore[arg-type]
    missing = [name for name in chosen.needs if importlib.util.find_spec(name) is None]
    if missing:
        raise AbsentError(f"not installed: {', '.join(missing)}")
    with chosen.open(wanted) as batches:
        return figures(batches, wanted)
