"""One worker, or one server, that stops dead in the middle of a pass while the others could go on."""

from __future__ import annotations

from pathlib import Path

import pytest

from feeder_client import BatchTimeout, FeederClient
from feeder_server.status import Visitor
from tests.serving import serve, until
from tests.system.slow_sources import made

SOURCE = f"{Path(__file__).with_name('slow_sources.py')}:OneHolds"
WHOLE = list(range(40))


def numbers(batches: object) -> list[int]:
    return [i for i, _ in batches]  # type: ignore[attr-defined]


def waits_for_the_slow_one(client: FeederClient, folder: Path) -> None:
    """Batch 16 doesn't come before who holds it lets go, and nobody else makes it."""
    assert numbers(client[i] for i in range(16)) == WHOLE[:16]
    with pytest.raises(BatchTimeout, match="batch 16 of epoch 0"):
        client[16]
    (folder / "go").touch()
    until(lambda: made(folder)[16], "the slow one is done")
    assert numbers(client[i] for i in range(16, 40)) == WHOLE[16:]
    assert made(folder)[16] == 1


def test_one_worker_stops_and_another_one_makes_its_batch(tmp_path: Path) -> None:
    """Nobody waits for it, and what it says later is not taken for another batch."""
    with serve(tmp_path, SOURCE, "-a", f"folder={tmp_path}", workers=2) as node:
        with FeederClient(node.endpoint, lookahead=False) as client:
            assert numbers(client) == WHOLE
            node.says("batch 16 of epoch 0 of source 'default' is overdue: worker ")
            assert not (tmp_path / "go").exists()
            with Visitor(node.endpoint) as visitor:
                assert visitor.look().hedged >= 1
            (tmp_path / "go").touch()
            until(lambda: made(tmp_path)[16] == 2, "the slow one is done too")
            assert numbers(client) == WHOLE
            assert numbers(client) == WHOLE


def test_it_can_be_turned_off(tmp_path: Path) -> None:
    with serve(tmp_path, SOURCE, "-a", f"folder={tmp_path}", "--no-hedge", workers=2) as node:
        with FeederClient(node.endpoint, lookahead=False, batch_timeout=1.0) as client:
            waits_for_the_slow_one(client, tmp_path)
        assert "is overdue" not in node.stderr


@pytest.mark.parametrize("transport", ["auto", "tcp"])
def test_one_server_stops_and_another_one_is_asked(tmp_path: Path, transport: str) -> None:
    arguments = (SOURCE, "-a", f"folder={tmp_path}")
    with serve(tmp_path, *arguments) as one, serve(tmp_path, *arguments) as two:
        with FeederClient([one.endpoint, two.endpoint], lookahead=False, transport=transport) as client:
            assert numbers(client) == WHOLE
            assert client.stats().hedged >= 1
            (tmp_path / "go").touch()
            until(lambda: made(tmp_path)[16] == 2, "the slow one is done too")
            assert numbers(client) == WHOLE


def test_one_server_stops_and_no_other_one_is_to_be_asked(tmp_path: Path) -> None:
    arguments = (SOURCE, "-a", f"folder={tmp_path}")
    with serve(tmp_path, *arguments) as one, serve(tmp_path, *arguments) as two:
        with FeederClient([one.endpoint, two.endpoint], lookahead=False, hedge=False, batch_timeout=1.0) as client:
            waits_for_the_slow_one(client, tmp_path)
            assert client.stats().hedged == 0
