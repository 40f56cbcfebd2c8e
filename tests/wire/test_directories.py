"""Directories of the arena, with real second processes where only they can show it."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from feeder_wire import directories
from feeder_wire.directories import PrivateDirectory, free_bytes, parents, sweep
from tests.serving import still_mapped

MB = 1 << 20
posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX only")
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="space is reserved by posix_fallocate only there")


def files(folder: str | Path) -> set[str]:
    return {name for name in os.listdir(folder) if name not in ("alive", "nonce")}


class TestParents:
    def test_shared_memory_first_if_there_is_room(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FEEDER_SHM_DIR", str(tmp_path))
        temporary = Path(tempfile.gettempdir())
        assert parents(1) == [tmp_path, temporary]
        assert parents(free_bytes(tmp_path) * 2 + 1) == [temporary], "Docker's 64 MB, say"

    def test_empty_means_none_and_so_does_what_cannot_be_used(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for value in ("", str(tmp_path / "gone")):
            monkeypatch.setenv("FEEDER_SHM_DIR", value)
            assert parents(0) == [Path(tempfile.gettempdir())]

    @on_linux
    def test_linux_has_one_by_default(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("FEEDER_SHM_DIR")
        monkeypatch.setattr(directories, "free_bytes", lambda folder: 1 << 40)
        assert parents(1)[0] == Path("/dev/shm")

    def test_free_bytes_of_nothing(self, tmp_path: Path) -> None:
        assert free_bytes(tmp_path / "gone") == 0
        assert free_bytes(tmp_path) > 0


class TestPrivateDirectory:
    def test_only_this_user_may_enter(self, tmp_path: Path) -> None:
        directory = PrivateDirectory(tmp_path)
        assert directory.path.parent == tmp_path
        assert files(directory.path) == set()
        if sys.platform != "win32":
            assert stat.S_IMODE(directory.path.stat().st_mode) == 0o700
        directory.close()

    def test_close_leaves_nothing_and_may_be_called_again(self, tmp_path: Path) -> None:
        directory = PrivateDirectory(tmp_path)
        for name in ("nonce", "0-0-1-1"):
            (directory.path / name).write_bytes(b"x")
        directory.close()
        directory.close()
        assert os.listdir(tmp_path) == []

    def test_the_lock_is_not_inherited(self, tmp_path: Path) -> None:
        directory = PrivateDirectory(tmp_path)
        assert directory._lock is not None
        assert not os.get_inheritable(directory._lock)
        directory.close()

    def test_a_parent_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            PrivateDirectory(tmp_path / "gone")

    @posix
    def test_a_full_disk_leaves_no_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def no_space(path: Any, flags: int, mode: int = 0o777) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr(os, "open", no_space)
            with pytest.raises(OSError, match="No space"):
                PrivateDirectory(tmp_path)
        assert os.listdir(tmp_path) == []

    @posix
    def test_a_file_system_without_locks_serves_too(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import fcntl

        def none(fd: int, how: int) -> None:
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr(fcntl, "flock", none)
        directory = PrivateDirectory(tmp_path)  # at one time it went on making folders for ever
        assert len(os.listdir(tmp_path)) == 1
        assert sweep([tmp_path]) == [], "nobody can tell whether it is alive, so it stays"
        directory.close()
        assert os.listdir(tmp_path) == []

    @posix
    def test_a_folder_taken_away_in_the_making_is_made_again(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        real, made = tempfile.mkdtemp, []

        def mkdtemp(**options: Any) -> str:
            made.append(real(**options))
            if len(made) == 1:
                shutil.rmtree(made[0])  # as a sweep would, had we been stopped for a minute right here
            return made[-1]

        monkeypatch.setattr(tempfile, "mkdtemp", mkdtemp)
        directory = PrivateDirectory(tmp_path)
        assert len(made) == 2
        assert os.listdir(tmp_path) == [directory.path.name]
        directory.close()

    @posix
    @pytest.mark.parametrize("moment", ["sweep has the lock", "sweep is done"])
    def test_a_sweep_between_the_file_and_its_lock(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
        real, calls = directories.try_lock, []

        def try_lock(fd: int) -> bool:
            calls.append(fd)
            if len(calls) > 1:
                return real(fd)
            # The newcomer has made the file and did not lock it yet: to a sweep it looks dead.
            if moment == "sweep is done":
                assert len(sweep([tmp_path])) == 1
                return real(fd)
            with open(next(tmp_path.glob("*/alive")), "rb") as other:
                assert real(other.fileno())
                got = real(fd)
                shutil.rmtree(Path(other.name).parent)
            return got

        monkeypatch.setattr(directories, "try_lock", try_lock)
        directory = PrivateDirectory(tmp_path)
        assert os.listdir(tmp_path) == [directory.path.name]
        assert (directory.path / "alive").exists()
        directory.close()

    @posix
    def test_a_sweep_removes_under_the_lock(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        # Were it to let go first, a newcomer could get the lock, and lose its folder to the removal that was decided before.
        abandoned = tmp_path / "feeder-abandon1"
        abandoned.mkdir(mode=0o700)
        (abandoned / "alive").touch()
        real, could_lock = directories._remove, []

        def remove(path: Path) -> None:
            with open(path / "alive", "rb") as newcomer:
                could_lock.append(directories.try_lock(newcomer.fileno()))
            real(path)

        monkeypatch.setattr(directories, "_remove", remove)
        assert sweep([tmp_path]) == [abandoned]
        assert could_lock == [False]


HOLDER = """
import sys
from pathlib import Path
from feeder_wire.arena import ArenaWriter
from feeder_wire.directories import PrivateDirectory
directory = PrivateDirectory(Path(sys.argv[1]))
(directory.path / "nonce").write_text("n")
writer = ArenaWriter([str(directory.path)], 0, 1, 1 << 30)
writer.take(4096)
print(directory.path, flush=True)
sys.stdin.read()
writer.close()
directory.close()
"""


class TestSweep:
    @pytest.fixture
    def holder(self, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
        """A living process with a directory in `tmp_path`."""
        process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdin is not None
        assert process.stdout is not None
        with process:
            yield process, Path(process.stdout.readline().strip())
            process.kill()

    def test_never_touches_the_directory_of_a_living_process(self, holder: tuple[subprocess.Popen[str], Path], tmp_path: Path) -> None:
        process, path = holder
        assert sweep([tmp_path]) == []
        assert {"alive", "nonce", "0-0-1-1"} == set(os.listdir(path))
        process.communicate("", timeout=30)
        assert os.listdir(tmp_path) == [], "it removes its own"

    def test_removes_the_directory_of_a_killed_process(self, holder: tuple[subprocess.Popen[str], Path], tmp_path: Path) -> None:
        process, path = holder
        process.send_signal(signal.SIGKILL) if sys.platform != "win32" else process.kill()
        process.wait(30)
        assert "0-0-1-1" in os.listdir(path)
        assert sweep([tmp_path, tmp_path]) == [path]
        assert os.listdir(tmp_path) == []

    def test_the_own_living_directory_stays_too(self, tmp_path: Path) -> None:
        directory = PrivateDirectory(tmp_path)
        assert sweep([tmp_path]) == []
        directory.close()

    def old(self, path: Path) -> Path:
        past = time.time() - 2 * directories._YOUNG
        os.utime(path, (past, past))
        return path

    def test_a_folder_without_the_file_goes_when_it_is_old_and_empty(self, tmp_path: Path) -> None:
        young, old = tmp_path / "feeder-aaaaaaa1", tmp_path / "feeder-aaaaaaa2"
        young.mkdir()
        old.mkdir()
        assert sweep([tmp_path]) == [] if not self.old(old) else sweep([tmp_path]) == [old]
        assert os.listdir(tmp_path) == [young.name]

    @pytest.mark.parametrize("name", ["feeder-project", "feeder-test_run", "feeder-", "feeder-12345678"])
    @pytest.mark.parametrize("content", ["data.csv", "alive"])
    def test_a_folder_of_the_users_stays(self, tmp_path: Path, name: str, content: str) -> None:
        theirs = tmp_path / name
        (theirs / "sub").mkdir(parents=True)
        (theirs / content).write_text("years of work")
        self.old(theirs)
        assert sweep([tmp_path]) == []
        assert (theirs / content).read_text() == "years of work"

    def test_a_plain_file_and_a_missing_folder_are_passed_over(self, tmp_path: Path) -> None:
        (tmp_path / "feeder-12345678").write_text("a file")
        assert sweep([tmp_path, tmp_path / "gone"]) == []
        assert len(os.listdir(tmp_path)) == 1

    @posix
    def test_a_link_is_not_followed(self, tmp_path: Path) -> None:
        theirs = tmp_path / "theirs"
        theirs.mkdir()
        (theirs / "alive").touch()
        os.symlink(theirs, tmp_path / "feeder-12345678")
        assert sweep([tmp_path]) == []
        assert (theirs / "alive").exists()

    @posix
    def test_another_users_directory_stays(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "feeder-12345678"
        path.mkdir()
        (path / "alive").touch()
        me = os.getuid()
        with monkeypatch.context() as patched:
            patched.setattr(os, "getuid", lambda: me + 1)
            assert sweep([tmp_path]) == []
            assert path.exists()
        assert sweep([tmp_path]) == [path]

    def test_what_cannot_be_removed_yet_is_found_by_the_next_sweep(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "feeder-12345678"
        path.mkdir()
        for name in ("alive", "nonce", "0-0-1-1"):
            (path / name).touch()
        with still_mapped(monkeypatch, "0-0-1-1"):
            assert sweep([tmp_path]) == []
            assert set(os.listdir(path)) == {"alive", "0-0-1-1"}
        assert sweep([tmp_path]) == [path]
        assert os.listdir(tmp_path) == []
