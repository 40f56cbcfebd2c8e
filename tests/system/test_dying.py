"""Workers that die at the worst moment, and batches for which there is no memory."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from feeder_client import FeederClient, SourceError
from tests.serving import arenas, serve, until
from tests.sources import pattern
from tests.system.dying_sources import EXIT_CODE, NBYTES

FIRST = "1"  # generation of the workers that a server starts with
SOURCES = Path(__file__).with_name("dying_sources.py")


def generations(others: set[Path]) -> set[tuple[str, str]]:
    """(slot, generation) of all workers of which there are blocks, but for those of other nodes."""
    names = [path.name.split("-") for folder in arenas() - others for path in folder.glob("[0-9]-*-*-*")]
    return {(slot, generation) for _, slot, generation, _ in names}


@pytest.mark.parametrize("transport", ["auto", "tcp"])
@pytest.mark.parametrize("when", ["writing", "reporting"])
def test_over_a_batch_that_is_made(tmp_path: Path, when: str, transport: str) -> None:
    """Half of it stands in its block, or all of it and nobody has been told: it is made again, and the block is gone."""
    others = arenas()
    arguments = (f"{SOURCES}:Dies", "-a", f"folder={tmp_path}", "-a", f"when={when}")
    with serve(tmp_path, *arguments, workers=2) as node:
        with FeederClient(node.endpoint, transport=transport) as client:
            for _ in range(2):
                count = 0
                for i, batch in enumerate(client):
                    for part in batch:
                        np.testing.assert_array_equal(part, pattern(i, NBYTES))
                    count += 1
                assert count == 30
            node.says(f"ended: exit code {EXIT_CODE}")
            assert (tmp_path / "been").exists()
            assert node.stderr.count(" ended: ") == 1
            ended = re.search(r"worker (\d) ended", node.stderr)
            assert ended is not None
            assert generations(others), "there are blocks"
            # Windows removes none that is mapped, and the client drops its mapping when it hears of that.
            until(lambda: (ended[1], FIRST) not in generations(others), lambda: f"blocks of a dead worker go: {generations(others)}")


def test_no_memory_for_a_batch(tmp_path: Path) -> None:
    """An error of the user's code as any other; the worker lives, and all other batches can be had."""
    with serve(tmp_path, f"{SOURCES}:TooMuch") as node, FeederClient(node.endpoint, lookahead=False) as client:
        assert [client[i] for i in range(4)] == list(range(4))
        with pytest.raises(SourceError, match="batch 4 of epoch 0") as caught:
            client[4]
        assert isinstance(caught.value, MemoryError)
        assert [client[i] for i in range(5, 10)] == list(range(5, 10))
        assert " ended: " not in node.stderr
