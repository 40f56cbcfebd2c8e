"""What the user chose for one client."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Options:
    """What the user chose; see `FeederClient`. `prefetch` None: auto."""

    source: str
    steps: int | None = None
    prefetch: int | None = None
    memory_bytes: int = 1 << 30
    lookahead: bool = True
    connect_timeout: float = 30.0
    batch_timeout: float | None = None
    rank: int = 0
    world_size: int = 1
    resume: dict[str, Any] | None = None
    rolls: bool = False  # see order.py
