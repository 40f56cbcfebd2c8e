"""The node's folders: blocks that can't be removed yet are not forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from feeder_server.folders import Folders
from feeder_wire import directories
from feeder_wire import worker_messages as w
from tests.serving import still_mapped


@pytest.fixture
def folders() -> Iterator[Folders]:
    made = Folders(0)
    yield made
    made.close()


def test_a_block_that_is_still_mapped_goes_later(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows, where nothing is removed that a client has mapped."""
    place = Path(folders.paths[0])
    for name in ("0-1-1-1", "0-1-1-2", "0-1-2-1"):
        (place / name).touch()
    with still_mapped(monkeypatch, "0-1-1-1"):
        folders.remove(folders.blocks_of(1, 1, keep=()))
        assert folders.blocks_of(1, 1, keep=()) == ("0-1-1-1",)
        folders.tidy()
        assert folders.blocks_of(1, 1, keep=()) == ("0-1-1-1",)
    folders.tidy()
    assert folders.blocks_of(1, 1, keep=()) == ()
    assert {path.name for path in place.iterdir()} == {"alive", "nonce", "0-1-2-1"}


def test_a_block_that_is_gone_already_is_no_matter(folders: Folders) -> None:
    folders.remove(["0-1-1-1"])
    folders.remove(iter(["0-1-1-1"]))
    assert {path.name for path in Path(folders.paths[0]).iterdir()} == {"alive", "nonce"}


class TestSharedMemoryThatCanNotBeUsed:
    """It works without, and says so once: it may be slower, and Docker's 64 MB are easily mended."""

    def test_too_small(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        monkeypatch.setenv("FEEDER_SHM_DIR", str(tmp_path))
        monkeypatch.setattr(directories, "free_bytes", lambda folder: 64_000_000)
        monkeypatch.setattr("feeder_server.folders.free_bytes", lambda folder: 64_000_000)
        made = Folders(1 << 30)
        made.close()
        assert len(made.paths) == 1 and not made.paths[0].startswith(str(tmp_path))
        (said,) = [r.getMessage() for r in caplog.records]
        assert said.startswith(f"shared memory is not used, for {tmp_path} has 64 MB free, and --memory is 1074 MB; batches go through ")

    def test_read_only(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        monkeypatch.setenv("FEEDER_SHM_DIR", str(tmp_path / "gone"))
        Folders(0).close()
        assert f"nothing can be written in {tmp_path / 'gone'}" in caplog.text

    def test_there_is_none(self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
        monkeypatch.setenv("FEEDER_SHM_DIR", "")
        Folders(0).close()
        assert not caplog.records

    def test_it_fills_up(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        monkeypatch.setenv("FEEDER_SHM_DIR", str(tmp_path))
        made = Folders(0)
        made.notice(w.Made(1, b"head", b"", 0.0))
        made.notice(w.MadeBlock(2, b"head", "0-0-1-1", 4096, 10, 0.0))
        assert not caplog.records
        for number in range(3):
            made.notice(w.MadeBlock(3 + number, b"head", f"1-0-1-{number}", 4096, 10, 0.0))
        made.close()
        (said,) = [r.getMessage() for r in caplog.records]
        assert said.startswith(f"no room in {made.paths[0]} (")
        assert f"batches go through {made.paths[1]}" in said
