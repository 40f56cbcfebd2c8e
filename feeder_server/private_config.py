"""What the set-up of a private server means: its one line of JSON, checked."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from feeder_server.config import ServeConfig, SourceEntry
from feeder_server.cores import resolve_workers
from feeder_server.target import parse_target, plain
from feeder_wire.errors import ConfigError
from feeder_wire.security import KeyPair
from feeder_wire.sizes import parse_size

OPTIONS = ("memory", "max_retries", "batch_timeout", "hedge", "light_imports", "gpu", "threads", "single", "on_divergence", "stream_order")
"""Options of ``feeder-server serve`` that a training script may set: ``FeederSequence.local(..., server={"threads": 2})``."""


def configure(setup: dict[str, Any]) -> ServeConfig:
    """The configuration meant by a set-up. Raises ConfigError."""
    entry = setup["source"]
    if entry["target"] is not None:
        args = {str(key): plain(value, f"args[{key!r}]") for key, value in entry["args"].items()}
        target = replace(parse_target(entry["target"]), name="default", args=args)
        source = SourceEntry("default", target=target)
    else:
        source = SourceEntry("default", parcel=entry["parcel"])
    given = dict(setup.get("options") or {})
    unknown = sorted(set(given) - set(OPTIONS))
    if unknown:
        raise ConfigError(f"server={{{unknown[0]!r}: ...}}: there is no such option; there are: {', '.join(OPTIONS)}")
    if "memory" in given:
        given["memory_bytes"] = parse_size(str(given.pop("memory")))
    workers, autoscale = resolve_workers(setup["workers"])
    return ServeConfig(
        sources=(source,),
        bind="tcp://127.0.0.1:0",
        workers=workers,
        autoscale=autoscale,
        seed=setup["seed"],
        keys=KeyPair(setup["server_public"].encode(), setup["server_secret"].encode()),
        authorized=frozenset({setup["client_public"].encode()}),
        **given,
    )
