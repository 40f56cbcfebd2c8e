"""`feeder_server.empty` in real workers: what the trainer maps is what the user's code wrote, where it wrote it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from feeder_client import FeederClient
from tests.serving import serve
from tests.sources import pattern
from tests.system.inplace_sources import SHAPE, lies_in

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="where something is mapped is read from /proc; the rest is in tests/server")
SOURCES = Path(__file__).with_name("inplace_sources.py")


def expected(i: int) -> object:
    return pattern(i, SHAPE[0] * SHAPE[1]).reshape(SHAPE)


@pytest.mark.parametrize("transport", ["auto", "tcp"])
def test_nothing_is_copied(tmp_path: Path, transport: str) -> None:
    """Two passes, so that blocks are used again; batches that are kept stay as they are."""
    with serve(tmp_path, f"{SOURCES}:InPlace", workers=2) as node, FeederClient(node.endpoint, transport=transport) as client:
        kept = [batch for _ in range(2) for batch in client]
        for i, batch in enumerate(kept):
            np.testing.assert_array_equal(batch["x"], expected(i % 30))
            assert "feeder-" in batch["file"]
            if transport == "auto":
                assert lies_in(batch["x"]).removesuffix(" (deleted)") == batch["file"], "it was copied on the way"


def test_what_is_kept_and_spoilt_was_copied(tmp_path: Path) -> None:
    with serve(tmp_path, f"{SOURCES}:InPlace", "-a", "keeps=true", workers=2) as node, FeederClient(node.endpoint) as client:
        for i, batch in enumerate([batch for _ in range(2) for batch in client]):
            np.testing.assert_array_equal(batch["x"], expected(i % 30))
            assert lies_in(batch["x"]) != batch["file"]


def test_a_generator_that_spoils_what_it_gave(tmp_path: Path) -> None:
    with serve(tmp_path, f"{SOURCES}:stream") as node, FeederClient(node.endpoint) as client:
        for i, batch in enumerate([batch for _ in range(2) for batch in client]):
            np.testing.assert_array_equal(batch["x"], expected(i % 30))
