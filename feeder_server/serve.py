"""``feeder-server serve``: a node with its signals, its log and its live line."""

from __future__ import annotations

import logging
import os
import signal
import sys
from types import FrameType

from feeder_server.config import ServeConfig
from feeder_server.display import Display, LiveDisplay, LogDisplay
from feeder_server.limits import allow_many_connections
from feeder_server.node import Node

log = logging.getLogger("feeder.node")

SIGNALS = ("SIGINT", "SIGTERM", "SIGBREAK")
"""Ctrl-C, a service manager's polite request, and Ctrl-Break, its twin on Windows."""
POLITE = ("SIGTERM", "SIGBREAK")


class Stopper:
    """Signals only set a flag; the loop acts. A polite request lets what is under way be finished; the second signal means it: kill.

    Args:
        node: what to stop.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._count = 0

    def install(self) -> None:
        """Take over the signals that this system has."""
        for name in SIGNALS:
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), self.handle)

    def handle(self, number: int, frame: FrameType | None) -> None:
        """A signal has come."""
        self._count += 1
        name = signal.Signals(number).name
        if self._count == 1 and name in POLITE:
            self._node.drain(f"it got {name}")
        elif self._count == 1:
            self._node.stop(f"it got {name}")
        else:
            self._node.kill()
            os._exit(130)


def run(config: ServeConfig, verbose: bool = False) -> None:
    """Serve until a signal comes.

    Raises:
        FeederError: the endpoint can't be bound, a source can't be loaded, or workers keep dying.
    """
    display = _display(verbose)
    allow_many_connections()
    node = Node(config, _announce, display.look)
    Stopper(node).install()
    names = ", ".join(s.name for s in config.sources)
    with display:
        endpoint = node.open()
        many = f"1 of at most {config.workers}" if config.autoscale else str(config.workers)
        log.info("starting %s workers for %s on %s", many, names, endpoint)
        try:
            node.run()
            log.info("stopping: %s", node.stop_reason)
        finally:
            node.close()
    log.info("stopped")


def _announce(endpoint: str) -> None:
    # The one line on stdout: scripts read the endpoint from it. There may be no stdout (a Windows service), or nobody who reads it.
    if sys.stdout is None:
        return
    try:
        sys.stdout.write(f"feeder-server ready at {endpoint}\n")
        sys.stdout.flush()
    except OSError:
        # What could not be written would be tried again at the end, and make that look like a failure.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _display(verbose: bool) -> Display:
    level = logging.DEBUG if verbose else logging.INFO
    if sys.stderr is None or not sys.stderr.isatty():
        logging.basicConfig(format="%(asctime)s %(levelname)-7s %(message)s", datefmt="%H:%M:%S", level=level)
        return LogDisplay()
    from rich.console import Console
    from rich.highlighter import NullHighlighter
    from rich.logging import RichHandler

    console = Console(stderr=True)
    handler = RichHandler(console=console, show_path=False, log_time_format="%H:%M:%S", markup=False, highlighter=NullHighlighter())
    logging.basicConfig(format="%(message)s", level=level, handlers=[handler])
    return LiveDisplay(console)
