"""The private server of one training process: the same node, told what to do through its stdin pipe.

One line of JSON comes in: the source (a target, or a parcel), options, and keys made for this one server. A second line means stop.
When stdin ends, the training process is gone, however it went, and so is this. Ctrl-C is the training process' business.

One line goes out on stdout, ``{"endpoint": ...}`` or ``{"error": [kind, text, builtins]}``; a node that ends with an error says it in a
second one. See feeder_client/local.py for the other end.
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
from typing import Any, BinaryIO

from feeder_server.bond import take_over_stdin
from feeder_server.cores import resolve_workers
from feeder_server.early_workers import EarlyWorkers

log = logging.getLogger("feeder.node")

PARENT_SECONDS = 1.0  # how often it is looked whether the training process is still there


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
    early = _early_workers(setup)
    try:
        code = _serve(setup, pipe, parent, early)
    finally:
        early.close()
        if setup.get("remove"):
            shutil.rmtree(setup["remove"], ignore_errors=True)
    if code:
        return code
    sys.stderr.flush()
    os._exit(0)  # the watching thread sits in a read that may never end


def _serve(setup: dict[str, Any], pipe: BinaryIO, parent: int, early: EarlyWorkers) -> int:
    """Say where the node is, or what can't work, and serve until the training process has ended. Returns the exit code."""
    # Only now: it takes as long as the workers take to load what they need.
    from feeder_server.node import Node
    from feeder_server.private_config import configure
    from feeder_wire.errors import ConfigError, FeederError

    try:
        node = Node(configure(setup), spawn=early.spawn)
        endpoint = node.open()
    except (FeederError, TypeError) as e:
        kind = type(e).__name__ if isinstance(e, FeederError) else ConfigError.__name__
        _say({"error": [kind, str(e), []]})
        return 2
    signal.signal(signal.SIGTERM, lambda *_: node.stop("it got SIGTERM"))

    def watch() -> None:
        wait_for_the_end(pipe, parent)
        node.stop("the training process has ended")

    threading.Thread(target=watch, name="feeder-watch", daemon=True).start()
    _say({"endpoint": endpoint})
    try:
        node.run()
    except FeederError:
        # As a Goodbye it is heard by who is connected. Workers that start early may have failed before.
        word = node.last_word
        _say({"error": [word.kind, word.text, list(word.builtins)]})
    finally:
        node.close()
    return 0


def _early_workers(setup: dict[str, Any]) -> EarlyWorkers:
    workers, autoscale = resolve_workers(setup["workers"])
    options = setup.get("options") or {}
    return EarlyWorkers(1 if autoscale else workers, options.get("threads", 1), options.get("gpu", False))


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
