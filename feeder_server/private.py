"""The private server of one training process: the same node, told what to do through its stdin pipe.

One line of JSON comes in: the source (a target, or a parcel), options, and keys made for this one server. One line goes out on
stdout: ``{"endpoint": ...}`` or ``{"error": [kind, text]}``. A second line means stop. When stdin ends, the training process is gone,
however it went, and so is this. Ctrl-C is the training process' business. See feeder_client/local.py for the other end.
"""

from __future__ import annotations

import json
import logging
import os
import select
import shutil
import signal
import sys
import threading
from dataclasses import replace
from typing import Any, BinaryIO

from feeder_server.bond import take_over_stdin
from feeder_server.config import ServeConfig, SourceEntry, resolve_workers
from feeder_server.node import Node
from feeder_server.target import parse_target, plain
from feeder_wire.errors import ConfigError, FeederError
from feeder_wire.security import KeyPair
from feeder_wire.sizes import parse_size

log = logging.getLogger("feeder.node")

PARENT_SECONDS = 1.0  # how often it is looked whether the training process is still there

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


def main() -> int:
    """Entry point; see the module."""
    parent = os.getppid()  # at once: that of an orphan says nothing
    for name in ("SIGINT", "SIGBREAK"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("feeder.worker").setLevel(logging.INFO)
    pipe = take_over_stdin()
    line = pipe.readline()
    if not line:
        return 0
    setup = json.loads(line)
    try:
        try:
            node = Node(configure(setup))
            endpoint = node.open()
        except (FeederError, TypeError) as e:
            kind = type(e).__name__ if isinstance(e, FeederError) else ConfigError.__name__
            _say({"error": [kind, str(e)]})
            return 2
        signal.signal(signal.SIGTERM, lambda *_: node.stop("it got SIGTERM"))

        def watch() -> None:
            wait_for_the_end(pipe, parent)
            node.stop("the training process has ended")

        threading.Thread(target=watch, name="feeder-watch", daemon=True).start()
        _say({"endpoint": endpoint})
        try:
            node.run()
        except FeederError as e:
            log.debug("%s", e)  # the training process hears it as a Goodbye
        finally:
            node.close()
    finally:
        if setup.get("remove"):
            shutil.rmtree(setup["remove"], ignore_errors=True)
    sys.stderr.flush()
    os._exit(0)  # the watching thread sits in a read that may never end


def wait_for_the_end(pipe: BinaryIO, parent: int) -> None:
    """Return when the training process says so, or is gone. `parent`: its process id, on POSIX.

    The end of the pipe alone doesn't tell: a child that the training process forks (a DataLoader of torch does) holds it open as well.
    """
    if sys.platform == "win32":  # no fork; and select() takes nothing but sockets
        pipe.readline()
        return
    while os.getppid() == parent and not select.select([pipe], [], [], PARENT_SECONDS)[0]:
        pass


def _say(message: dict[str, Any]) -> None:
    try:
        os.write(1, json.dumps(message).encode() + b"\n")
    except OSError:  # nobody listens any more
        pass
