"""Positions in files: written so that a kill at any moment leaves the old file or the new one."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from feeder_wire.errors import ConfigError

TRIES, PAUSE_SECONDS = 20, 0.05
"""On Windows a file that somebody reads, an antivirus say, can't be replaced; that passes."""
KEY = "feeder_checkpoint"
FORMAT = 1


def write(path: Path, entries: list[dict[str, Any]]) -> None:
    """Write positions, newest first, each with what else is known of it. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        with new.open("w", encoding="utf-8") as file:
            json.dump({KEY: FORMAT, "entries": entries}, file)
            file.flush()
            os.fsync(file.fileno())
        for _ in range(TRIES):
            try:
                os.replace(new, path)
                return
            except PermissionError:
                time.sleep(PAUSE_SECONDS)
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)


def read(path: Path) -> list[dict[str, Any]]:
    """Read what `write` wrote; empty where there is no file.

    Raises:
        ConfigError: it holds something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as e:
        raise ConfigError(f"{path} can't be read as a saved position ({e}): remove it to begin anew") from None
    entries = found.get("entries") if isinstance(found, dict) and found.get(KEY) == FORMAT else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) and "state" in entry for entry in entries):
        raise ConfigError(f"{path} holds no position that FeederCheckpoint saved: remove it to begin anew")
    return entries


def state_from(resume: object) -> dict[str, Any] | None:
    """The state meant by an argument ``resume=``: one that `state_dict` gave, or a file of FeederCheckpoint's; None: there is none.

    Raises:
        ConfigError: it is something else.
    """
    if resume is None or isinstance(resume, dict):
        return resume
    if isinstance(resume, (str, os.PathLike)):
        entries = read(Path(resume))
        state: dict[str, Any] | None = entries[0]["state"] if entries else None
        return state
    raise ConfigError(f"resume={type(resume).__name__}: what state_dict() gave is needed, or the path of FeederCheckpoint's file")
