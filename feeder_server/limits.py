"""How many connections this process may have."""

from __future__ import annotations

import logging
import sys

log = logging.getLogger("feeder.node")

MOST = 1 << 16


def allow_many_connections() -> None:
    """Raise the limit of descriptors as far as this process may by itself.

    It is 1024 by default on Linux and 256 on macOS, one connection takes one, and who connects and says nothing keeps it for half a minute.
    Without any left libzmq goes on trying to accept, which takes a whole core. Windows has no such limit.
    """
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST if hard == resource.RLIM_INFINITY else min(MOST, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        except (OSError, ValueError) as e:  # macOS has a limit of its own on it
            log.debug("the limit of descriptors stays at %d: %s", soft, e)
