"""``feeder-server demo``: what feeder gains on this machine, measured while you watch.

    this process ── a plan ──▶ feeder_client/demo_trainer.py, a process of its own ──▶ a private feeder-server
    bar, table   ◀─ events ──

The trainer is another process because a server knows neither Keras nor the client; TensorFlow and what it prints stay there too.
Everything drawn here is plain ASCII, but for what rich draws by itself where the output can show it.
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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TextIO

from feeder_server.config import MAX_WORKERS, usable_cores
from feeder_server.demo_source import size_for
from feeder_wire.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

EPOCHS = 2  # counted; one more comes first
THREADS = 4
SLEEP_SECONDS, COMPUTE_SECONDS = 0.1, 0.04  # of one batch
IMPORT_SECONDS, START_SECONDS = 5.0, 1.0  # guesses, for the bar only
SILENT_SECONDS = 180.0  # a cold TensorFlow takes a minute on a slow disk; after that the trainer says something ten times a second
STOP_SECONDS = 12.0  # the trainer ends its private server first, which may take 8
ROUGH = 0.2  # epochs of one fit that differ by more than this share are worth a word
DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130

INSTALL = "pip install 'keras-feeder[tensorflow]'"
NEXT = 'Your own data: model.fit(feeder_client.FeederSequence.local("file.py:Data"))'

_SOURCE = str(Path(__file__).resolve().with_name("demo_source.py"))
_PACKAGES = str(Path(__file__).resolve().parent.parent)
_BOOT = f"import sys; sys.path.append({_PACKAGES!r}); from feeder_client.demo_trainer import main; main()"
_SILENT = {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONIOENCODING": "utf-8:backslashreplace", "PYTHONUNBUFFERED": "1"}
_NO_GPU = {"CUDA_VISIBLE_DEVICES": "-1", "HIP_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"}


@dataclass(frozen=True)
class Part:
    """One source, and how it is measured. `seconds`: of one batch; `hidden`: size of the model."""

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


@dataclass
class Figures:
    """What was measured of one source: the seconds of each counted epoch, by way."""

    epochs: dict[str, list[float]] = field(default_factory=dict)

    def seconds(self, way: str) -> float:
        """Per epoch."""
        return sum(self.epochs[way]) / len(self.epochs[way])

    def speed_up(self, way: str) -> float:
        """Against plain fit."""
        return self.seconds("plain") / self.seconds(way)

    def waited(self, way: str) -> float:
        """Share of an epoch that the training waited for data, 0..1.

        By comparison, not by a clock in ``__getitem__``: Keras calls that ahead of the step and from its own threads.
        """
        return max(0.0, 1.0 - self.seconds("ready") / self.seconds(way))

    def spread(self) -> float:
        """By how much two epochs of one way differ at most, as a share of the shorter one. Those from memory are too short to count."""
        return max(max(epochs) / min(epochs) - 1.0 for way, epochs in self.epochs.items() if way != "ready")


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
        return _show(console, parts, trainer)
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
        try:
            self._process.stdin.write(json.dumps(plan).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:  # it died at once: `events` says why
            pass

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
        """What the trainer says, up to its end. An end that is no good one is an event too: ``error``."""
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
        if code not in (DONE, FAILED):  # FAILED has said why
            self._readers[1].join(2.0)
            yield {"event": "error", "text": "\n".join([*self._tail, f"the training process ended with exit code {code}"])}

    def stop(self) -> None:
        """End it, with its private server. Takes no time if it has ended by itself; may be called again."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
        except OSError:
            pass
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


def _show(console: Console, parts: Sequence[Part], trainer: Trainer) -> int:
    """Follow the trainer to its end, and print the tables. Returns the exit code."""
    ways = {part.name: part.ways() for part in parts}
    titles = {part.name: part.title for part in parts}
    figures = {part.name: Figures() for part in parts}
    total = IMPORT_SECONDS + sum(seconds for way in ways.values() for _, seconds in way.values())
    say(console, f"A small Keras model, trained from slow data in three ways; takes about {total:.0f} s. Ctrl-C stops it.")
    before = 0.0  # expected seconds of what is done
    part, now, expected = parts[0], "starting Keras", IMPORT_SECONDS
    with _progress(console) as bar:
        task = bar.add_task(now, total=total)
        for event in trainer.events():
            kind = event["event"]
            if kind in ("missing", "error"):
                bar.stop()
                return _missing(console, event["text"]) if kind == "missing" else _failed(console, now, event["text"])
            if kind == "note":
                say(console, f"  note: {event['text']}")
            elif kind == "trainer":
                say(console, f"Keras {event['keras']} on {event['backend']}, CPU only; {usable_cores()} usable cores")
                before = IMPORT_SECONDS
            elif kind == "begin":
                part = next(p for p in parts if p.name == event["source"])
                label, expected = ways[part.name][event["way"]]
                now = f"{part.name}: {label}"
                if event["way"] == "ready":
                    say(console, f"\n{part.title}", style="bold")
                bar.update(task, description=now, completed=before)
            elif kind == "step":
                done = (event["epoch"] + event["batches"] / part.args["batches"]) / (EPOCHS + 1)
                bar.update(task, completed=before + done * expected)
            elif kind == "result":
                figures[part.name].epochs[event["way"]] = event["epochs"]
                before += expected
                bar.update(task, completed=before)
                say(console, f"  {_result(ways[part.name][event['way']][0], event)}")
    for name, found in figures.items():
        console.print()
        console.print(table(titles[name], {way: label for way, (label, _) in ways[name].items()}, found))
    say(console, "waited = 1 - (epoch from ready batches / epoch). First epochs are not counted.")
    spread = max(found.spread() for found in figures.values())
    if spread > ROUGH:
        say(console, f"Epochs of one fit differ by up to {spread:.0%}: this machine is busy otherwise, and the figures are rough.")
    say(console, f"\n{NEXT}", style="bold")
    return DONE


def _result(label: str, event: Mapping[str, Any]) -> str:
    text = f"{label:<26} " + " and ".join(f"{seconds:.2f}" for seconds in event["epochs"]) + " s"
    return text + (f" (first batch {event['started_seconds']:.1f} s after the start)" if event["started_seconds"] else "")


def _missing(console: Console, why: str) -> int:
    say(console, f"The demo trains a Keras model, and Keras can't be imported here ({why.strip()}).\nInstall it:  {INSTALL}")
    return USAGE


def _failed(console: Console, now: str, why: str) -> int:
    say(console, f"{why.rstrip()}\nThe demo failed ({now}).")
    return FAILED


def _progress(console: Console) -> Progress:
    """A bar on a terminal; nothing but the lines printed meanwhile elsewhere."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
    from rich.table import Column

    live = console.is_terminal and not console.is_dumb_terminal
    # "crop": what doesn't fit would get an ellipsis otherwise, which is not ASCII.
    name = TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="crop"))
    return Progress(name, BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), console=console, transient=True, disable=not live)


def table(title: str, labels: Mapping[str, str], figures: Figures) -> Table:
    """The figures of one source; the last row is what the model alone needs."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    drawn = Table(title=title, title_justify="left", box=SIMPLE_HEAD, title_style="bold", show_edge=False, pad_edge=False)
    drawn.add_column("", min_width=26, overflow="fold")
    for name in ("s per epoch", "speed-up", "waited for data"):
        drawn.add_column(name, justify="right", overflow="fold")
    for way in ("plain", "threads", "feeder"):
        row = f"{figures.seconds(way):.2f}", f"{figures.speed_up(way):.1f} x", f"{figures.waited(way):.0%}"
        drawn.add_row(labels[way], *row, style="bold green" if way == "feeder" else "")
    drawn.add_row(labels["ready"], f"{figures.seconds('ready'):.2f}", "", "", style="dim")
    return drawn


def say(console: Console, text: str, style: str = "") -> None:
    """Print as it stands, whatever the output can show: no markup, no wrapping, and no character that it doesn't have."""
    encoding = console.encoding
    shown = text.encode(encoding, "backslashreplace").decode(encoding)
    console.print(shown, style=style, markup=False, highlight=False, soft_wrap=True)
