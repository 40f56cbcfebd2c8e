"""Positions in files: what is written is there as a whole or not at all, and what is none is refused with words that help."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from feeder_client import saved
from feeder_wire.errors import ConfigError


def entry(epoch: int, given: int, iterations: int | None = None, kind: str = "indexed") -> dict[str, Any]:
    place = {"epoch": epoch, "given": [0, given, []], "shuffled": False, "next": 0, "expect_shuffle": False}
    step = iterations
    return {"state": {"kind": kind, "num_batches": 10, "seed": 0, "place": place}, "step": step, "steps": 10, "iterations": iterations}


def test_there_and_back(tmp_path: Path) -> None:
    path = tmp_path / "below" / "position.json"
    assert saved.read(path) == []
    for entries in ([entry(0, 3)], [entry(0, 4), entry(0, 3)]):
        saved.write(path, entries)
        assert saved.read(path) == entries
        assert saved.state_from(path) == saved.state_from(str(path)) == entries[0]["state"]
        assert os.listdir(path.parent) == [path.name], "nothing else is left"


@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    path = tmp_path / "position.json"
    saved.write(path, [entry(0, 3)])

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saved.os, where, full)
    with pytest.raises(OSError, match="No space"):
        saved.write(path, [entry(0, 4)])
    assert saved.read(path) == [entry(0, 3)]
    assert os.listdir(tmp_path) == [path.name]


def test_what_somebody_reads_is_replaced_a_moment_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On Windows."""
    path, replace, tries = tmp_path / "position.json", os.replace, []

    def held(*args: Any) -> None:
        tries.append(args)
        if len(tries) < 3:
            raise PermissionError("in use")
        replace(*args)

    monkeypatch.setattr(saved.os, "replace", held)
    monkeypatch.setattr(saved, "PAUSE_SECONDS", 0)
    saved.write(path, [entry(0, 3)])
    assert saved.read(path) == [entry(0, 3)]


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", '{"feeder_checkpoint": 2, "entries": []}', '{"feeder_checkpoint": 1, "entries": [3]}']
)
def test_what_is_none(tmp_path: Path, content: str) -> None:
    path = tmp_path / "position.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match="remove it to begin anew"):
        saved.read(path)


def test_a_truncated_one_a_folder_and_bytes(tmp_path: Path) -> None:
    path = tmp_path / "position.json"
    saved.write(path, [entry(0, 3)])
    whole = path.read_bytes()
    for content in (whole[:-9], b"\xff\xfe\x00"):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=r"position\.json.*remove it"):
            saved.read(path)
    with pytest.raises(ConfigError, match="can't be read as a saved position"):
        saved.read(tmp_path)
    with pytest.raises(ConfigError, match="resume=int"):
        saved.state_from(3)


def test_what_is_kept() -> None:
    entries = [entry(e, given, 10 * e + given) for e in range(12) for given in (3, 6, 10)][::-1]
    kept = saved.thinned(entries)
    assert [one["iterations"] for one in kept] == [120, 116, 110, 100, 90, 80, 70, 60, 50]
    assert saved.thinned(kept) == kept


def test_the_position_of_some_weights() -> None:
    entries = [entry(2, 5, 25), entry(2, 3, 23), entry(1, 10, 20)]
    assert saved.fitting(entries, 23) is entries[1]
    for iterations, epoch, given in ((24, 2, 4), (21, 2, 1), (18, 1, 8), (27, 2, 7), (31, 3, 1)):
        found = saved.fitting(entries, iterations)
        assert found is not None
        assert (found["state"]["place"]["epoch"], found["state"]["place"]["given"]) == (epoch, [0, given, []])
        assert found["step"] == found["iterations"] == iterations
    assert saved.fitting(entries, 9) is None
    assert saved.fitting([entry(0, 3, 3, "stream")], 4) is None
    assert saved.fitting([entry(0, 3)], 4) is None
    json.dumps(saved.fitting(entries, 31))
