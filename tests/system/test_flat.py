"""Nothing grows: memory, descriptors, mappings and threads of client, node and workers, over ten thousand batches of all sizes."""

from __future__ import annotations

import gc
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from feeder_client import FeederClient
from tests.serving import Serving, arena_bytes, arenas, serve
from tests.system import varying
from tests.system.varying import is_varying

psutil = pytest.importorskip("psutil")
BATCHES = 1250
GROWTH_BYTES = 24 << 20
MEMORY = 48 << 20


@dataclass(frozen=True)
class Held:
    """What a process has."""

    rss: int
    descriptors: int
    mappings: int
    threads: int


def held_by(process: Any) -> Held:
    """Descriptors, or handles on Windows. Memory without files: blocks are counted by their folder."""
    count = process.num_handles() if hasattr(process, "num_handles") else process.num_fds()
    memory = process.memory_info()
    lines = 0
    if sys.platform == "linux":
        lines = Path(f"/proc/{process.pid}/maps").read_text(errors="replace").count("\n")
    return Held(memory.rss - getattr(memory, "shared", 0), count, lines, process.num_threads())


def read(node: Serving, transport: str, passes: int) -> None:
    """Some passes of a client of its own, as in a script that is started again and again."""
    with FeederClient(node.endpoint, transport=transport) as client:
        for _ in range(passes):
            got = 0
            for i, batch in enumerate(client):
                assert is_varying(i, batch)
                got += 1
            assert got == BATCHES


def test_over_ten_thousand_batches(tmp_path: Path) -> None:
    arguments = (f"{varying.__file__}:Varying", "-a", f"n={BATCHES}", "--memory", str(MEMORY))
    others = arenas()
    with serve(tmp_path, *arguments, workers=2) as node:
        processes = {"client": psutil.Process(os.getpid()), "node": psutil.Process(node.pid)}
        processes |= {f"worker {slot}": psutil.Process(pid) for slot, pid in enumerate(node.workers)}
        read(node, "auto", 2)  # what is allocated once
        read(node, "tcp", 1)
        gc.collect()
        before = {name: held_by(process) for name, process in processes.items()}
        for _ in range(2):
            read(node, "auto", 2)
            read(node, "tcp", 1)
        gc.collect()
        after = {name: held_by(process) for name, process in processes.items()}
        assert arena_bytes(others) <= MEMORY + (8 << 20)
        for name, now in after.items():
            then = before[name]
            assert now.rss < then.rss + GROWTH_BYTES, f"{name}: {then} {now}"
            assert now.descriptors <= then.descriptors + 3, f"{name}: {then} {now}"
            assert now.mappings <= then.mappings + 100, f"{name}: {then} {now}"
            assert now.threads <= then.threads, f"{name}: {then} {now}"
