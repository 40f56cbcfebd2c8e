"""Checks that run in a process of their own: a script registers functions with `check` and ends with `run()`.

A line of JSON is printed for each: its name, how long it took, and the traceback where it failed. `FAILED` is its last word, or `DONE`.
"""

from __future__ import annotations

import json
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

SOURCES = Path(__file__).with_name("sources.py")

_checks: list[Callable[[], None]] = []


def check(function: Callable[[], None]) -> Callable[[], None]:
    """Registers it."""
    _checks.append(function)
    return function


def refused(words: Sequence[str], call: Callable[..., object], *args: Any, **options: Any) -> str:
    """Calls it; it has to raise, with all these words in the message, which is returned."""
    try:
        call(*args, **options)
    except Exception as e:
        text = f"{type(e).__name__}: {e}"
        assert all(word in text for word in words), text
        return text
    raise AssertionError(f"nothing was raised, and {words} expected")


def run(chosen: list[str]) -> None:
    """Runs those of these names, or all."""
    warnings.simplefilter("ignore")
    failed = False
    for function in _checks:
        if chosen and function.__name__ not in chosen:
            continue
        start = time.monotonic()
        error = None
        try:
            function()
        except Exception:
            error = traceback.format_exc()
            failed = True
        print(json.dumps({"check": function.__name__, "seconds": round(time.monotonic() - start, 2), "error": error}), flush=True)
    sys.stdout.write("FAILED\n" if failed else "DONE\n")
