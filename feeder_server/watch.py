"""``feeder-server status``: look at a node once, or every second, and print what it says."""

from __future__ import annotations

import json
import shutil
import sys
import time
from dataclasses import asdict
from pathlib import Path

import click

from feeder_server.report import Report
from feeder_server.status import Keys, Visitor
from feeder_server.status_text import WIDTH, lines
from feeder_wire.errors import ConfigError
from feeder_wire.security import load_pair, load_public

EVERY_SECONDS = 1.0


def run(endpoint: str, *, as_json: bool, watch: bool, timeout: float, keys: Path | None, server_key: Path | None) -> None:
    """Look at the node at `endpoint`, and print what it says.

    Raises:
        ConfigError: an argument can't work.
        FeederError: see `Visitor`.
    """
    if not 0 < timeout <= 3600:
        raise ConfigError(f"--timeout {timeout:g}: a number of seconds above 0 is needed, at most 3600")
    with Visitor(endpoint, load_keys(keys, server_key), timeout) as visitor:
        _show(visitor.look(), as_json)
        try:
            while watch:
                time.sleep(EVERY_SECONDS)
                _show(visitor.look(), as_json, again=True)
        except KeyboardInterrupt:  # that is how it ends
            return


def load_keys(own: Path | None, server: Path | None) -> Keys | None:
    """Read both key files, or none. Raises ConfigError."""
    if (own is None) != (server is None):
        raise ConfigError("--keys and --server-key belong together: a client's .key_secret file, and the server's .key file")
    return Keys(load_pair(own), load_public(server)) if own is not None and server is not None else None


def _show(report: Report, as_json: bool, again: bool = False) -> None:
    terminal = sys.stdout.isatty()
    if as_json:
        click.echo(json.dumps(asdict(report)))
        return
    if again and terminal:
        click.clear()
    elif again:
        click.echo()
    width = min(120, shutil.get_terminal_size((WIDTH, 24)).columns) if terminal else WIDTH
    click.echo("\n".join(lines(report, width)))
