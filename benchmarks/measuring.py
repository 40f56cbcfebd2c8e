"""One measurement, one fresh process, with a limit of time; and the order in which they take turns.

    measure("benchmarks.compare:rate_of", {"peer": "grain"}, 60.0)
        └─▶ python -c "... main()" benchmarks.compare:rate_of '{"peer": "grain"}'
              └─▶ on its output, among whatever a library prints:  BENCHMARK {"figures": {"rate": 38.5}}

What can't be measured is `Outcome.why`: a package that isn't installed, an exception, a process that died, the limit of time. A program
that measures goes on with the rest.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from feeder_wire.directories import parents, sweep

ROOT = Path(__file__).resolve().parents[1]
SOURCES = Path(__file__).with_name("sources.py")
BASE_CLASS = f"{Path(__file__).with_name('base_class.py')}:Labelled"
GRACE_SECONDS = 1.5
_MARK = "BENCHMARK "
# Not -m: this module would be there twice, with two kinds of `AbsentError`; and what spawns processes imports `__main__` again.
_BOOT = "import sys; from benchmarks.measuring import main; main(*sys.argv[1:])"
_HUSH = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1", "PYTHONWARNINGS": "ignore"}  # of peers that talk a lot

T = TypeVar("T")


class AbsentError(Exception):
    """This can't be measured here; the message says why."""


@dataclass(frozen=True)
class Outcome:
    """What one measurement gave: its figures, or why there are none."""

    figures: Mapping[str, float] = field(default_factory=dict)
    why: str = ""

    def get(self, name: str) -> float | None:
        """A figure, if it is there."""
        return self.figures.get(name)


def measure(function: str, arguments: Mapping[str, Any], limit_seconds: float, env: Mapping[str, str | None] | None = None) -> Outcome:
    """What `function` (``module:name``) gives in a process of its own. Everything that it started is gone afterwards.

    It sees no GPU, unless `env` says so: its variables are set besides, or taken away where they are None.
    """
    command = [sys.executable, "-c", _BOOT, function, json.dumps(arguments)]
    apart: dict[str, Any] = {} if sys.platform == "win32" else {"start_new_session": True}
    variables = {name: text for name, text in {**os.environ, **_HUSH, **(env or {})}.items() if text is not None}
    # Into files: a grandchild that lives on would hold a pipe open, and reading it would wait for that.
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(command, cwd=ROOT, env=variables, stdin=subprocess.DEVNULL, stdout=out, stderr=err, **apart)
        try:
            code = process.wait(limit_seconds)
        except subprocess.TimeoutExpired:
            return Outcome(why=f"still not done after {limit_seconds:g} s")
        finally:
            _end(process)
            sweep(parents())  # of what was killed on purpose, or ran too long, memory may be left
        found = [line[len(_MARK) :] for line in _text(out) if line.startswith(_MARK)]
        if found:
            said = json.loads(found[-1])
            return Outcome(said.get("figures", {}), said.get("why", ""))
        last = [line for line in _text(err) if line.strip()][-1:]
        return Outcome(why=f"ended with exit code {code}{': ' if last else ''}{''.join(last)[:200]}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """The process and those that it left behind."""
    if sys.platform == "win32":  # no groups of processes there; who has ended has no children any more, as far as can be told
        import psutil

        family = []
        with suppress(psutil.Error):
            family = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        for child in family:
            with suppress(psutil.Error):
                child.kill()
        process.wait()
        return
    with suppress(ProcessLookupError, PermissionError):
        if process.poll() is not None:
            # Python's resource tracker removes shared memory of the dead, and ends by itself. What hangs is not waited for.
            deadline = time.monotonic() + GRACE_SECONDS
            while time.monotonic() < deadline:
                os.killpg(process.pid, 0)
                time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)  # it leads a group of its own
    process.wait()


def _text(file: Any) -> list[str]:
    file.seek(0)
    return str(file.read().decode("utf-8", "replace")).splitlines()


@contextmanager
def served(*arguments: str, workers: int) -> Iterator[str]:
    """A server of its own, without keys, on a free port of loopback; gives its endpoint."""
    with server(*arguments, workers=workers) as (endpoint, _):
        yield endpoint


@contextmanager
def server(*arguments: str, workers: int) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The same, with its process."""
    command = [sys.executable, "-m", "feeder_server.cli", "serve", *arguments, "-b", "tcp://127.0.0.1:0", "-w", str(workers)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise RuntimeError(f"the server did not start: {' '.join(command)}")
            yield line.split()[-1], process
        finally:
            process.terminate()


def rotated(titles: Mapping[str, str], rounds: int, one: Callable[[str], T], say: Callable[[str], None]) -> dict[str, list[T]]:
    """All rounds. The order is rotated, so that nobody always comes first, or after the same neighbour's heat."""
    names = list(titles)
    results: dict[str, list[T]] = {name: [] for name in names}
    for number in range(rounds):
        turn = number * len(names) // rounds
        for name in names[turn:] + names[:turn]:
            say(f"round {number + 1} of {rounds}: {titles[name]}")
            results[name].append(one(name))
    return results


def tell(text: str) -> None:
    """Where the run is."""
    print(text, file=sys.stderr, flush=True)


def at_least_one(text: str) -> int:
    """For argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("is above 0")
    return value


def above_zero(text: str) -> float:
    """For argparse."""
    value = float(text)
    if value <= 0:
        raise argparse.ArgumentTypeError("is above 0")
    return value


def main(function: str, arguments: str) -> None:
    """In the process of its own."""
    module, _, name = function.partition(":")
    said: dict[str, Any]
    try:
        figures = getattr(importlib.import_module(module), name)(**json.loads(arguments))
        said = {"figures": figures}
    except AbsentError as e:
        said = {"why": str(e)}
    except Exception as e:
        first = str(e).strip().partition("\n")[0]
        said = {"why": f"{type(e).__name__}: {first}"[:300]}
        import traceback

        traceback.print_exc()
    print(f"\n{_MARK}{json.dumps(said)}", flush=True)
    os._exit(0)  # what a peer's threads and processes still do at the end of an interpreter is not measured
