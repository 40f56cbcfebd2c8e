"""Somebody removes the files of the arena while they are in use: a cleaner of /tmp, or systemd's RemoveIPC at a log-out."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from feeder_client import FeederClient
from tests.serving import SOURCES, arenas, kill, removes_mapped_files, serve, until
from tests.sources import pattern
from tests.transport.conftest import options_for


def remove(folder: Path) -> None:
    """Removes a folder into which workers may be putting new blocks at this moment."""

    def gone() -> bool:
        shutil.rmtree(folder, ignore_errors=True)
        return not folder.exists()

    until(gone, f"{folder} goes")


@removes_mapped_files
@pytest.mark.parametrize("whole_folders", [False, True], ids=["blocks", "folders"])
def test_passes_go_on(tmp_path: Path, transport: str, whole_folders: bool) -> None:
    """For who is connected and for who comes later, also with a worker that is started later; what is held stays as it is."""
    before = arenas()
    with serve(tmp_path, f"{SOURCES}:Blocks", "-a", "n=60", workers=2) as node:
        with FeederClient(node.endpoint, prefetch=6, **options_for(transport)) as client:
            held = []
            for i, batch in enumerate(client):
                np.testing.assert_array_equal(batch, pattern(i, 64 << 10))
                held.append(batch)
                if i == 20:
                    for folder in arenas() - before:
                        for block in folder.glob("[01]-*"):
                            block.unlink()
                        if whole_folders and "shm" in folder.parts:
                            remove(folder)
            node.says(kill(node.workers[0]))
            until(lambda: len(node.workers) == 2, "a new worker")
            with FeederClient(node.endpoint, **options_for(transport)) as late:
                assert len(list(late)) == 60
            for i, batch in enumerate(held):
                np.testing.assert_array_equal(batch, pattern(i, 64 << 10))
            assert len(list(client)) == 60
    assert "Traceback" not in node.output
