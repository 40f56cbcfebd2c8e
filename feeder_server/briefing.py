"""What a worker is told at its start, through its stdin pipe; see worker.py for its end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from feeder_server.config import ServeConfig
from feeder_server.work import Source


def worker_setup(config: ServeConfig, sources: Sequence[Source], slot: int, generation: int) -> dict[str, Any]:
    """For the worker in `slot`, as things are now (JSON-able); how to reach the node, node.py adds.

    Args:
        config: the node's.
        sources: what is known of them, in the order of the configuration.
        slot: its place.
        generation: how many there have been in this place.
    """
    entries = [
        {
            "name": entry.name,
            "target": entry.target.to_json() if entry.target else None,
            "parcel": entry.parcel,
            "slots": sorted(source.slots),
            "warm": source.warm and not source.exclusive,
            "exclusive": source.exclusive,
        }
        for entry, source in zip(config.sources, sources, strict=True)
    ]
    return {
        "slot": slot,
        "generation": generation,
        "seed": config.seed,
        "ordered": config.stream_order == "fixed",
        "budget_bytes": max(1, config.memory // config.workers),
        "sources": entries,
        "mine": [i for i, source in enumerate(sources) if slot in source.slots],
    }
