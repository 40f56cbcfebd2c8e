"""leaks.py finds each kind of leak, and nothing where nothing was left."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import leaks

SLEEP = [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()"]


@pytest.fixture
def before(private_folders: leaks.PrivateFolders) -> leaks.Snapshot:
    """What there was before the leak."""
    return leaks.snapshot(private_folders)


@pytest.fixture
def stop() -> Iterator[threading.Event]:
    """Ends a test's thread with the test."""
    event = threading.Event()
    yield event
    event.set()


def test_clean_is_clean_at_once(before: leaks.Snapshot, private_folders: leaks.PrivateFolders) -> None:
    assert not leaks.wait_for_clean(before, private_folders, seconds=0.0)


def test_folders_are_private(private_folders: leaks.PrivateFolders) -> None:
    assert Path(tempfile.gettempdir()).resolve() in private_folders.roots()
    if "FEEDER_SHM_DIR" in os.environ:
        assert Path(os.environ["FEEDER_SHM_DIR"]).parent == Path("/dev/shm")


def test_folders_of_killed_test_processes_are_swept(tmp_path: Path) -> None:
    pytest.importorskip("psutil")
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        pass
    dead, alive, foreign = (
        tmp_path / name for name in (f"pytest-{gone.pid}-x-for-feeder", f"pytest-{os.getpid()}-x-for-feeder", "pytest-1")
    )
    for folder in (dead, alive, foreign):
        folder.mkdir()
    leaks.sweep(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([alive, foreign])


@pytest.mark.parametrize(
    ("name", "daemon", "counts"), [("anything", False, True), ("feeder-receiver", True, True), ("someone else's", True, False)]
)
def test_thread(
    name: str, daemon: bool, counts: bool, before: leaks.Snapshot, private_folders: leaks.PrivateFolders, stop: threading.Event
) -> None:
    thread = threading.Thread(target=stop.wait, name=name, daemon=daemon)
    thread.start()
    left = leaks.leaks_since(before, private_folders)
    assert left.threads == ([thread] if counts else [])
    assert bool(left) is counts
    stop.set()
    assert not leaks.wait_for_clean(before, private_folders, seconds=5.0)


def test_folder(before: leaks.Snapshot, private_folders: leaks.PrivateFolders) -> None:
    folder = tempfile.mkdtemp(prefix="feeder-")
    left = leaks.leaks_since(before, private_folders)
    assert left.folders == [Path(folder).resolve()]
    assert "folder" in str(left)
    os.rmdir(folder)


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS doesn't tell what is mapped")
def test_mapped_file_also_when_its_name_is_gone(before: leaks.Snapshot, private_folders: leaks.PrivateFolders) -> None:
    pytest.importorskip("psutil")
    folder = Path(tempfile.mkdtemp(prefix="feeder-"))
    block = folder / "block"
    block.write_bytes(bytes(mmap.PAGESIZE))
    with block.open("r+b") as file:
        view = mmap.mmap(file.fileno(), 0)
    if sys.platform != "win32":  # there a mapped file can't be removed
        block.unlink()
        folder.rmdir()
    left = leaks.leaks_since(before, private_folders)
    view.close()
    if sys.platform == "win32":
        block.unlink()
        folder.rmdir()
    assert len(left.files) == 1
    assert "block" in str(left)


def test_process_is_named_and_killed(before: leaks.Snapshot, private_folders: leaks.PrivateFolders) -> None:
    psutil = pytest.importorskip("psutil")
    with subprocess.Popen(SLEEP, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        left = leaks.leaks_since(before, private_folders)
        assert [process.pid for process in left.processes] == [child.pid]
        assert "sys.stdin.read()" in str(left)
        leaks.kill(left.processes)
    assert not psutil.pid_exists(child.pid)


def test_orphan_is_found_by_its_mark(before: leaks.Snapshot, private_folders: leaks.PrivateFolders) -> None:
    """A child whose parent has died belongs to nobody any more, as a worker whose node was killed."""
    psutil = pytest.importorskip("psutil")
    code = f"import subprocess, sys; p = subprocess.Popen({SLEEP!r}, stdin=0, stdout=subprocess.PIPE); p.stdout.readline(); print(p.pid)"
    # The orphan sleeps on this process's pipe, not on its parent's, so it outlives it.
    read_end, write_end = os.pipe()
    try:
        pid = int(subprocess.check_output([sys.executable, "-W", "ignore", "-c", code], stdin=read_end, timeout=60))
        assert psutil.pid_exists(pid)
        left = leaks.leaks_since(before, private_folders)
        assert pid in [process.pid for process in left.processes]
        leaks.kill(left.processes)
    finally:
        os.close(read_end)
        os.close(write_end)
    assert not leaks.wait_for_clean(before, private_folders, seconds=5.0)


def test_a_leaking_test_fails(tmp_path: Path) -> None:
    """The fixture itself, in a run of its own: one leaking test fails, the next one is clean again, nothing is left."""
    root = Path(__file__).parents[1]
    code = (
        "import subprocess, sys, tempfile\n"
        "left = []\n"  # else its stdin would end with the object, and it with that
        "def test_leaks():\n"
        f"    left.append(subprocess.Popen({SLEEP!r}, stdin=subprocess.PIPE, stdout=subprocess.PIPE))\n"
        "    left[0].stdout.readline()\n"
        "def test_clean(): pass\n"
    )
    (tmp_path / "test_it.py").write_text(code, encoding="utf-8")
    conftest = "import tests.conftest as c\nfrom tests.conftest import *\nc.GRACE_SECONDS = 0.2\n"
    (tmp_path / "conftest.py").write_text(conftest, encoding="utf-8")
    pytest.importorskip("psutil")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-W", "ignore", f"--rootdir={tmp_path}", str(tmp_path)]
    env = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "2 passed, 1 error" in done.stdout
    assert "left behind: process" in done.stdout
