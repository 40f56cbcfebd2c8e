"""The node's folders: blocks that can't be removed yet are not forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from feeder_server.folders import Folders


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
    real = Path.unlink

    def unlink(file: Path, missing_ok: bool = False) -> None:
        if file.name == "0-1-1-1":
            raise PermissionError(13, "in use")
        real(file, missing_ok)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", unlink)
        folders.remove(folders.blocks_of(1, 1, keep=()))
        assert folders.blocks_of(1, 1, keep=()) == ("0-1-1-1",)
    folders.remove(["0-1-2-1"])
    assert {path.name for path in place.iterdir()} == {"alive", "nonce"}


def test_a_block_that_is_gone_already_is_no_matter(folders: Folders) -> None:
    folders.remove(["0-1-1-1"])
    folders.remove(iter(["0-1-1-1"]))
    assert {path.name for path in Path(folders.paths[0]).iterdir()} == {"alive", "nonce"}
