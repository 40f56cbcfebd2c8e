"""CURVE keys: make them, load them, put them on a socket.

Both sides prove who they are: a hostile server would attack the trainer as a hostile client would attack the server. A server
has a key pair and a list of the public keys it lets in; a client has a key pair and the public key of its server. Key files are
those of pyzmq (`zmq.auth.create_certificates`): ``NAME.key`` is public, ``NAME.key_secret`` is not.
"""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass, field
from pathlib import Path

import zmq
import zmq.auth

from feeder_wire.errors import ConfigError

SERVER_NAME = "feeder"
_Z85 = frozenset(b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#")


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A CURVE key pair, each half 40 characters of Z85."""

    public: bytes
    secret: bytes = field(repr=False)

    @classmethod
    def fresh(cls) -> KeyPair:
        """A new random pair."""
        public, secret = zmq.curve_keypair()
        return cls(public, secret)


def make_key_files(folder: Path, name: str = SERVER_NAME) -> tuple[Path, Path]:
    """Write ``NAME.key`` and ``NAME.key_secret`` into `folder`. Existing files are never overwritten.

    Returns:
        The paths of the public and of the secret file (mode 0600).

    Raises:
        ConfigError: the files are there already, or can't be written.
    """
    if not name.isprintable() or not name.strip() or any(c in name for c in '/\\:*?"<>|') or name.startswith("."):
        raise ConfigError(f"{name!r} can't be the name of a key file: use letters, digits and dashes")
    public, secret = folder / f"{name}.key", folder / f"{name}.key_secret"
    for path in (public, secret):
        if path.exists():
            raise ConfigError(f"{path} is there already; remove it first, or choose another --name")
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        before = os.umask(0o077)
        try:
            zmq.auth.create_certificates(str(folder), name)
        finally:
            os.umask(before)
        public.chmod(0o644)
    except OSError as e:
        raise ConfigError(f"can't write keys to {folder}: {e.strerror or e}") from None
    return public, secret


def load_pair(path: Path) -> KeyPair:
    """Load a key pair from a ``.key_secret`` file, or from the only one in a folder.

    Raises:
        ConfigError: no such file, several of them, or it holds no secret key.
    """
    if path.is_dir():
        named = path / f"{SERVER_NAME}.key_secret"
        found = [named] if named.exists() else sorted(path.glob("*.key_secret"))
        if len(found) != 1:
            have = "no .key_secret file" if not found else "several .key_secret files: name the one to use"
            raise ConfigError(f"{path} holds {have} (feeder-server keygen {path} makes a pair)")
        path = found[0]
    public, secret = _load(path)
    if secret is None:
        raise ConfigError(f"{path} holds no secret key; the secret file ends in .key_secret")
    return KeyPair(public, secret)


def load_public(path: Path) -> bytes:
    """Load the public key of a ``.key`` (or ``.key_secret``) file. Raises ConfigError as `load_pair` does."""
    if path.is_dir():
        named = path / f"{SERVER_NAME}.key"
        if not named.exists():
            raise ConfigError(f"{path} holds no {SERVER_NAME}.key; name the file with the server's public key")
        path = named
    return _load(path)[0]


def load_authorized(folder: Path) -> frozenset[bytes]:
    """The public keys of all ``.key`` files in `folder`.

    Raises:
        ConfigError: no such folder, or no key in it.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder with the public keys (*.key) of the clients to let in")
    keys = frozenset(_load(path)[0] for path in sorted(folder.glob("*.key")))
    if not keys:
        raise ConfigError(f"{folder} holds no *.key file, so no client could connect")
    return keys


def _load(path: Path) -> tuple[bytes, bytes | None]:
    try:
        public, secret = zmq.auth.load_certificate(str(path))
    except OSError as e:
        raise ConfigError(f"can't read the key file {path}: {e.strerror or 'no such file'}") from None
    except ValueError as e:
        raise ConfigError(f"{path} is not a key file: {e}") from None
    for key in (public, secret):
        if key is not None and not (len(key) == 40 and all(byte in _Z85 for byte in key)):
            raise ConfigError(f"{path} is not a key file: a CURVE key is 40 characters of Z85")
    return public, secret


def secure_server(socket: zmq.Socket[bytes], pair: KeyPair) -> None:
    """Make `socket` a CURVE server. Who is let in is decided by the context's ZAP handler (`zmq.auth`)."""
    socket.curve_server = True
    socket.curve_publickey = pair.public
    socket.curve_secretkey = pair.secret


def secure_client(socket: zmq.Socket[bytes], pair: KeyPair, server: bytes) -> None:
    """Make `socket` a CURVE client that accepts only the server with this public key."""
    socket.curve_publickey = pair.public
    socket.curve_secretkey = pair.secret
    socket.curve_serverkey = server


def is_loopback(endpoint: str) -> bool:
    """Can only this machine reach an endpoint bound there? Names other than localhost count as reachable from outside."""
    host = endpoint.removeprefix("tcp://").rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_endpoint(endpoint: str, *, bind: bool = False) -> None:
    """Raise ConfigError unless this is ``tcp://HOST:PORT`` (when connecting, with a port that is not 0)."""
    what = f"{endpoint!r} is not an endpoint: write tcp://HOST:PORT, for example tcp://127.0.0.1:5555"
    if not isinstance(endpoint, str) or not endpoint.startswith("tcp://"):
        raise ConfigError(what)
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    if not host or any(c in host for c in "/ @"):
        raise ConfigError(what)
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) < 65536) and not (bind and port == "*"):
        raise ConfigError(what)
    if not bind and int(port) == 0:
        raise ConfigError(f"{endpoint!r}: port 0 is for servers (take a free one); use the port that the server printed")
