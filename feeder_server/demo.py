"""``feeder-server demo``: what feeder gains on this machine, measured while you watch.

    this process ── a plan ──▶ feeder_client/demo_trainer.py, a process of its own ──▶ a private feeder-server
    bar, table   ◀─ events ──

The trainer is another process because a server knows neither Keras nor the client; TensorFlow and what it prints stay there too.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TextIO

from feeder_server.config import MAX_WORKERS
from feeder_server.cores import usable_cores
from feeder_server.demo_figures import ROUGH, Figures, progress, say, table
from feeder_server.demo_source import size_for
from feeder_wire.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

EPOCHS = 2  # counted; one more comes first
THREADS = 4
SLEEP_SECONDS, COMPUTE_SECONDS = 0.1, 0.04  # of one batch
IMPORT_SECONDS, START_SECONDS = 5.0, 1.0  # guesses, for the bar only
SILENT_SECONDS = 180.0  # a cold TensorFlow takes a minute on a slow disk; after that the trainer says something ten times a second
STOP_SECONDS = 12.0  # the trainer ends its private server first, which may take 8
DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130

INSTALL = 'pip install "keras-feeder[tensorflow]"'  # double quotes: cmd knows no others
NEXT = 'Your own data: model.fit(feeder_client.FeederSequence.local("file.py:Data"))'

_SOURCE = str(Path(__file__).resolve().with_name("demo_source.py"))
_PACKAGES = str(Path(__file__).resolve().parent.parent)
_BOOT = f"import sys; sys.path.append({_PACKAGES!r}); from feeder_client.demo_trainer import main; main()"
_SILENT = {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONIOENCODING": "utf-8:backslashreplace", "PYTHONUNBUFFERED": "1"}
_NO_GPU = {"CUDA_VISIBLE_DEVICES": "-1", "HIP_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"}


@dataclass(frozen=True)
class Part:
    """One source, and how it is measured. `seconds`: of one batch; `hidden`: size of the model at most."""

    name: str
    title: str
    attr: str
    args: Mapping[str, Any]
    hidden: int
    seconds: float
    at_once: int  # batches that `threads` threads get done in the time of one
    threads: int
    workers: int
    file: str = _SOURCE

    def ways(self) -> dict[str, tuple[str, float]]:
        """Way -> what it is called, and the seconds that its fit may take (for the bar only)."""
        alone = self.args["batches"] * (EPOCHS + 1) * self.seconds
        return {
            "ready": ("batches ready in memory", 1.0 + 0.1 * alone),
            "plain": ("plain model.fit", alone),
            "threads": (f"Keras' threads (workers={self.threads})", alone / self.at_once),
            "feeder": (f"feeder, {self.workers} worker{'s' * (self.workers > 1)}", START_SECONDS + alone / self.workers),
        }


def run(workers: int | None = None, quick: bool = False, out: TextIO | Console | None = None) -> int:
    """Measure, and show it.

    Args:
        workers: of feeder, and threads of Keras; None: 4 where batches sleep, as many as usable cores (and 4 threads) where they compute.
        quick: about a third of the time, with rougher figures.
        out: where to; None: stdout.

    Returns:
        The exit code: 0, 1 (a measurement failed; it is said why), 2 (no Keras here), 130 (Ctrl-C).

    Raises:
        ConfigError: no such number of workers.
    """
    from rich.console import Console

    if workers is not None and not 1 <= workers <= MAX_WORKERS:
        raise ConfigError(f"--workers {workers}: a whole number from 1 to {MAX_WORKERS} is needed")
    console = out if isinstance(out, Console) else Console(file=out, highlight=False)
    parts = plan(workers, quick, usable_cores())
    trainer = Trainer({"epochs": EPOCHS, "parts": [asdict(part) for part in parts]})
    try:
        return Show(console, parts).follow(trainer.events())
    except KeyboardInterrupt:
        say(console, "Interrupted.")
        return INTERRUPTED
    finally:
        trainer.stop()


def plan(workers: int | None, quick: bool, cores: int) -> list[Part]:
    """What is measured."""
    # An epoch is several times as long as feeder's window: what was made before the counted epochs must not show in them.
    short, long = (24, 24) if quick else (48, 100)
    waiting, threads = workers or THREADS, workers or THREADS
    return [
        Part(
            "sleeping",
            f"Batches that wait {SLEEP_SECONDS * 1000:.0f} ms each, as for a disk or network; {short} per epoch",
            "Sleeping",
            {"batches": short, "seconds": SLEEP_SECONDS},
            # While batches sleep the cores are free, so the model may take its time, as a real one does.
            hidden=2048,
            seconds=SLEEP_SECONDS,
            at_once=threads,
            threads=threads,
            workers=waiting,
        ),
        Part(
            "computing",
            f"Batches of about {COMPUTE_SECONDS * 1000:.0f} ms of pure Python; {long} per epoch",
            "Augmented",
            {"batches": long, "size": size_for(COMPUTE_SECONDS)},
            hidden=32,
            seconds=COMPUTE_SECONDS,
            at_once=1,  # the GIL
            threads=threads,
            workers=workers or cores,
        ),
    ]


class Trainer:
    """The trainer's process. What it says is read by threads: on Windows a pipe can't be waited for with a time-out."""

    def __init__(self, plan: Mapping[str, Any]) -> None:
        flags: dict[str, Any] = {}
        # Ctrl-C in the terminal is ours; the trainer hears of it through its stdin pipe, and ends its own server then.
        if sys.platform == "win32":
            flags["creationflags"] = subprocess.CREATE_NEW_PROCESS_GROUP
        else:
            flags["start_new_session"] = True
        pipe = subprocess.PIPE
        env = {**os.environ, **_SILENT, **_NO_GPU}
        self._process = subprocess.Popen(trainer_command(), stdin=pipe, stdout=pipe, stderr=pipe, env=env, **flags)
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._tail: deque[str] = deque(maxlen=40)
        self._readers = [
            threading.Thread(target=self._listen, args=(self._process.stdout,), name="demo-events", daemon=True),
            threading.Thread(target=self._keep, args=(self._process.stderr,), name="demo-stderr", daemon=True),
        ]
        for reader in self._readers:
            reader.start()
        assert self._process.stdin is not None
        with suppress(OSError):  # it died at once: `events` says why
            self._process.stdin.write(json.dumps(plan).encode() + b"\n")
            self._process.stdin.flush()

    def _listen(self, pipe: IO[bytes]) -> None:
        with pipe:
            for line in pipe:
                self._lines.put(line)
        self._lines.put(b"")

    def _keep(self, pipe: IO[bytes]) -> None:
        # TensorFlow's chatter as a rule; it is shown only if the trainer dies without a word.
        with pipe:
            for line in pipe:
                self._tail.append(line.decode("utf-8", "replace").rstrip())

    def events(self) -> Iterator[dict[str, Any]]:
        """What the trainer says, up to its end. An end that it has not explained by then is an event too: ``error``."""
        heard = time.monotonic()
        while True:
            try:
                # Short waits: on Windows a wait without an end can't be interrupted by Ctrl-C.
                line = self._lines.get(timeout=0.2)
            except queue.Empty:
                if time.monotonic() - heard > SILENT_SECONDS:
                    yield {"event": "error", "text": f"the training process has said nothing for {SILENT_SECONDS:.0f} s"}
                    return
                continue
            if not line:
                break
            heard = time.monotonic()
            yield json.loads(line)
        code = self._process.wait()
        if code != DONE:
            self._readers[1].join(2.0)
            yield {"event": "error", "text": "\n".join([*self._tail, f"the training process ended with exit code {code}"])}

    def stop(self) -> None:
        """End it, with its private server. Takes no time if it has ended by itself; may be called again."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(STOP_SECONDS)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):  # a second Ctrl-C means it
            self._process.kill()
            self._process.wait()
        for reader in self._readers:
            reader.join(2.0)


def trainer_command() -> list[str]:
    """How the trainer is started, with the Python that runs this."""
    return [sys.executable, "-c", _BOOT]


class Show:
    """Follows the trainer: a bar and lines while it measures, tables at the end."""

    def __init__(self, console: Console, parts: Sequence[Part]) -> None:
        self._console = console
        self._parts = {part.name: part for part in parts}
        self._ways = {part.name: part.ways() for part in parts}
        self._figures = {part.name: Figures() for part in parts}
        self._total = IMPORT_SECONDS + sum(seconds for ways in self._ways.values() for _, seconds in ways.values())
        self._now = "starting Keras"
        self._before = 0.0  # expected seconds of what is done
        self._expected = IMPORT_SECONDS  # and of what is under way

    def follow(self, events: Iterable[Mapping[str, Any]]) -> int:
        """Show events up to the last one. Returns the exit code."""
        say(self._console, f"Training a small Keras model from slow data in three ways: about {self._total:.0f} s.")
        with progress(self._console) as bar:
            task = bar.add_task(self._now, total=self._total)
            for event in events:
                if event["event"] in ("missing", "error"):
                    bar.stop()
                    return self._missing(event["text"]) if event["event"] == "missing" else self._failed(event["text"])
                done = self._take(event)
                bar.update(task, description=self._now, completed=self._before + done * self._expected)
        self._print_tables()
        return DONE

    def _take(self, event: Mapping[str, Any]) -> float:
        """Take one event in. Returns how much is done of what is under way, 0..1."""
        kind = event["event"]
        if kind == "note":
            say(self._console, f"  note: {event['text']}")
        elif kind == "trainer":
            say(self._console, f"Keras {event['keras']} on {event['backend']}, CPU only; {usable_cores()} usable cores")
            self._before, self._expected = IMPORT_SECONDS, 0.0
        elif kind == "begin":
            label, self._expected = self._ways[event["source"]][event["way"]]
            self._now = f"{event['source']}: {label}"
            if event["way"] == "ready":
                say(self._console, f"\n{self._parts[event['source']].title}", style="bold")
        elif kind == "step":
            return float(event["done"]) / (EPOCHS + 1)
        elif kind == "result":
            self._figures[event["source"]].epochs[event["way"]] = event["epochs"]
            self._before, self._expected = self._before + self._expected, 0.0
            say(self._console, f"  {_result(self._ways[event['source']][event['way']][0], event)}")
        return 0.0

    def _print_tables(self) -> None:
        for name, figures in self._figures.items():
            labels = {way: label for way, (label, _) in self._ways[name].items()}
            self._console.print()
            self._console.print(table(self._parts[name].title, labels, figures))
        say(self._console, "\nwaited = 1 - (epoch from ready batches / epoch). First epochs are not counted.")
        spread = max(figures.spread() for figures in self._figures.values())
        if spread > ROUGH:
            say(self._console, f"Epochs of one fit differ by up to {spread:.0%}: a busy machine, rough figures.")
        say(self._console, f"\n{NEXT}", style="bold")

    def _missing(self, why: str) -> int:
        say(self._console, f"The demo trains a Keras model, and Keras can't be imported here:\n  {why.strip()}\nInstall it:  {INSTALL}")
        return USAGE

    def _failed(self, why: str) -> int:
        say(self._console, f"{why.rstrip()}\nThe demo failed ({self._now}).")
        return FAILED


def _result(label: str, event: Mapping[str, Any]) -> str:
    text = f"{label:<26} " + " and ".join(f"{seconds:.2f}" for seconds in event["epochs"]) + " s"
    return text + (f" (first batch after {event['started_seconds']:.1f} s)" if event["started_seconds"] else "")
