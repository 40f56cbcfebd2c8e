"""A Windows CPython under Wine: where it is, and how it is run. `setup.py` puts it together.

    cache folder            $FEEDER_WINDOWS_CACHE, or feeder-windows in the user's cache folder; never in the repository
      downloads/            what pip fetched; stays when the rest is made anew
      Program Files ü/      python.exe, unmodified, with its Lib, DLLs and Scripts; one for the tests, more for `stacks.py`
      prefix/               Wine's Windows
      ready.json            what all of this was made from; there only when the set-up ran to its end

Wine's own folders show as drive C:, and all files of this machine as drive Z:. A process needs pipes for stdout and stderr: with a
Unix file or /dev/null, python.exe can't start; and Wine's services hold such a pipe open, so its end says nothing.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CACHE_VARIABLE = "FEEDER_WINDOWS_CACHE"
TIMED_OUT = 124
WINE64 = ("/usr/lib/wine/wine64", "/usr/bin/wine64")
# Wine's gaps: the C runtime of Microsoft instead of its own, no installers for .NET and HTML, no debugger that waits for ever.
OVERRIDES = "mscoree=;mshtml=;ucrtbase=n,b;winedbg.exe=d"


class Unavailable(Exception):
    """There is no Wine here, and none can be had; says why."""


class SetupFailed(Exception):
    """Something of the set-up went wrong; says what."""


def cache_folder(env: Mapping[str, str] = os.environ) -> Path:
    """Where everything is kept."""
    if env.get(CACHE_VARIABLE):
        return Path(env[CACHE_VARIABLE]).absolute()
    base = env.get("XDG_CACHE_HOME") or str(Path(env.get("HOME") or "~").expanduser() / ".cache")
    return Path(base, "feeder-windows").absolute()


def windows_path(path: Path) -> str:
    """A path of this machine as Windows programs under Wine see it."""
    return "Z:" + str(path.absolute()).replace("/", "\\")


@dataclass(frozen=True)
class Wine:
    """A Windows with a Python, in `home`. Programs need `serving` around them, and whole runs `alone`.

    Attributes:
        home: the cache folder.
        folder: where its python.exe lies, below that of the Pythons.
    """

    home: Path
    folder: str = "cp313"

    @property
    def python(self) -> Path:
        """The Windows python.exe."""
        return self.home / "Program Files ü" / self.folder / "python.exe"

    @property
    def prefix(self) -> Path:
        """Wine's Windows."""
        return self.home / "prefix"

    def environment(self, **more: str) -> dict[str, str]:
        """Variables of a Windows process: this machine's, without what is meant for another Python."""
        foreign = ("PYTHON", "PIP_", "VIRTUAL_ENV", "FEEDER_", "LD_PRELOAD", "TMPDIR", "CI")
        env = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        # UTF-8, or Wine can't show names of files that hold other letters.
        env.update(LC_ALL="C.UTF-8", WINEPREFIX=str(self.prefix), WINEDEBUG="-all", WINEDLLOVERRIDES=OVERRIDES)
        return {**env, **more}

    def run(
        self,
        *arguments: str,
        seconds: float,
        show: Callable[[bytes], None] | None = None,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> tuple[int, str]:
        """Runs python.exe with these arguments.

        Args:
            seconds: before it is killed, and the exit code is `TIMED_OUT`.
            show: is given what it prints, as it comes.
            cwd: its current folder; None: this process'.
            env: added to the environment.

        Returns:
            Its exit code, and what it printed to stdout and stderr.
        """
        command = [wine64(), str(self.python), *arguments]
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env=self.environment(**(env or {})),
        )
        printed = bytearray()

        def read() -> None:
            assert process.stdout is not None
            while data := os.read(process.stdout.fileno(), 65536):
                printed.extend(data)
                if show is not None:
                    show(data)

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            code = TIMED_OUT
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        reader.join(1.0)  # a service of Wine's may hold the pipe open for ever
        return code, bytes(printed).decode("utf-8", "replace").replace("\r\n", "\n")

    @contextmanager
    def alone(self, say: Callable[[str], None]) -> Iterator[None]:
        """One run at a time: the end of one would end the processes of the other, and its set-up take away what the other runs."""
        import fcntl  # here, because this file is imported on Windows too, by its tests

        self.home.mkdir(parents=True, exist_ok=True)
        with open(self.home / "lock", "w", encoding="ascii") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f"waiting for another run, which uses {self.home}")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Keeps Wine's server up, so that a process starts in a quarter of a second; ends it and all Windows processes afterwards."""
        self._server("-k")  # of a run that was killed
        self._end_strays()
        self._server("-p")
        try:
            yield
        finally:
            self._server("-k")
            self._server("-w")
            self._end_strays()

    def _server(self, option: str) -> None:
        self.prefix.mkdir(parents=True, exist_ok=True)
        null = subprocess.DEVNULL
        with suppress(subprocess.TimeoutExpired):
            subprocess.run(["wineserver", option], env=self.environment(), stdin=null, stdout=null, stderr=null, timeout=60, check=False)

    def _end_strays(self) -> None:
        # Services of Wine's live on without their server now and then.
        mark = f"WINEPREFIX={self.prefix}".encode()
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it is gone, or another user's
                if process.name != str(os.getpid()) and mark in (process / "environ").read_bytes().split(b"\0"):
                    os.kill(int(process.name), signal.SIGKILL)

    def pip(self, *arguments: str) -> None:
        """Runs the Windows pip. Raises SetupFailed."""
        self.must("-m", "pip", *arguments, "--quiet", "--no-warn-script-location", "--no-cache-dir", PIP_CONFIG_FILE="nul")

    def must(self, *arguments: str, **env: str) -> None:
        """Runs python.exe. Raises SetupFailed if it fails."""
        code, printed = self.run(*arguments, seconds=600, env=env)
        if code:
            raise SetupFailed(f"python.exe {' '.join(arguments)} ended with exit code {code}:\n{printed[-3000:]}")


def wine64() -> str:
    """Path of Wine's loader; empty where there is none."""
    return next((path for path in WINE64 if os.access(path, os.X_OK)), "")
