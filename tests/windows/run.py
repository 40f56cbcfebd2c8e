"""`python dev.py test-windows`: the test suite in a Windows python.exe under Wine, with feeder installed there from its own wheel.

Arguments go to pytest, which runs all tests without them. Exit codes are pytest's, and `SKIPPED` where there is no Wine or no Windows
Python, and none can be had.

    python dev.py test-windows                                 everything
    python dev.py test-windows tests/wire/test_arena.py -x     some of it
    python dev.py test-windows --minutes 25 ...                fail if it isn't done by then; otherwise `MINUTES`
    python dev.py test-windows --all ...                       also what is left out to save time, see not_under_wine.py
    python dev.py test-windows --start                         measure how long processes take to start there
    python dev.py test-windows --keras [STACK...]              no tests but `question.py`, with the stacks of `stacks.py`

Temporary files lie in a folder with a blank and an umlaut in its name, and so does Python: names of users are like that.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.windows.plugin import ALL
from tests.windows.question import ask_all
from tests.windows.setup import build_wheel, need_wine, set_up
from tests.windows.wine import ROOT, SetupFailed, Unavailable, Wine, cache_folder, windows_path

SKIPPED = 77  # as for automake
FAILED = 1
INTERRUPTED = 130
NO_TESTS = 5  # pytest's
MINUTES = 60.0  # for all of it; on two idle cores a third of that
TEST_SECONDS = 300
PROCESSES = 2
FILES = 3  # of tests with many sockets, in one part
OUTCOMES = ("failed", "error", "passed", "skipped", "xfailed", "xpassed")


class OutOfTime(Exception):
    """It takes too long."""


def say(text: str) -> None:
    """Prints a line of this program's own."""
    print(f"test-windows: {text}", flush=True)


def groups(root: Path) -> list[list[str]]:
    """Returns the paths of the whole suite, in parts that run one after the other, each under a Wine server of its own.

    Wine's server keeps sockets of ZeroMQ's after their process has closed them, and turns in circles over those with something unread:
    after some hundred clients it takes a core for itself, and everything becomes slow. So files that open many are spread over parts.
    Not each for itself, for every part starts with some fifteen seconds of imports.
    """
    tests = root / "tests"
    files = [f"tests/{name}/{path.name}" for name in ("system", "transport") for path in sorted((tests / name).glob("test_*.py"))]
    crowded = [files[i : i + FILES] for i in range(0, len(files), FILES)]
    units = [[f"tests/{name}" for name in ("wire", "client", "server")]]
    known = {"system", "transport", "wire", "client", "server"}
    rest = [f"tests/{path.name}" for path in sorted(tests.iterdir()) if path.name.startswith("test_")]
    rest += [f"tests/{path.name}" for path in sorted(tests.iterdir()) if path.name not in known and any(path.glob("test_*.py"))]
    return [*crowded, *units, rest]


def pytest_arguments(given: Sequence[str], temporary: Path, cores: int) -> list[str]:
    """Returns the arguments for pytest: those given, and where temporary files go."""
    chosen = any(a.startswith("-n") or "::" in a for a in given)
    # Several processes: where one hangs, pytest-timeout can only end it on Windows, and the others go on.
    spread = [] if chosen else ["-n", str(min(cores, PROCESSES)), "--dist", "worksteal", "--max-worker-restart", "20"]
    return ["--tb=short", "--basetemp", windows_path(temporary / "t"), "-o", f"timeout={TEST_SECONDS}", *spread, *given]


def summary(results: Sequence[Mapping[str, Any]], seconds: float) -> str:
    """Returns the closing line: counts, the version of Windows, minutes."""
    sums = {name: sum(int(result.get(name, 0)) for result in results) for name in OUTCOMES}
    counts = ", ".join(f"{number} {name}" for name, number in sums.items() if number)
    return f"{counts or 'no tests'} in {seconds / 60:.1f} min on {results[0]['windows']} (Wine), {results[0]['python']}"


def paths_in(arguments: Sequence[str]) -> bool:
    """Whether some tests were named, and not only options given."""
    return any(a.startswith("tests") for a in arguments)


def run_tests(wine: Wine, arguments: Sequence[str], temporary: Path) -> int:
    """Runs pytest there, shows what it prints, and returns the first exit code that isn't 0."""
    started = time.monotonic()
    to_do = [list(arguments)] if paths_in(arguments) else [[*arguments, *paths] for paths in groups(ROOT)]
    parts = len(to_do)
    results: list[dict[str, Any]] = []
    worst = 0
    try:
        while to_do:
            say(f"pytest {' '.join(to_do[0])}")
            code, result = run_part(wine, to_do[0], temporary)
            if result is None:
                say(f"pytest did not come to its end: exit code {code}")
            else:
                results.append(result)
            # No tests in a part: that is as it should be with -k.
            worst = worst or (0 if code == NO_TESTS and parts > 1 else code)
            del to_do[0]
    except OutOfTime as e:
        raise OutOfTime(f"{e} Not done: {'; '.join(' '.join(part) for part in to_do)}") from None
    finally:
        if results:
            say(summary(results, time.monotonic() - started))
    return worst


def run_part(wine: Wine, arguments: Sequence[str], temporary: Path) -> tuple[int, dict[str, Any] | None]:
    """Runs pytest once. Returns its exit code, never 0 if it didn't come to its end, and what `inside.py` found."""
    written = temporary / "result.json"
    written.unlink(missing_ok=True)
    command = ["-u", windows_path(Path(__file__).with_name("inside.py")), windows_path(ROOT), windows_path(written)]
    command += pytest_arguments([a for a in arguments if a != "--all"], temporary, os.cpu_count() or 1)
    env = {
        "HYPOTHESIS_STORAGE_DIRECTORY": windows_path(temporary / "hypothesis"),
        "FEEDER_TEST_PATIENCE": "3",
        ALL: "1" if "--all" in arguments else "",
    }
    with wine.serving():
        code, _ = wine.run(*command, seconds=24 * 3600.0, show=_show, env=env)
    if not written.exists():
        return code or FAILED, None
    return code, json.loads(written.read_text(encoding="utf-8"))


def _show(data: bytes) -> None:
    sys.stdout.buffer.write(data.replace(b"\r\n", b"\n"))
    sys.stdout.buffer.flush()


def everything(arguments: Sequence[str], temporary: Path) -> int:
    """Sets up what is missing, installs feeder there, and runs what was asked for. Returns the exit code."""
    wine = Wine(cache_folder())
    need_wine(say)
    with wine.alone(say):
        set_up(wine, say)
        wheel = build_wheel(temporary / "wheel")
        if list(arguments[:1]) == ["--keras"]:
            return ask_all(wine.home, wheel, arguments[1:], temporary, say)
        with wine.serving():
            say(f"installing {wheel.name}")
            wine.pip("install", "--no-deps", "--no-index", "--force-reinstall", windows_path(wheel))
            # Behind all that is installed: workers find `tests`, which some sources import, and feeder where it was installed.
            (wine.python.parent / "Lib" / "site-packages" / "checkout.pth").write_text(windows_path(ROOT) + "\n", encoding="utf-8")
            if list(arguments[:1]) == ["--start"]:
                return wine.run("-u", windows_path(Path(__file__).with_name("start.py")), seconds=1200, show=_show)[0]
        return run_tests(wine, arguments, temporary)


def main(arguments: Sequence[str]) -> int:
    """Entry point. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="test-windows", usage=__doc__, add_help=False, allow_abbrev=False)
    parser.add_argument("--minutes", type=float, default=MINUTES)
    options, arguments = parser.parse_known_args(arguments)
    temporary = Path(tempfile.mkdtemp(prefix="feeder Größe "))
    try:
        with time_limit(options.minutes):
            return everything(arguments, temporary)
    except OutOfTime as e:
        say(f"FAILED: {e}")
        return FAILED
    except Unavailable as e:
        say(f"SKIPPED, NOTHING WAS TESTED ON WINDOWS: {e}")
        return SKIPPED
    except SetupFailed as e:
        say(f"the set-up failed: {e}")
        return FAILED
    except KeyboardInterrupt:
        say("interrupted")
        return INTERRUPTED
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def time_limit(minutes: float) -> Iterator[None]:
    """Raises OutOfTime in what it is around, wherever that is, after that many minutes."""

    def strike(signum: int, frame: object) -> None:
        raise OutOfTime(f"it is not done within {minutes:g} minutes.")

    if sys.platform == "win32":  # where only the tests of this file run it, and they are quick
        yield
        return
    before = signal.signal(signal.SIGALRM, strike)
    signal.setitimer(signal.ITIMER_REAL, minutes * 60)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _end_on_sigterm(signum: int, frame: object) -> None:
    raise SystemExit(128 + signum)  # and not at once: Wine's server has to be ended


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end_on_sigterm)
    sys.exit(main(sys.argv[1:]))
