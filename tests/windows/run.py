"""`python dev.py test-windows`: the test suite in a Windows python.exe under Wine, with feeder installed there from its own wheel.

Arguments go to pytest, which runs all tests without them. Exit codes are pytest's, and `SKIPPED` where there is no Wine and none
can be installed.

    python dev.py test-windows                                 everything
    python dev.py test-windows tests/wire/test_arena.py -x     some of it
    python dev.py test-windows --start                         measure how long processes take to start there

Temporary files lie in a folder with a blank and an umlaut in its name, and so does Python: names of users are like that.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.windows.wine import ROOT, SetupFailed, Unavailable, Wine, build_wheel, cache_folder, need_wine, windows_path

SKIPPED = 77  # as for automake
FAILED = 1
INTERRUPTED = 130
SECONDS = 45 * 60.0  # for all tests; on two idle cores they take a quarter of that
TEST_SECONDS = 300
PROCESSES = 2
OUTCOMES = ("failed", "error", "passed", "skipped", "xfailed", "xpassed")


def say(text: str) -> None:
    """Prints a line of this program's own."""
    print(f"test-windows: {text}", flush=True)


def pytest_arguments(given: Sequence[str], temporary: Path, cores: int) -> list[str]:
    """Returns the arguments for pytest: those given, with paths that Windows understands, and where temporary files go."""
    chosen = any(a.startswith("-n") or "::" in a for a in given)
    # Several processes: where one hangs, pytest-timeout can only end it on Windows, and the others go on.
    spread = [] if chosen else ["-n", str(min(cores, PROCESSES)), "--dist", "worksteal", "--max-worker-restart", "20"]
    return ["--tb=short", "--durations=20", "--basetemp", windows_path(temporary / "t"), "-o", f"timeout={TEST_SECONDS}", *spread, *given]


def summary(result: Mapping[str, object], seconds: float) -> str:
    """Returns the closing line: counts, the version of Windows, minutes."""
    counts = ", ".join(f"{result[name]} {name}" for name in OUTCOMES if result.get(name))
    return f"{counts or 'no tests'} in {seconds / 60:.1f} min on {result['windows']} (Wine), {result['python']}"


def run_tests(wine: Wine, arguments: Sequence[str], temporary: Path) -> int:
    """Runs pytest there, shows what it prints, and returns its exit code."""
    result = temporary / "result.json"
    command = ["-u", windows_path(Path(__file__).with_name("inside.py")), windows_path(ROOT), windows_path(result)]
    command += pytest_arguments(arguments, temporary, os.cpu_count() or 1)
    started = time.monotonic()
    code, _ = wine.run(
        *command,
        seconds=SECONDS,
        show=_show,
        HYPOTHESIS_STORAGE_DIRECTORY=windows_path(temporary / "hypothesis"),
        FEEDER_TEST_PATIENCE="3",
    )
    if result.exists():
        say(summary(json.loads(result.read_text(encoding="utf-8")), time.monotonic() - started))
        return code
    say(f"pytest did not come to its end: exit code {code} after {time.monotonic() - started:.0f} s")
    return code or FAILED


def _show(data: bytes) -> None:
    sys.stdout.buffer.write(data.replace(b"\r\n", b"\n"))
    sys.stdout.buffer.flush()


def main(arguments: Sequence[str]) -> int:
    """Entry point. Returns the exit code."""
    wine = Wine(cache_folder())
    temporary = Path(tempfile.mkdtemp(prefix="feeder Größe "))
    try:
        need_wine(say)
        wine.set_up(say)
        wheel = build_wheel(temporary / "wheel")
        with wine.serving():
            say(f"installing {wheel.name}")
            wine.pip("install", "--no-deps", "--no-index", "--force-reinstall", windows_path(wheel))
            if list(arguments[:1]) == ["--start"]:
                return wine.run(windows_path(Path(__file__).with_name("start.py")), seconds=600, show=_show)[0]
            return run_tests(wine, arguments, temporary)
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
