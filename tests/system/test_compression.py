"""Packed batches over real sockets: the same bytes, fewer of them on a slow line, and none on one host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from feeder_client import FeederClient
from feeder_wire.arena import ArenaReader
from tests.proxy import Proxy
from tests.serving import serve, until

for library in ("zstandard", "lz4"):
    pytest.importorskip(library)

SOURCE = """
    import numpy as np

    class Ramps:
        def __len__(self):
            return 20
        def __getitem__(self, i):
            if i == 3:
                return np.random.default_rng(i).bytes(400_000), i
            if i == 4:
                return np.full(40_000, i, np.uint8), i
            return {"x": np.repeat(np.arange(i, i + 25_000, dtype="i4"), 10).reshape(5, -1), "name": "n" * i}, np.array([i])
"""


@pytest.fixture
def source(tmp_path: Path) -> str:
    (tmp_path / "ramps.py").write_text(SOURCE.replace("\n    ", "\n"), encoding="utf-8")
    return f"{tmp_path / 'ramps.py'}:Ramps"


def same(got: list[Any], expected: list[Any]) -> None:
    assert len(got) == len(expected)
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_equal(one, other)


def test_a_slow_line(tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients of one server: one on its machine, which maps, one by a line that is slow, and one there that only seems to be slow."""
    with serve(tmp_path, source, workers=2) as node, Proxy(node.endpoint) as proxy:
        with FeederClient(node.endpoint) as client:
            expected = list(client)
        assert "batches are packed" not in node.stderr
        proxy.throttle(6_000_000)
        with FeederClient(proxy.endpoint, transport="tcp") as client:
            for _ in range(3):
                same(list(client), expected)
        assert "batches are packed" not in node.stderr
        monkeypatch.setattr(ArenaReader, "same_host", lambda self, nonce: False)  # as it is for a client on another machine
        with FeederClient(proxy.endpoint, transport="tcp") as client:
            raw = sum(getattr(batch[0], "nbytes", 1_000_000) for batch in expected)

            def fewer_bytes() -> bool:
                before = proxy.counters.down_bytes
                same(list(client), expected)
                return proxy.counters.down_bytes - before < 0.8 * raw

            until(fewer_bytes, lambda: f"a pass takes fewer bytes: {node.output}", 100)
        assert "batches are packed with " in node.stderr
        monkeypatch.undo()
        with FeederClient(node.endpoint) as client:
            same(list(client), expected)


@pytest.mark.parametrize("method", ["zstd", "lz4", "off"])
def test_always_or_never(tmp_path: Path, source: str, method: str) -> None:
    with serve(tmp_path, source, "--compression", method) as node:
        with FeederClient(node.endpoint) as client:
            expected = list(client)
            assert "batches are packed" not in node.stderr
        with FeederClient(node.endpoint, transport="tcp") as client:
            same([batch for _ in range(2) for batch in client], expected * 2)
            assert client[0][0]["x"].flags.writeable
        assert (f"batches are packed with {method}" in node.stderr) == (method != "off")
