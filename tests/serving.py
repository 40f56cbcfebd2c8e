"""Starts real nodes and scripts for tests, reads what they say, and stops them.

    with serve(tmp_path, f"{SOURCES}:Numbers", workers=2) as node:     `feeder-server serve`, up once its endpoint line is out
        FeederClient(node.endpoint) ...
    with Script(tmp_path, "import feeder_client ...") as script:       a user's script, in a file of its own
        assert script.wait() == 0, script.output

Output is read through pipes by threads that end with the process; tests wait for conditions with `until`, never for a time.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, TypeVar

import pytest

from feeder_wire.directories import parents, sweep
from tests.leaks import PREFIX

SOURCES = Path(__file__).with_name("sources.py")
PATIENCE = float(os.environ.get("FEEDER_TEST_PATIENCE", "1"))  # more where everything takes longer, as under Wine
SECONDS = 40.0 * PATIENCE  # for anything that a machine under load may take; never reached by a test that passes
ANY_PORT = "tcp://127.0.0.1:0"
ON_WINDOWS = sys.platform == "win32"
QUICK_RESTARTS = {"feeder_server.supervisor.FIRST_DELAY": 0.02}
POLITE = "SIGINT" if ON_WINDOWS else "SIGTERM"  # how `Running.stop` asks: Windows has no SIGTERM that a process could catch
posix_signals = pytest.mark.skipif(ON_WINDOWS, reason="Windows has no such signal, and nothing like it")
removes_mapped_files = pytest.mark.skipif(ON_WINDOWS, reason="Windows removes no file that is mapped")

_found = shutil.which("feeder-server", path=str(Path(sys.executable).parent))
# -P: what lies in the current folder must not be imported, as feeder-server itself doesn't.
COMMAND = [_found] if _found else [sys.executable, *(["-P"] if sys.version_info >= (3, 11) else []), "-m", "feeder_server.cli"]
_READY = re.compile(r"^feeder-server ready at (tcp://\S+)$", re.MULTILINE)

# In a process of its own, for it gives up its console for that of the other.
_PRESS_CTRL_C = """
import ctypes, sys
kernel = ctypes.WinDLL("kernel32", use_last_error=True)
kernel.FreeConsole()
done = kernel.AttachConsole(int(sys.argv[1])) and kernel.SetConsoleCtrlHandler(None, True) and kernel.GenerateConsoleCtrlEvent(0, 0)
sys.exit(0 if done else f"no Ctrl-C for {sys.argv[1]}: {ctypes.WinError(ctypes.get_last_error())}")
"""
_PIPES: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}

T = TypeVar("T")

started: weakref.WeakSet[Running] = weakref.WeakSet()
"""Processes whose output a test that fails shows: a server for a whole module says what happened to it where the test can't."""


@contextmanager
def still_mapped(monkeypatch: pytest.MonkeyPatch, name: str) -> Iterator[None]:
    """As on Windows, where no file is removed that somebody has mapped: those of this name can't be."""
    real = Path.unlink

    def unlink(file: Path, missing_ok: bool = False) -> None:
        if file.name == name:
            raise PermissionError(13, "in use")
        real(file, missing_ok)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", unlink)
        yield


def until(condition: Callable[[], T], what: str | Callable[[], str], seconds: float = SECONDS) -> T:
    """Polls until `condition` gives something true, and returns that; fails with `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what if isinstance(what, str) else what()}")
        time.sleep(0.02)
    return found


class Running:
    """A process with its output gathered.

    Args:
        command: what to run.
        cwd: its current folder.
        env: added to the environment.
        start_new_session: give it a process group of its own, on POSIX.
    """

    def __init__(self, command: Sequence[str], cwd: Path, env: Mapping[str, str] | None = None, *, start_new_session: bool = False) -> None:
        self._lines: dict[str, list[str]] = {"stdout": [], "stderr": []}
        # A console of its own, which nobody sees: Ctrl-C goes to all processes of a console, and this test's must not get it.
        flags: dict[str, Any] = {"creationflags": subprocess.CREATE_NO_WINDOW} if ON_WINDOWS else {}
        self.popen = subprocess.Popen(
            command,
            cwd=cwd,
            env={**os.environ, "PYTHONIOENCODING": "utf-8", **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="backslashreplace",
            start_new_session=start_new_session,
            **flags,
        )
        assert self.popen.stdout is not None and self.popen.stderr is not None
        self._readers = [
            threading.Thread(target=self._read, args=(name, pipe), name=f"test-reads-{name}", daemon=True)
            for name, pipe in (("stdout", self.popen.stdout), ("stderr", self.popen.stderr))
        ]
        for reader in self._readers:
            reader.start()
        started.add(self)

    def _read(self, name: str, pipe: IO[str]) -> None:
        with pipe:
            for line in pipe:
                self._lines[name].append(line)

    @property
    def stdout(self) -> str:
        """What it has written there so far."""
        return "".join(self._lines["stdout"])

    @property
    def stderr(self) -> str:
        """What it has written there so far."""
        return "".join(self._lines["stderr"])

    @property
    def output(self) -> str:
        """Both, for messages."""
        return f"{self.popen.args!r} has ended with {self.popen.poll()}\n--- stdout\n{self.stdout}--- stderr\n{self.stderr}"

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.popen.pid

    def says(self, text: str, seconds: float = SECONDS) -> None:
        """Waits until its output holds `text`."""
        until(lambda: text in self.stdout or text in self.stderr, lambda: f"{text!r} in {self.output}", seconds)

    def signal(self, name: str) -> None:
        """Sends it a signal: "SIGINT" is Ctrl-C, and "SIGKILL" ends it at once, on Windows too."""
        if name == "SIGKILL":
            self.popen.kill()
        elif ON_WINDOWS and name == "SIGINT":
            subprocess.run([sys.executable, "-c", _PRESS_CTRL_C, str(self.pid)], timeout=SECONDS, check=True, **_PIPES)
        else:
            self.popen.send_signal(getattr(signal, name))

    def wait(self, seconds: float = SECONDS) -> int:
        """Waits for its end and for the last of its output; returns the exit code."""
        try:
            code = self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still runs after {seconds:g} s: {self.output}") from None
        for reader in self._readers:
            reader.join(seconds)
        return code

    def stop(self) -> int:
        """Asks it to end, and waits."""
        if self.popen.poll() is None:
            self.signal(POLITE)
        return self.wait()

    def __enter__(self: T) -> T:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.popen.poll() is None:
            try:
                self.stop()
            except AssertionError:
                self.popen.kill()
                self.popen.wait()
                if error is None:
                    raise


class Serving(Running):
    """``feeder-server serve``, of which `arguments` are the rest; see `serve`, which waits until it is ready.

    `constants` of the server are changed where no test can wait as long as a user: ``{"feeder_server.gate.LEASE_SECONDS": 4}``; a text is
    what is written in Python.
    """

    def __init__(
        self, cwd: Path, *arguments: str | Path, env: Mapping[str, str] | None = None, constants: Mapping[str, float | str] | None = None
    ) -> None:
        command = COMMAND
        if constants:
            modules = {name.rpartition(".")[0] for name in constants}
            changes = "; ".join([f"import {module}" for module in modules] + [f"{name} = {value}" for name, value in constants.items()])
            command = [sys.executable, "-c", f"{changes}; from feeder_server.cli import main; main()"]
        super().__init__([*command, "serve", *map(str, arguments)], cwd, env)

    @property
    def workers(self) -> list[int]:
        """Process ids of its workers."""
        return sorted(workers_of(self.pid))

    def kill(self) -> None:
        """Ends it as `kill -9` does; its workers go by themselves, and its folders as the next start would see to it."""
        below = workers_of(self.pid)
        self.popen.kill()
        self.wait()
        until(lambda: not alive(below), lambda: f"the workers end: {alive(below)}")
        sweep(parents())

    @property
    def endpoint(self) -> str:
        """Where clients connect; waits for the line that says so."""
        found = until(lambda: _READY.search(self.stdout) or self.popen.poll() is not None, lambda: f"ready: {self.output}")
        if found is True:  # it has ended: what it said last is on the way
            self.wait()
            found = _READY.search(self.stdout)
        assert isinstance(found, re.Match), self.output
        return found[1]


@contextmanager
def serve(cwd: Path, *arguments: str | Path, workers: int | str = 1, bind: str = ANY_PORT, **options: Any) -> Iterator[Serving]:
    """Starts a node, waits until it is ready, and stops it at the end. `options` as for `Serving`."""
    with Serving(cwd, *arguments, "--workers", str(workers), "--bind", bind, **options) as node:
        _ = node.endpoint
        yield node


class Script(Running):
    """A user's script: `code` is written to a file in `cwd` and run by this Python."""

    def __init__(self, cwd: Path, code: str, *arguments: str, env: Mapping[str, str] | None = None, name: str = "script.py") -> None:
        path = cwd / name
        path.write_text(textwrap.dedent(code), encoding="utf-8")
        super().__init__([sys.executable, str(path), *arguments], cwd, env)


def shadows(folder: Path) -> Path:
    """A folder whose files have the names of modules that feeder imports: a `data.py` and a `queue.py` are what users have."""
    folder.mkdir()
    for name in ("json", "signal", "queue", "select", "secrets", "types", "numpy", "zmq", "msgpack", "click", "logging"):
        (folder / f"{name}.py").write_text(f"raise SystemExit('this is the user's own {name}.py')\n")
    return folder


def free_port() -> int:
    """A port that was free a moment ago, for what has to be known before it is bound."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def arenas() -> set[Path]:
    """feeder's folders in the private places of this test process."""
    places = [os.environ.get("FEEDER_SHM_DIR"), os.environ["TMPDIR"]]
    return {path for place in places if place for path in Path(place).glob(PREFIX + "*")}


def arenas_since(before: set[Path]) -> set[Path]:
    """Those that are new, after a sweep on Windows: what a trainer had mapped when its server ended is for the next start of one."""
    if ON_WINDOWS:
        sweep(parents())
    return arenas() - before


def arena_bytes(others: Collection[Path] = ()) -> int:
    """Size of all files in them, but for those in `others`: some nodes live for a whole session."""
    total = 0
    for folder in arenas().difference(others):
        for path in folder.glob("*"):
            try:
                total += path.stat().st_size
            except OSError:  # gone meanwhile
                continue
    return total


def kill(pid: int, name: str = "SIGKILL") -> str:
    """Ends a process at once, by a signal or by what Windows has for SIGKILL; returns what the server's log should say of it."""
    if ON_WINDOWS:
        assert name == "SIGKILL"
        os.kill(pid, signal.SIGTERM)  # TerminateProcess, and the number becomes its exit code
        return f"exit code {int(signal.SIGTERM)}"
    os.kill(pid, getattr(signal, name))
    return f"killed by {name}"


def workers_of(pid: int) -> dict[int, Any]:
    """The processes below `pid`, by process id; without those that only Windows puts in between."""
    psutil = pytest.importorskip("psutil")
    found = {}
    with suppress(psutil.NoSuchProcess):
        for child in psutil.Process(pid).children(recursive=True):
            # OSError: Windows made it or ends it at this moment, and it has no command line yet or any more.
            with suppress(psutil.NoSuchProcess, OSError):
                if not (ON_WINDOWS and _is_between(child)):
                    found[child.pid] = child
    return found


def _is_between(process: Any) -> bool:
    """Each console has a process there, and the program that pip makes and the python.exe of an environment start another one."""
    line = " ".join(process.cmdline())
    if "conhost.exe" in line or "feeder-server.exe" in line:
        return True
    try:
        return sys.prefix != sys.base_prefix and os.path.samefile(process.exe(), sys.executable)
    except OSError:  # Wine can't tell, and has no environments
        return False


def alive(pids: Mapping[int, Any]) -> list[int]:
    """Which of these (from `workers_of`) still run."""
    psutil = pytest.importorskip("psutil")
    found = []
    for pid, process in pids.items():
        with suppress(psutil.NoSuchProcess):  # it ends between the two questions
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(pid)
    return found
