"""`feeder_server.shared` in real workers: one of them computes, all map the same file, and nothing is left of it."""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from feeder_client import FeederClient
from tests.serving import QUICK_RESTARTS, Serving, arenas_since, serve, until
from tests.serving import arenas as arenas_now
from tests.system.shared_sources import ROW, ROWS

SOURCES = Path(__file__).with_name("shared_sources.py")


def computed(folder: Path) -> list[str]:
    return [line.split()[1] for line in (folder / "computed").read_text().splitlines()]


def read(node: Serving, source: str) -> list[dict[str, Any]]:
    """Passes until every worker has made some of the batches."""
    got: list[dict[str, Any]] = []

    def from_all() -> bool:
        with FeederClient(node.endpoint, source) as client:
            for batch in client:  # copied: what is mapped here keeps the server's folder, on Windows
                got.append({name: part.copy() if isinstance(part, np.ndarray) else part for name, part in batch.items()})
        return len({batch["pid"] for batch in got}) == 3

    until(from_all, "all workers make batches")
    return got


def test_one_computes_and_all_map(tmp_path: Path) -> None:
    """Two sources of three workers, which share what is the same, and end with kill -9."""
    before = arenas_now()
    both = [f"{name}={SOURCES}:Shared" for name in ("train", "too", "val")]
    with serve(tmp_path, *both, "-a", f"folder={tmp_path}", "-a", "val.split=val", workers=3) as node:
        train, too, val = (read(node, name) for name in ("train", "too", "val"))
        for split, got in (("train", train), ("train", too), ("val", val)):
            assert {batch["split"] for batch in got} == {split}
            assert all(batch["refused"] and batch["same"] for batch in got)
            assert len({batch["after"].tobytes() for batch in got}) == 1, "what it draws makes its worker go on otherwise"
            assert len({batch["drawn"].tobytes() for batch in got}) == 1
        assert train[0]["after"].tobytes() == val[0]["after"].tobytes()
        assert sorted(computed(tmp_path)) == ["train", "val"]
        assert len(re.findall(r"made the shared data of shared_sources.load, 4.2 MB in ", node.stderr)) == 2
        if sys.platform == "linux":
            assert len({batch["file"] for batch in (*train, *too)}) == 1
            assert {batch["file"] for batch in val} != {batch["file"] for batch in train}
            assert_pages_are_counted_once(train)
        node.kill()
    until(lambda: not arenas_since(before), lambda: f"left: {arenas_since(before)}")
    one = tmp_path / "one"
    one.mkdir()
    with serve(tmp_path, f"{SOURCES}:Shared", "-a", f"folder={one}") as node, FeederClient(node.endpoint) as client:
        batch = client[0]
        assert batch["after"].tobytes() == train[0]["after"].tobytes() and batch["drawn"].tobytes() == train[0]["drawn"].tobytes()


def assert_pages_are_counted_once(batches: list[dict[str, Any]]) -> None:
    """Each worker has read all of it, and what it is charged for, its share, adds up to one time the data."""
    (name,) = {batch["file"] for batch in batches}
    counts: dict[str, int] = defaultdict(int)
    for pid in {batch["pid"] for batch in batches}:
        inside = False
        for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
            if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
                inside = line.endswith(name)
            elif inside and line.endswith(" kB"):
                what, value = line.split(":")
                counts[what] += int(value.split()[0])
    size = ROWS * ROW // 1024
    assert counts["Rss"] >= 3 * size
    assert size <= counts["Pss"] <= 1.1 * size + 64
    assert counts["Anonymous"] == 0


def test_the_next_one_computes_what_killed_a_worker(tmp_path: Path) -> None:
    with serve(tmp_path, f"{SOURCES}:dying", "-a", f"folder={tmp_path}", workers=2, constants=QUICK_RESTARTS) as node:
        with FeederClient(node.endpoint) as client:
            assert [int(batch[0]) for batch in client] == list(range(10))
        assert computed(tmp_path) == ["dying", "dying"]
        node.says("exit code 9")


def test_what_it_raises_is_told(tmp_path: Path) -> None:
    with Serving(tmp_path, f"{SOURCES}:raising", "-a", f"folder={tmp_path}", "--workers", "2", "--bind", "tcp://127.0.0.1:0") as node:
        assert node.wait() == 3
        assert "there is no such data" in node.stderr
        assert "in compute" in node.stderr
