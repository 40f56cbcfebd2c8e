"""Positions in files: written so that a kill at any moment leaves the old file or the new one.

A file holds a few *entries*, newest first: the position (`state`), Keras' count of steps since the beginning of `fit` (`step`), what
Keras takes for an epoch (`steps`), and the optimizer's count of steps (`iterations`), by which the position is found that belongs to
some weights.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from feeder_client.nearby import moved
from feeder_client.place import Place
from feeder_wire.errors import ConfigError

RECENT, EPOCHS = 2, 8
"""Entries that are kept: the newest, and the last of each of so many epochs, whose weights are what most people save."""
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


def thinned(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The entries that are worth keeping, of those that there are, newest first."""
    kept, epochs = entries[:RECENT], {entry["state"]["place"]["epoch"] for entry in entries[:RECENT]}
    for entry in entries[RECENT:]:
        epoch = entry["state"]["place"]["epoch"]
        if epoch not in epochs and len(epochs) < EPOCHS:
            kept.append(entry)
            epochs.add(epoch)
    return kept


def fitting(entries: list[dict[str, Any]], iterations: int) -> dict[str, Any] | None:
    """The entry that belongs to weights after so many `iterations`: one that was saved, or one that follows from a near one.

    None: there is none, or it can't be told, as the batches of a stream can't.
    """
    known = [entry for entry in entries if entry.get("iterations") is not None]
    for entry in sorted(known, key=lambda entry: abs(iterations - int(entry["iterations"]))):
        count = iterations - int(entry["iterations"])
        if not count:
            return entry
        state = moved_state(entry["state"], count)
        if state is not None:
            step = None if entry.get("step") is None else entry["step"] + count
            return {**entry, "state": state, "step": step, "iterations": iterations}
    return None


def moved_state(state: dict[str, Any], count: int) -> dict[str, Any] | None:
    """A position `count` batches after another one, or before it; None: it can't be told."""
    if state["kind"] != "indexed" or state["num_batches"] is None:
        return None
    place = moved(Place.from_json(state["place"]), count, state["num_batches"], state["seed"])
    return None if place is None else {**state, "place": place.to_json()}


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
