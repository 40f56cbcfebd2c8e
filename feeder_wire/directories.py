"""Private directories: what a process keeps on this machine for as long as it lives, and the sweep of those that killed ones left behind.

A directory belongs to one living process, which holds a lock on the file ``alive`` in it from before its first other file until
after its last one. `sweep` removes those whose lock can be had: their process was killed. It goes by that file, not by a name
alone: a folder of the user's that happens to be called feeder-something stays.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from feeder_wire.mapping import CREATE_FLAGS, OPEN_FLAGS

log = logging.getLogger("feeder.arena")

PREFIX = "feeder-"
_MADE = re.compile(re.escape(PREFIX) + "[a-z0-9_]{8}")  # what tempfile.mkdtemp makes of it
_ALIVE = "alive"
_YOUNG = 60.0  # seconds in which a directory without a lock file may still be in the making


def parents(need_bytes: int = 0) -> list[Path]:
    """Folders that an arena may be made in, best first: shared memory when `need_bytes` are free there, and the temporary folder.

    ``FEEDER_SHM_DIR`` names another place for shared memory; empty, there is none. Docker gives /dev/shm 64 MB: too little,
    and so it is passed over there.
    """
    found = []
    shm = shared_memory()
    if shm and os.access(shm, os.W_OK | os.X_OK) and free_bytes(shm) >= need_bytes:
        found.append(Path(shm))
    found.append(Path(tempfile.gettempdir()))
    return found


def shared_memory() -> str:
    """The folder that is memory and not disk; empty where there is none."""
    return os.environ.get("FEEDER_SHM_DIR", "/dev/shm" if sys.platform == "linux" else "")


def free_bytes(folder: str | os.PathLike[str]) -> int:
    """Bytes free for this user in the file system of `folder`; 0 where that can't be told."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return 0


class PrivateDirectory:
    """A folder that only this user can enter, that lives as long as this process, and that the next start sweeps if need be."""

    def __init__(self, parent: Path) -> None:
        """Make it in `parent`. Raises OSError where that can't be done."""
        while True:
            self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
            try:
                lock = os.open(self.path / _ALIVE, CREATE_FLAGS & ~getattr(os, "O_SHORT_LIVED", 0), 0o600)
            except FileNotFoundError:  # we were stopped for a minute, and a sweep took the empty folder for an old one
                continue
            except OSError:
                _remove(self.path)
                raise
            # A sweep that had the lock before us is taking the folder away, or has done so: then make another.
            if _locked(lock) and (self.path / _ALIVE).exists():
                self._lock: int | None = lock
                return
            os.close(lock)

    def close(self) -> None:
        """Remove it and what is in it. On Windows a file that is still mapped somewhere stays for the next sweep."""
        if self._lock is None:
            return
        lock, self._lock = self._lock, None
        if sys.platform == "win32":
            os.close(lock)  # an open file can't be removed there; a sweep in that moment is also fine
            _remove(self.path)
        else:
            _remove(self.path)
            os.close(lock)


def _locked(fd: int) -> bool:
    try:
        return try_lock(fd)
    except OSError as e:  # no locks in this file system (some network ones): then nobody's sweep can have one either
        log.debug("going without a lock: %s", e)
        return True


def sweep(folders: Iterable[Path]) -> list[Path]:
    """Remove the directories that killed processes left behind, never those of living ones. Returns what was removed."""
    removed = []
    for folder in folders:
        for path in sorted(folder.glob(PREFIX + "*")):
            if _MADE.fullmatch(path.name) and _take_away(path):
                removed.append(path)
    return removed


def _take_away(path: Path) -> bool:
    """Remove a directory if its process is gone. True: it was, and nothing of it is left."""
    try:
        info = path.lstat()
        if not stat.S_ISDIR(info.st_mode) or (hasattr(os, "getuid") and info.st_uid != os.getuid()):
            return False
        try:
            lock = os.open(path / _ALIVE, OPEN_FLAGS)
        except FileNotFoundError:
            # Still in the making, or its process died at that; with anything in it, it isn't one of ours.
            if time.time() - info.st_mtime > _YOUNG:
                path.rmdir()
            return not path.exists()
        try:
            if os.fstat(lock).st_size or not try_lock(lock):
                return False
            if sys.platform != "win32":
                # Under the lock: a process between making ``alive`` and locking it must not get the folder meanwhile.
                _remove(path)
        finally:
            os.close(lock)
        if sys.platform == "win32":
            # Nothing that is open can be removed or renamed there, our own handle included. A process that has just made the file
            # has it open; so who can rename it is alone.
            (path / _ALIVE).rename(path / "dying").rename(path / _ALIVE)
            _remove(path)
        return not path.exists()
    except OSError:
        return False


def try_lock(fd: int) -> bool:
    """Lock a file for this process. False: another has the lock. Raises OSError where files can't be locked."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _remove(path: Path) -> None:
    """Remove a directory of ours: plain files. ``alive`` goes last: while anything is left (Windows: mapped), a sweep has to find it."""
    left = False
    try:
        for name in os.listdir(path):
            if name != _ALIVE:
                try:
                    (path / name).unlink(missing_ok=True)  # a sweep elsewhere may be at it, too
                except OSError:
                    left = True
        if not left:
            (path / _ALIVE).unlink(missing_ok=True)
            path.rmdir()
    except OSError as e:
        log.debug("%s stays for the next sweep: %s", path, e)
