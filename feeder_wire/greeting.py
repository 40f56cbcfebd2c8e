"""Who is there? Asked with a plain socket where ZeroMQ only says that a handshake has failed, or before it is tried.

A relay (of docker, ssh or a load balancer) accepts connections for a server that is away, and hangs up without a word; over a bad line
a handshake takes too long. Neither is a matter of keys. A server where it is greets as soon as it is greeted, and names its mechanism.
"""

from __future__ import annotations

import socket
import time

_GREETING = b"\xff" + bytes(8) + b"\x7f\x03"
"""How a peer of ZMTP 3 begins: signature and version. The rest, with the mechanism, follows when it has seen ours; one who hears of another
mechanism than its own hangs up."""
_SIGNATURE = 10
_MECHANISM = slice(12, 32)
_SECONDS = 1.0  # the thread that asks has other connections to serve


def mechanism_at(endpoint: str) -> str | None:
    """Ask what listens at ``tcp://host:port``, see `mechanism_on`. None also where nobody does. Takes at most some two seconds."""
    try:
        with socket.create_connection(address(endpoint), timeout=_SECONDS) as connection:
            return mechanism_on(connection, time.monotonic() + _SECONDS)
    except (OSError, UnicodeError, ValueError):  # nobody is there, or it is no address
        return None


def address(endpoint: str) -> tuple[str, int]:
    """Host and port of ``tcp://host:port``, as sockets take them. Raises ValueError where there is no port."""
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    return host.strip("[]"), int(port)


def mechanism_on(connection: socket.socket, deadline: float) -> str | None:
    """What a peer wants of who connects: ``"NULL"`` or ``"CURVE"``, or ``""`` if it doesn't speak ZMTP.

    None: until `deadline` (of the monotonic clock) it says nothing, or not enough, or hangs up.
    """
    got = b""
    try:
        connection.sendall(_GREETING)
        while len(got) < _MECHANISM.stop and (left := deadline - time.monotonic()) > 0:
            connection.settimeout(left)
            piece = connection.recv(64)
            if not piece:
                break
            got += piece
            if _is_foreign(got):
                return ""
    except OSError:  # it hung up, or says no more
        pass
    if len(got) < _MECHANISM.stop:
        return None
    return got[_MECHANISM].rstrip(b"\0").decode("ascii", "backslashreplace")


def _is_foreign(got: bytes) -> bool:
    """Is this the beginning of something else than a greeting?"""
    last = _SIGNATURE - 1
    return got[:1] != _GREETING[:1] or got[last:_SIGNATURE] not in (b"", _GREETING[last:_SIGNATURE])
