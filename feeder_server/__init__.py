"""feeder's server: runs the user's generator or Sequence in worker processes and sends the batches to whoever asks.

It is used from the command line, ``feeder-server``; importing this imports nothing else, so that a worker stays light. The one thing
in it for user code is `rng`, see draws.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from feeder_server.draws import rng as rng

__all__ = ["rng"]


def __getattr__(name: str) -> object:
    if name == "rng":
        from feeder_server.draws import rng

        return rng
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
