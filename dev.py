#!/usr/bin/env python3
"""Set up feeder for development and run it: `python dev.py demo`, `test`, `chaos`, `test-windows`, `lint`, `setup` or `clean`.

Needs a Python and nothing else: makes `.venv` in this folder, installs feeder and its tools there, pinned by constraints.txt,
and starts at once when that was done before. On Windows: `py dev.py demo`.
"""

# Standard library only, and a syntax that Python 3.8 can read: it has to get as far as saying that it is too old.
from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Sequence

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
STAMP = VENV / "feeder-setup.json"  # there only when the set-up ran to its end
OLDEST, NEWEST = (3, 10), (3, 13)  # what TensorFlow has wheels for
EXTRAS = ("backends", "dev", "tensorflow", "torch", "zoo")
HEAVY = ("torch",)  # what --light leaves out: on Linux it may bring gigabytes of CUDA libraries
TYPED = ("feeder_wire", "feeder_server", "feeder_client", "dev.py")
LIGHT_VARIABLE = "FEEDER_LIGHT"  # tells the tests, for which in CI a missing backend is a failure otherwise
LITTER = ("build", "dist", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis")
MOST_TEST_PROCESSES = 4  # system tests start processes of their own
INTERRUPTED = 130  # what a shell reports for a command ended by Ctrl-C


class Stop(Exception):
    """Ends the run with a message for the user and exit code 1."""


def python_problem(version: tuple[int, ...], is_64bit: bool, windows: bool) -> str | None:
    """Says why this Python can't be used and what to do, or returns None."""
    found = "Python {}.{}".format(*version[:2])
    wanted = "install Python {}.{} to {}.{} (python.org, or your system's packages)".format(*OLDEST, *NEWEST)
    again = "{} dev.py ...".format("py -{}.{}".format(*NEWEST) if windows else "python{}.{}".format(*NEWEST))
    if version[:2] < OLDEST:
        return f"{found} is too old: {wanted}, then run: {again}"
    if version[:2] > NEWEST:
        return f"{found} is too new, TensorFlow has no release for it yet: {wanted}, then run: {again}"
    if not is_64bit:
        return f"This {found} is a 32-bit one, and TensorFlow has no release for it: install the 64-bit one."
    return None


def missing_module(names: Sequence[str] = ("venv", "ensurepip")) -> str | None:
    """Returns the first module that a virtual environment needs and this Python lacks: Linux packages split them off."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            return name
    return None


def linux_family(os_release: str) -> list[str]:
    """Returns the names in ID and ID_LIKE of the text of /etc/os-release."""
    names: list[str] = []
    for line in os_release.splitlines():
        key, _, value = line.partition("=")
        if key in ("ID", "ID_LIKE"):
            names += value.strip().strip("\"'").lower().split()
    return names


def missing_module_message(name: str, version: tuple[int, ...], family: Sequence[str]) -> str:
    """Says how to get `name` on a system of that family; an empty family is any system that isn't Linux."""
    short = "{}.{}".format(*version[:2])
    if "debian" in family or "ubuntu" in family:
        cure = f"run: sudo apt install python3-venv (or python{short}-venv)"
    elif "suse" in family or "opensuse" in family:
        cure = f"run: sudo zypper install python{short.replace('.', '')}-base python{short.replace('.', '')}-pip"
    elif {"fedora", "rhel", "centos"} & set(family):
        cure = "run: sudo dnf install python3 python3-pip"
    else:
        cure = "install a complete Python, from python.org or with your system's package of it"
    return f"This Python lacks the module {name}, which makes virtual environments: {cure}"


def read_linux_family() -> list[str]:
    """Returns this system's family, empty where it isn't Linux or doesn't say."""
    try:
        return linux_family(Path("/etc/os-release").read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return []


def stamp_key(root: Path, version: tuple[int, ...], extras: Sequence[str]) -> dict[str, str]:
    """Returns what a set-up depends on: another `files` needs an install, another `base` a new environment.

    The folder belongs to the base, because neither a virtual environment nor an editable install survives being moved.
    """
    files = hashlib.sha256()
    for name in ("pyproject.toml", "constraints.txt"):
        # Line ends are git's affair: the same commit gives the same key on Windows.
        files.update((root / name).read_bytes().replace(b"\r\n", b"\n") + b"\0")
    files.update(",".join(sorted(extras)).encode())
    base = "{} {}".format(".".join(map(str, version[:3])), root)
    light = "yes" if is_light(extras) else ""
    return {"base": base, "files": files.hexdigest(), "extras": ",".join(sorted(extras)), "light": light}


def read_stamp(path: Path) -> dict[str, str]:
    """Returns the stamp of the last complete set-up, empty if there is none that can be read."""
    try:
        stamp = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def wanted_extras(asked: Sequence[str], stamp: dict[str, str], light: bool = False) -> list[str]:
    """Returns the extras to install: the usual ones, those asked for, and those asked for before, which stay.

    A light set-up stays light until what it leaves out is asked for by name.
    """
    before = [name for name in stamp.get("extras", "").split(",") if name]
    usual = [name for name in EXTRAS if name not in HEAVY or not (light or stamp.get("light"))]
    return sorted({*usual, *asked, *before})


def is_light(extras: Sequence[str]) -> bool:
    """Whether something heavy is left out."""
    return not set(HEAVY) <= set(extras)


def next_step(stamp: dict[str, str], wanted: dict[str, str], venv_is_there: bool) -> str:
    """Returns "nothing", "install" (into what is there) or "rebuild" (it is missing, half made, moved, or of another Python)."""
    if not venv_is_there or stamp.get("base") != wanted["base"]:
        return "rebuild"
    return "nothing" if stamp.get("files") == wanted["files"] else "install"


def venv_program(name: str, venv: Path = VENV, windows: bool = os.name == "nt") -> Path:
    """Returns the path of a program of the environment, in the layout of this system."""
    return venv / "Scripts" / f"{name}.exe" if windows else venv / "bin" / name


def pip_command(python: str, extras: Sequence[str]) -> list[str]:
    """Returns the one command that installs everything; run in ROOT, so that no path needs quoting."""
    return [python, "-m", "pip", "install", "--no-input", "-c", "constraints.txt", "-e", ".[{}]".format(",".join(extras))]


def test_command(python: str, args: Sequence[str], cores: int) -> list[str]:
    """Returns the pytest command: several processes for the suite, one where the user chose or asked for a single test."""
    chosen = any(a.startswith(("-n", "--numprocesses", "--pdb", "--trace")) or "::" in a or a in ("-s", "--co") for a in args)
    processes = min(cores, MOST_TEST_PROCESSES)
    spread = [] if chosen or processes < 2 else ["-n", str(processes), "--dist", "worksteal"]
    return [python, "-m", "pytest", *spread, *args]


def lint_commands(python: str) -> list[tuple[str, list[str]]]:
    """Returns the checks, each with its name."""
    return [
        ("ruff check", [python, "-m", "ruff", "check", "."]),
        ("ruff format", [python, "-m", "ruff", "format", "--check", "."]),
        ("mypy", [python, "-m", "mypy", "--strict", *TYPED]),
        # What only POSIX has, and nobody guarded, shows on any system. A cache of its own, or the two would undo each other's.
        ("mypy as on Windows", [python, "-m", "mypy", "--strict", "--platform=win32", "--cache-dir=.mypy_cache/win32", *TYPED]),
        ("architecture", [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(Path("tests", "test_architecture.py"))]),
    ]


def child_environment(parent: dict[str, str], venv: Path = VENV, windows: bool = os.name == "nt") -> dict[str, str]:
    """Returns the environment of what runs in `venv`: its programs first on PATH, nothing that mixes in other packages."""
    mixers = ("PYTHONHOME", "PYTHONPATH", "__PYVENV_LAUNCHER__", "PIP_TARGET", "PIP_PREFIX")
    env = {name: value for name, value in parent.items() if name.upper() not in mixers}
    programs = str(venv_program("python", venv, windows).parent)
    path_name = next((name for name in env if name.upper() == "PATH"), "PATH")  # "Path" on Windows
    env[path_name] = programs + (";" if windows else ":") + env[path_name] if env.get(path_name) else programs
    env.update(VIRTUAL_ENV=str(venv), PIP_USER="0", PIP_DISABLE_PIP_VERSION_CHECK="1")
    return env


def exit_code(returncode: int) -> int:
    """Translates the end of a child into an exit code that the shell understands: a signal -N is 128 + N.

    Windows gives 32-bit NTSTATUS codes; the one for Ctrl-C gets the number that it has elsewhere.
    """
    if returncode < 0:
        return 128 - returncode
    if returncode == 0xC000013A:
        return INTERRUPTED
    return returncode if returncode < 256 else 1


def usable_cores() -> int:
    """Returns the number of cores that this process may use."""
    if sys.platform != "win32" and hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Runner:
    """Runs children in ROOT with the environment's variables, and says so; one object per start of dev.py."""

    def __init__(self, verbose: bool) -> None:
        self.verbose = verbose
        self.interrupted = 0  # how often Ctrl-C was pressed
        self.started = time.monotonic()
        self.env = child_environment(dict(os.environ))

    def say(self, text: str) -> None:
        """Prints one line: seconds since the start, and what happens."""
        print(f"[{time.monotonic() - self.started:5.1f} s] {text}", flush=True)

    def run(self, command: Sequence[str]) -> int:
        """Runs `command` on this terminal to its end and returns its exit code."""
        return self._wait(subprocess.Popen(command, cwd=str(ROOT), env=self.env))

    def run_quietly(self, command: Sequence[str]) -> None:
        """Runs `command` and shows what it prints only if it fails.

        Raises:
            Stop: it failed.
        """
        # A file and not a pipe: nobody has to read it while the child runs.
        with tempfile.TemporaryFile() as log:
            out = None if self.verbose else log
            code = self._wait(subprocess.Popen(command, cwd=str(ROOT), env=self.env, stdin=subprocess.DEVNULL, stdout=out, stderr=out))
            if self.interrupted:
                raise KeyboardInterrupt
            if code:
                log.seek(0)
                print(log.read().decode("utf-8", errors="replace").rstrip(), flush=True)
                raise Stop(f"That failed (exit code {code}), see above: {subprocess.list2cmdline(command)}")

    def _wait(self, child: subprocess.Popen[bytes]) -> int:
        """Waits for the end of `child`, through Ctrl-C: the child got it too, and needs the time to clean up after itself.

        A handler and not `except KeyboardInterrupt`, which can strike between the child's end and the note of its exit code.
        """

        def on_interrupt(signum: int, frame: object) -> None:
            self.interrupted += 1
            if self.interrupted == 3:
                child.kill()

        previous = signal.signal(signal.SIGINT, on_interrupt)
        try:
            return exit_code(child.wait())
        finally:
            signal.signal(signal.SIGINT, previous)
            if child.poll() is None:  # this process was told to end (SIGTERM): so is the child
                child.terminate()
                child.wait()


def set_up(runner: Runner, asked_extras: Sequence[str], light: bool = False) -> None:
    """Makes the environment, or brings it up to date, or finds that there is nothing to do.

    Raises:
        Stop: it can't be done; the message says what to change.
    """
    stamp = read_stamp(STAMP)
    extras = wanted_extras(asked_extras, stamp, light)
    if is_light(extras):
        runner.env[LIGHT_VARIABLE] = "1"
    wanted = stamp_key(ROOT, tuple(sys.version_info[:3]), extras)
    python = venv_program("python")
    step = next_step(stamp, wanted, python.exists())
    if step == "nothing":
        return
    missing = missing_module()
    if missing:
        raise Stop(missing_module_message(missing, tuple(sys.version_info[:3]), read_linux_family()))
    # From here to the end there is no stamp: whatever interrupts it, the next start makes the environment anew.
    if STAMP.exists():
        STAMP.unlink()
    if step == "rebuild":
        if Path(sys.prefix) == VENV:
            raise Stop("This is the Python inside .venv, which has to be made anew: leave it (`deactivate`) and run dev.py again.")
        runner.say(f"making .venv with Python {platform.python_version()}")
        remove(VENV)
        runner.run_quietly([sys.executable, "-m", "venv", str(VENV)])
    runner.say("installing feeder with {} into .venv; the first time that takes minutes".format(", ".join(extras)))
    runner.run_quietly(pip_command(str(python), extras))
    STAMP.write_text(json.dumps(wanted), encoding="utf-8")
    runner.say("ready")


def remove(path: Path) -> None:
    """Removes a folder, if it is there.

    Raises:
        Stop: something holds it, which on Windows is any program that runs from it.
    """
    try:
        if path.is_symlink():
            path.unlink()
        elif path.exists():
            shutil.rmtree(str(path))
    except OSError as error:
        raise Stop(f"Can't remove {path}: {error}. Close what uses it (terminals, editors), then run this again.") from error


def clean() -> None:
    """Removes what set-up, tests and tools have made."""
    if Path(sys.prefix) == VENV:
        raise Stop("This is the Python inside .venv, which can't remove itself: leave it (`deactivate`) and run dev.py again.")
    remove(VENV)
    for path in [ROOT / name for name in LITTER] + list(ROOT.glob("*.egg-info")):
        remove(path)
    for path in list(ROOT.rglob("__pycache__")):
        remove(path)


def lint(runner: Runner, python: str) -> int:
    """Runs every check, also after one has failed, and returns the exit code of the first that did."""
    results = []
    for name, command in lint_commands(python):
        runner.say(name)
        results.append((name, runner.run(command)))
        if runner.interrupted:
            return INTERRUPTED
    failed = [(name, code) for name, code in results if code]
    runner.say("lint: " + ("failed: " + ", ".join(name for name, _ in failed) if failed else "all passed"))
    return failed[0][1] if failed else 0


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parses the command line; everything behind the command is handed on to what it runs."""
    parser = argparse.ArgumentParser(
        prog="dev.py",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Set up feeder in .venv and run it.",
        epilog="commands:\n"
        "  demo [args...]   feeder-server demo: what feeder gains, on this machine\n"
        "  test [args...]   the whole test suite; args go to pytest\n"
        "  chaos [args...]  servers and trainings under random faults, every batch checked; args: see tests/README.md\n"
        "  test-windows [args...]   the test suite in a Windows Python under Wine, on Linux; args go to pytest (see tests/windows/run.py)\n"
        "  lint             ruff, mypy and the rules of the architecture\n"
        "  setup            only make .venv, or bring it up to date\n"
        "  clean            remove .venv, caches and build output\n\n"
        "examples:\n  python dev.py demo\n  python dev.py test -k window -x\n  python dev.py --light test\n",
    )
    parser.add_argument("--verbose", action="store_true", help="show pip's output")
    parser.add_argument(
        "--with",
        dest="extras",
        metavar="EXTRA",
        action="append",
        default=[],
        choices=["bench", "torch"],
        help="install this extra too: torch, after a --light set-up, or bench, what feeder is measured against (with torch)",
    )
    parser.add_argument("--light", action="store_true", help="leave out torch, gigabytes on Linux; tests that need it are skipped")
    parser.add_argument("command", choices=["demo", "test", "chaos", "test-windows", "lint", "setup", "clean"])
    parser.add_argument("args", nargs=argparse.REMAINDER)
    options = parser.parse_args(argv)
    if options.args and options.command not in ("demo", "test", "chaos", "test-windows"):
        parser.error(f"{options.command} takes no arguments; options of dev.py go before it")
    return options


def run_command(options: argparse.Namespace) -> int:
    """Does what the command line says and returns the exit code."""
    if options.command == "clean":
        clean()
        return 0
    if options.command == "test-windows" and sys.platform != "linux":
        raise Stop("test-windows needs Linux, and Wine. On Windows itself the whole suite is: py dev.py test")
    runner = Runner(options.verbose)
    # The peers are no fair comparison without torch's DataLoader.
    set_up(runner, [*options.extras, *(["torch"] if "bench" in options.extras else [])], options.light)
    python = str(venv_program("python"))
    if options.command == "test":
        return runner.run(test_command(python, options.args, usable_cores()))
    if options.command == "chaos":
        return runner.run([python, "-m", "tests.chaos", *options.args])
    if options.command == "test-windows":
        return runner.run([python, "-m", "tests.windows.run", *options.args])
    if options.command == "lint":
        return lint(runner, python)
    if options.command == "demo":
        return runner.run([str(venv_program("feeder-server")), "demo", *options.args])
    runner.say(".venv is up to date")
    return 0


def end_on_sigterm(signum: int, frame: object) -> None:
    """Signal handler: leaves by an exception, so that the running child is ended too."""
    raise SystemExit(128 + signum)


def main(argv: Sequence[str]) -> int:
    """Runs dev.py with these arguments and returns its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a path may hold letters that a Windows pipe can't show
    problem = python_problem(tuple(sys.version_info[:3]), sys.maxsize > 2**32, os.name == "nt")
    if problem:
        print(problem, file=sys.stderr)
        return 1
    options = parse(argv)
    signal.signal(signal.SIGTERM, end_on_sigterm)
    try:
        return run_command(options)
    except Stop as stop:
        print(stop, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
