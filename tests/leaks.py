"""Finds what a test left behind: threads, processes, files of feeder's that are open or mapped, and feeder's folders.

How a test is watched (conftest.py is the shell around this file):

    folders = PrivateFolders.make(...)      once per test process: where feeder may put files, and a mark for its children
    before = snapshot(folders)              before each test
    left = wait_for_clean(before, ...)      after it, with some seconds of grace; empty is clean
    kill(left.processes)                    so that one leak doesn't spoil the tests that follow

Test processes of one run (pytest -n) have folders and marks of their own, so none sees what another's tests do.
"""

from __future__ import annotations

import gc
import os
import shutil
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from feeder_wire import directories

try:
    import psutil
except ImportError:  # then processes and open files go unwatched, and threads and folders are still checked
    psutil = None  # type: ignore[assignment]

PREFIX = "feeder-"  # what the names of feeder's folders and files begin with
MARK = "FEEDER_TEST_MARK"  # environment variable that children and their children inherit
POLL_SECONDS = 0.02


@dataclass(frozen=True)
class PrivateFolders:
    """Where the tests of this process put temporary files and shared memory, and the mark of the processes they start."""

    temporary: Path
    shared: Path | None
    mark: str

    @classmethod
    def make(cls, temporary: Path) -> PrivateFolders:
        """Makes them, with `temporary` for temporary files, and points this process and its children to them."""
        shared = None
        if sys.platform == "linux" and os.access("/dev/shm", os.W_OK):
            # The real thing where there is one: memory, not disk. The name is none of those that feeder sweeps.
            sweep(Path("/dev/shm"))
            shared = Path(tempfile.mkdtemp(prefix=f"pytest-{os.getpid()}-", suffix="-for-feeder", dir="/dev/shm"))
            os.environ["FEEDER_SHM_DIR"] = str(shared)
        for name in ("TMPDIR", "TEMP", "TMP"):
            os.environ[name] = str(temporary)
        tempfile.tempdir = None  # the cached answer
        os.environ[MARK] = mark = uuid.uuid4().hex
        return cls(temporary, shared, mark)

    def roots(self) -> list[Path]:
        """Returns the folders, as the system shows them in the paths of open files."""
        return [path.resolve() for path in (self.temporary, self.shared) if path is not None]


@dataclass(frozen=True)
class Snapshot:
    """What there was at one moment. `pids` are all of the machine: an orphan is no child of this process any more."""

    threads: frozenset[threading.Thread]
    pids: frozenset[int]
    files: frozenset[str]
    folders: frozenset[Path]


@dataclass(frozen=True)
class Leaks:
    """What there is more than at a snapshot."""

    threads: list[threading.Thread]
    processes: list[psutil.Process]
    files: list[str]
    folders: list[Path]

    def __bool__(self) -> bool:
        return bool(self.threads or self.processes or self.files or self.folders)

    def __str__(self) -> str:
        lines = [f"thread {thread.name!r}" + (" (daemon)" if thread.daemon else "") for thread in self.threads]
        lines += [f"process {describe(process)}" for process in self.processes]
        lines += [f"open or mapped file {name}" for name in self.files]
        lines += [f"folder {folder} with {sorted(os.listdir(folder))[:5] if folder.is_dir() else 'nothing'}" for folder in self.folders]
        return "left behind: " + "; ".join(lines)


def sweep(parent: Path) -> None:
    """Removes the folders that test processes made in `parent` and, being killed, left there."""
    for path in parent.glob("pytest-*-for-feeder"):
        pid = path.name.split("-")[1]
        if psutil and pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(path, ignore_errors=True)


def snapshot(folders: PrivateFolders) -> Snapshot:
    """Returns what there is now."""
    return Snapshot(
        threads=frozenset(threading.enumerate()),
        pids=frozenset(psutil.pids()) if psutil else frozenset(),
        files=frozenset(feeder_files(folders)),
        folders=frozenset(feeder_folders(folders)),
    )


def leaks_since(before: Snapshot, folders: PrivateFolders) -> Leaks:
    """Returns what there is now and was not `before`."""
    threads = [t for t in threading.enumerate() if t not in before.threads and (not t.daemon or t.name.startswith("feeder"))]
    return Leaks(
        threads=threads,
        processes=new_processes(before.pids, folders.mark),
        files=sorted(feeder_files(folders) - before.files),
        folders=sorted(feeder_folders(folders) - before.folders),
    )


def wait_for_clean(before: Snapshot, folders: PrivateFolders, seconds: float) -> Leaks:
    """Returns what is left after at most that long; threads and processes that are just ending get that time."""
    deadline = time.monotonic() + seconds
    leaks = leaks_since(before, folders)
    if leaks:
        gc.collect()  # a view of a block in a reference cycle is no leak
        if sys.platform == "win32":  # what was still mapped when its node ended goes with the next start of one
            directories.sweep(folders.roots())
            leaks = leaks_since(before, folders)
    while leaks and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
        leaks = leaks_since(before, folders)
    return leaks


def feeder_folders(folders: PrivateFolders) -> set[Path]:
    """Returns feeder's folders that exist."""
    return {path for root in folders.roots() for path in root.glob(PREFIX + "*")}


def feeder_files(folders: PrivateFolders) -> set[str]:
    """Returns the files of feeder's that this process has open or mapped, also those whose name is gone already."""
    roots = [str(root) + os.sep for root in folders.roots()]

    def is_feeders(name: str) -> bool:
        # Only below the private folders: the repository itself may lie in a folder called feeder-something.
        return any(name.startswith(root) and (os.sep + PREFIX) in name[len(root) - 1 :] for root in roots)

    return {name for name in open_or_mapped() if is_feeders(name)}


def open_or_mapped() -> Iterable[str]:
    """Yields the paths of the files that this process has open or mapped, as far as the system tells."""
    if sys.platform == "linux":  # psutil leaves out the deleted ones
        for link in os.scandir("/proc/self/fd"):
            try:
                yield os.readlink(link.path)
            except OSError:  # closed meanwhile, as the one that reads this folder
                continue
        with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
            for line in maps:
                name = line.rstrip("\n").split(maxsplit=5)[5:]
                if name and name[0].startswith("/"):
                    yield name[0]
    elif psutil is not None:
        process = psutil.Process()
        if hasattr(process, "memory_maps"):  # Windows; its open_files() may hang
            yield from (mapped.path for mapped in process.memory_maps())
        else:
            yield from (file.path for file in process.open_files())


def new_processes(before: frozenset[int], mark: str) -> list[psutil.Process]:
    """Returns the processes that this one started since, with the children of children, and orphans by the mark they carry."""
    if psutil is None:
        return []
    found = {process.pid: process for process in psutil.Process().children(recursive=True) if process.pid not in before}
    for pid in set(psutil.pids()) - before - set(found):
        try:
            process = psutil.Process(pid)
            if process.environ().get(MARK) == mark:
                found[pid] = process
        except (psutil.Error, OSError):  # gone, or somebody else's
            continue
    return [found[pid] for pid in sorted(found)]


def describe(process: psutil.Process) -> str:
    """Returns the process id, state and command line of a process, as far as it can still be asked."""
    try:
        return f"{process.pid} ({process.status()}): {' '.join(process.cmdline()) or process.name()}"
    except psutil.Error as error:
        return f"{process.pid} ({type(error).__name__})"


def kill(processes: list[psutil.Process]) -> None:
    """Kills what is left, and waits until it is gone."""
    for process in processes:
        try:
            process.kill()
        except psutil.Error:
            continue
    if processes:
        psutil.wait_procs(processes, timeout=5)
