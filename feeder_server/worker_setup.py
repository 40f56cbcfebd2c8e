"""What a worker is told when it starts: one line of JSON through its stdin pipe. See supervisor.py and worker.py for both ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from feeder_server.config import ServeConfig
from feeder_server.work import Source


def setup_of(
    config: ServeConfig, sources: Sequence[Source], endpoint: str, token: bytes, directories: Sequence[str], slot: int, generation: int
) -> dict[str, Any]:
    """The set-up of the worker in a slot.

    Args:
        config: of the node.
        sources: as the node knows them now.
        endpoint: where the node listens to its workers.
        token: what they show there.
        directories: of the arena, best first.
        slot: which worker it is.
        generation: how many there have been in this slot, with this one.
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
        "endpoint": endpoint,
        "token": token.hex(),
        "slot": slot,
        "generation": generation,
        "seed": config.seed,
        "ordered": config.stream_order == "fixed",
        "light_imports": config.light_imports,
        "directories": directories,
        "memory_bytes": config.memory,
        "budget_bytes": max(1, config.memory // config.workers),
        "sources": entries,
        "mine": [i for i, source in enumerate(sources) if slot in source.slots],
    }
