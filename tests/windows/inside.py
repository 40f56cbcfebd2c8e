"""Runs in the Windows python.exe: pytest over the tests of a checkout, with the feeder that is installed. See `run.py`.

Usage: python.exe inside.py ROOT RESULT [pytest's arguments...]; counts and versions are written to the file RESULT.
"""

from __future__ import annotations

import io
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

import pytest


class Result:
    """Counts outcomes as pytest's own last line does, and writes them down. Shows a failure at once: a run takes long."""

    def __init__(self, path: str) -> None:
        self._path = path

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test has come to its end, in this process or another."""
        if report.failed:
            print(f"\n{report.outcome} at {report.when}: {report.nodeid}\n{report.longreprtext}\n", flush=True)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """pytest is done."""
        names = ("passed", "failed", "error", "skipped", "xfailed", "xpassed")
        counts = {name: len(terminalreporter.stats.get(name, ())) for name in names}
        python = f"{platform.python_implementation()} {platform.python_version()}"
        Path(self._path).write_text(json.dumps({"windows": platform.platform(), "python": python, **counts}), encoding="utf-8")


def main() -> int:
    """Entry point."""
    root, result, *arguments = sys.argv[1:]
    # Of this process alone: with the variable, children would not print in cp1252 as they do on a user's machine.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8")
    del sys.path[0]  # the folder of this file
    # Behind site-packages: the tests come from the checkout, the packages from the wheel.
    sys.path.append(root)
    os.chdir(root)
    import feeder_wire

    if Path(root) in Path(feeder_wire.__file__).parents:
        raise SystemExit(f"feeder is not installed: found {feeder_wire.__file__}")
    return int(
        pytest.main(["-o", "pythonpath=", "-p", "no:cacheprovider", "-p", "tests.windows.plugin", *arguments], plugins=[Result(result)])
    )


if __name__ == "__main__":
    sys.exit(main())
