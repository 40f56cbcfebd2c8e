"""feeder's server: runs the user's generator or Sequence in worker processes and sends the batches to whoever asks.

It is used from the command line, ``feeder-server``; importing this imports nothing else, so that a worker stays light. What is
in it for user code: `rng`, see draws.py, `empty`, see inplace.py, and `shared`, see sharing.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from feeder_server.draws import rng as rng
    from feeder_server.inplace import empty as empty
    from feeder_server.sharing import shared as shared

__all__ = ["empty", "rng", "shared"]


def __getattr__(name: str) -> object:
    if name == "rng":
        from feeder_server.draws import rng

        return rng
    if name == "empty":
        from feeder_server.inplace import empty

        return empty
    if name == "shared":
        from feeder_server.sharing import shared

        return shared
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
