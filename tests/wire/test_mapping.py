"""A file that is mapped need not stay open, and is shared all the same."""

from __future__ import annotations

import gc
import mmap
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from feeder_wire import mapping
from feeder_wire.mapping import map_file, unmap

SIZE = 4 * mmap.PAGESIZE


@pytest.fixture(params=["as here", "plain"])
def how(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """As this system does it, and as it is done where the C library can't be asked."""
    if request.param == "plain":
        monkeypatch.setattr(mapping, "_system_call", lambda: None)
    return str(request.param)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[[], int]]:
    path = tmp_path / "file"
    path.write_bytes(bytes(SIZE))
    flags = os.O_RDWR | getattr(os, "O_BINARY", 0)
    yield lambda: os.open(path, flags)
    gc.collect()
    path.unlink()  # Windows: fails while it is mapped


def mapped(opened: Callable[[], int]) -> mmap.mmap:
    fd = opened()
    try:
        return map_file(fd, SIZE)
    finally:
        os.close(fd)


@pytest.mark.usefixtures("how")
def test_all_see_what_one_writes(opened: Callable[[], int], tmp_path: Path) -> None:
    one, other = mapped(opened), mapped(opened)
    assert len(one) == len(other) == SIZE
    one[mmap.PAGESIZE : mmap.PAGESIZE + 5] = b"hello"
    assert other[mmap.PAGESIZE : mmap.PAGESIZE + 5] == b"hello"
    assert (tmp_path / "file").read_bytes()[mmap.PAGESIZE :].startswith(b"hello")
    unmap(one)
    assert other[mmap.PAGESIZE : mmap.PAGESIZE + 5] == b"hello"
    unmap(other)


@pytest.mark.usefixtures("how")
def test_views_outlive_it(opened: Callable[[], int]) -> None:
    made = mapped(opened)
    made[:5] = b"hello"
    view: Any = np.frombuffer(made, np.uint8)
    unmap(made)
    del made
    assert view[:5].tobytes() == b"hello"
    view[0] = 0x48
    assert view[:5].tobytes() == b"Hello"


def test_no_descriptor_is_kept(opened: Callable[[], int]) -> None:
    psutil = pytest.importorskip("psutil")
    if not hasattr(psutil.Process(), "num_fds"):
        pytest.skip("this system counts handles, and has plenty")
    before = psutil.Process().num_fds()
    many = [mapped(opened) for _ in range(50)]
    assert psutil.Process().num_fds() == before
    for one in many:
        unmap(one)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what is mapped")
def test_what_was_unmapped_is_gone(opened: Callable[[], int], tmp_path: Path) -> None:
    maps = Path("/proc/self/maps")
    made = mapped(opened)
    assert maps.read_text().count(str(tmp_path / "file")) == 1
    unmap(made)
    assert str(tmp_path / "file") not in maps.read_text()


@pytest.mark.usefixtures("how")
def test_what_can_not_be_mapped(tmp_path: Path) -> None:
    readable = tmp_path / "readable"
    readable.write_bytes(bytes(SIZE))
    fd = os.open(readable, os.O_RDONLY)
    try:
        with pytest.raises((OSError, ValueError)):
            map_file(fd, SIZE)
    finally:
        os.close(fd)
