"""What a node is told to do, checked before anything starts."""

from __future__ import annotations

from dataclasses import dataclass, field

from feeder_server.target import Target
from feeder_wire.directories import free_bytes, parents
from feeder_wire.errors import ConfigError
from feeder_wire.packing import METHODS, available
from feeder_wire.security import KeyPair, check_endpoint, is_loopback
from feeder_wire.words import AUTO

DEFAULT_BIND = "tcp://127.0.0.1:5555"
DEFAULT_MEMORY = 1 << 30
MAX_WORKERS = 4096
MOST_SECONDS = 30 * 86400.0
POLICIES = ("single", "parallel", "error")
"""What to do with a source whose copies disagree, see probe.py."""
STREAM_ORDERS = ("ready", "fixed")
"""In which order the batches of a stream's workers come: as they are ready, or round robin, the same on every run."""

COMPRESSIONS = ("auto", "off", *METHODS)
"""Whether batches are packed for clients on other machines: where that pays for their line, never, or always with one method."""


@dataclass(frozen=True, slots=True)
class SourceEntry:
    """One named source: a target to import, or a parcel that came through the parent's pipe."""

    name: str
    target: Target | None = None
    parcel: str | None = None

    def __post_init__(self) -> None:
        if (self.target is None) == (self.parcel is None):
            raise ConfigError(f"source {self.name!r} is a target or a parcel")


@dataclass(frozen=True, slots=True)
class ServeConfig:
    """A node's configuration.

    Raises:
        ConfigError: on the first thing that can't work, saying what to change.
    """

    sources: tuple[SourceEntry, ...]
    bind: str = DEFAULT_BIND
    workers: int = 1
    autoscale: bool = False  # so many of these as are of use, beginning with one
    seed: int = 0
    memory_bytes: int = 0  # 0: `default_memory()`
    max_retries: int = 2
    batch_timeout: float | None = None
    gpu: bool = False
    threads: int = 1
    single: bool = False
    on_divergence: str = "single"
    stream_order: str = "ready"
    hedge: bool = True
    light_imports: bool = True
    compression: str = "auto"
    drain_timeout: float = 5.0
    keys: KeyPair | None = None
    authorized: frozenset[bytes] = field(default_factory=frozenset)
    insecure: bool = False

    def __post_init__(self) -> None:
        if not self.sources:
            raise ConfigError("nothing to serve: name at least one source, for example augment.py:train")
        names = [s.name for s in self.sources]
        if len(set(names)) != len(names):
            raise ConfigError(f"two sources have the same name: {', '.join(sorted(names))}")
        check_endpoint(self.bind, bind=True)
        _within("--workers", self.workers, 1, MAX_WORKERS)
        _within("--memory", self.memory_bytes, 0, 1 << 60)
        _within("--seed", self.seed, 0, (1 << 64) - 1)
        _within("--max-retries", self.max_retries, 0, 1000)
        _seconds("--batch-timeout", self.batch_timeout)
        _seconds("--drain-timeout", self.drain_timeout)
        _within("--threads", self.threads, 1, 4096)
        if self.on_divergence not in POLICIES:
            raise ConfigError(f"--on-divergence {self.on_divergence!r:.80}: one of {', '.join(POLICIES)} is needed")
        if self.stream_order not in STREAM_ORDERS:
            raise ConfigError(f"--stream-order {self.stream_order!r:.80}: one of {', '.join(STREAM_ORDERS)} is needed")
        if self.autoscale and self.single:
            raise ConfigError("--workers auto with --single, which means one worker for each source: give a number of workers")
        if self.compression not in COMPRESSIONS:
            raise ConfigError(f"--compression {self.compression!r:.80}: one of {', '.join(COMPRESSIONS)} is needed")
        if self.compression in METHODS and not self.methods:
            raise ConfigError(f'--compression {self.compression} needs its library: pip install "keras-feeder[compression]"')
        if self.keys is not None and not self.authorized:
            raise ConfigError("--keys without --authorized-clients: name the folder with the public keys of the clients to let in")
        if self.authorized and self.keys is None:
            raise ConfigError("--authorized-clients without --keys: name the folder with this server's own key pair")
        if self.keys is None and not self.insecure and not is_loopback(self.bind):
            raise ConfigError(
                f"{self.bind} can be reached from other machines, and without keys anyone there could connect. Make keys with "
                "'feeder-server keygen' and pass --keys and --authorized-clients, or say --insecure if the network is your own"
            )

    @property
    def methods(self) -> tuple[str, ...]:
        """How batches may be packed for clients on other machines, see packing.py."""
        return tuple(method for method in available() if self.compression in ("auto", method))

    @property
    def memory(self) -> int:
        """Cap on finished batches held, bytes."""
        return self.memory_bytes or default_memory()


def parse_workers(text: str) -> int | str:
    """What ``--workers`` says: a number, or ``"auto"``.

    Raises:
        ConfigError: it is something else.
    """
    try:
        return text if text == AUTO else int(text)
    except ValueError:
        raise ConfigError(f"--workers {text!r:.80}: a whole number is needed, or {AUTO}") from None


def _within(name: str, value: int, low: int, high: int) -> None:
    # Not isinstance: True is an int for that. And a training script may hand over anything.
    if type(value) is not int or not low <= value <= high:
        raise ConfigError(f"{name} {value!r:.80}: a whole number from {low} to {high} is needed")


def _seconds(name: str, value: float | None) -> None:
    if value is not None and (type(value) not in (int, float) or not 0 < value <= MOST_SECONDS):
        raise ConfigError(f"{name} {value!r:.80}: a number of seconds above 0 is needed, at most {MOST_SECONDS:.0f}")


def default_memory() -> int:
    """1 GiB, or half of what is free where the arena would be, if that is less."""
    return max(1 << 20, min(DEFAULT_MEMORY, free_bytes(parents(DEFAULT_MEMORY)[0]) // 2))
