"""What the user chose for one client."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from feeder_wire.errors import ConfigError


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
    hedge: bool = True
    rank: int = 0
    world_size: int = 1
    skip_budget: int | float | None = None  # see skips.py; None: nothing is skipped
    resume: dict[str, Any] | None = None
    rolls: bool = False  # see order.py

    def length_of(self, kind: str, num_batches: int) -> int | None:
        """Batches of one pass over a source that a node has described so; None: no end is known.

        Raises:
            ConfigError: the options don't fit it.
        """
        stream = kind == "stream"
        length = None if num_batches < 0 else num_batches
        if self.world_size > 1:
            if stream or length is None:
                raise ConfigError("rank and world_size share out the batches of an indexed source; this one is a stream")
            if length < self.world_size:
                raise ConfigError(f"world_size={self.world_size}, but source {self.source!r} has only {length} batches to share out")
            length //= self.world_size
        if self.steps is not None:
            if not stream and length is not None and self.steps > length:
                raise ConfigError(f"steps={self.steps}, but source {self.source!r} has only {length} batches")
            length = self.steps
        return length


def check_local(given: Collection[str], known: Collection[str], method: str) -> None:
    """Refuse what `local` can't use before a server is started for it.

    Raises:
        ConfigError: a private server chooses that itself.
        TypeError: there is no such option; the text says where arguments of the source and of the server belong.
    """
    own = sorted({"endpoints", "keys", "server_key"}.intersection(given))
    if own:
        raise ConfigError(f"{', '.join(own)}: a private server chooses its own endpoint and keys")
    unknown = sorted(set(given).difference(known))
    if unknown:
        where = "What the source takes goes into args={...}, and what the server takes into server={...}"
        raise TypeError(f"{method}() has no option {', '.join(unknown)}; it has {', '.join(sorted(known))}. {where}")
