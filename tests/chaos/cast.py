"""The processes of a chaos run: nodes on fixed ports, which come and go, and trainers, which are read through their journals."""

from __future__ import annotations

import importlib
import json
import os
import random
import signal
import socket
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.books import Book
from tests.chaos.plan import TrainerPlan, World
from tests.chaos.reference import SOURCES as SOURCE_FILE
from tests.chaos.reference import Reference
from tests.proxy import Proxy
from tests.serving import ON_WINDOWS, Running, Serving, workers_of

ROOT = Path(__file__).resolve().parents[2]
READY = "feeder-server ready at"
BATCH_TIMEOUT = 4  # seconds that a worker may take for a batch
STEP_SECONDS = {"large": 0.03}  # of a training; this process makes each batch too, and must not be the slowest
PRIVATE_WORKERS = 2
DEFAULT_STEP_SECONDS = 0.004
PORTION_BYTES = 8192  # of a journal that is read at a time, so that faults come between batches also where there is much to read
SERVED: dict[str, tuple[str, dict[str, object]]] = {
    "shuffled": ("Shuffled", {"n": 40, "rows": 8}),  # travels inside of messages
    "large": ("Shuffled", {"n": 12, "rows": 52_000}),  # 2 MB
    "sharded": ("sharded", {"n": 45, "rows": 2000}),  # 80 kB
    "flawed": ("Flawed", {"n": 40, "rows": 100}),
}
psutil: Any = importlib.import_module("psutil")
ENV = {"PYTHONFAULTHANDLER": "1", "PYTHONPATH": str(ROOT)}  # so that SIGABRT shows where each thread is


def quiet_port(rng: random.Random) -> int:
    """A free port below those that systems give to connections: while its node is down, nobody else must get it."""
    while True:
        port = rng.randrange(15_000, 30_000)
        with socket.socket() as s:
            if not ON_WINDOWS:  # there it would let two have one port
                s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                s.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def pause(pid: int, on: bool) -> None:
    """Stops or continues a process, where there are such signals."""
    if sys.platform != "win32":
        os.kill(pid, signal.SIGSTOP if on else signal.SIGCONT)


class Node:
    """A node, with its port, and a folder for orders to its workers."""

    def __init__(self, number: int, folder: Path, world: World, sabotage: str) -> None:
        self.number, self.workers = number, world.workers[number]
        self.folder = folder / f"node-{number}"
        self.orders = self.folder / "orders"
        self.orders.mkdir(parents=True)
        self.endpoint = f"tcp://127.0.0.1:{quiet_port(random.Random())}"
        self.wanted = False  # whether it is meant to run
        self.stopped = False
        self.starts = 0
        self.swept = True  # no folder of one that was killed is left
        self.running: Serving | None = None
        self._ordered = 0
        self._arguments: list[str] = []
        for name, (attr, args) in SERVED.items():
            self._arguments.append(f"{name}={SOURCE_FILE}:{attr}")
            for key, value in {**args, "orders": str(self.orders)}.items():
                self._arguments += ["-a", f"{name}.{key}={json.dumps(value)}"]
        self._arguments += ["--workers", str(self.workers), "--bind", self.endpoint, "--max-retries", "40"]
        self._arguments += ["--seed", str(world.seed + (sabotage == "seed"))]
        self._arguments += ["--memory", world.node_memory, "--batch-timeout", str(BATCH_TIMEOUT)]
        self._arguments += ["--stream-order", "fixed"] if world.fixed else []

    def __str__(self) -> str:
        return f"node {self.number}"

    def start(self) -> None:
        """Start it; it is there when `up`."""
        self.wanted, self.stopped = True, False
        self.starts += 1
        self.running = Serving(self.folder, *self._arguments, env=ENV)

    @property
    def up(self) -> bool:
        """Whether it serves, or at least listens."""
        return self.wanted and not self.stopped and self.running is not None and READY in self.running.stdout

    @property
    def failed(self) -> bool:
        """Whether it has ended, and nobody wanted it to."""
        return self.wanted and self.running is not None and self.running.popen.poll() is not None

    def end(self, name: str) -> None:
        """Ends it by a signal, and waits until it has gone."""
        assert self.running is not None
        self.wanted = False
        if self.stopped:
            self.pause(False)
        self.running.signal(name)
        self.running.wait(60)

    def pause(self, on: bool) -> None:
        """SIGSTOP, or SIGCONT."""
        assert self.running is not None
        self.stopped = on
        pause(self.running.pid, on)

    def victims(self) -> list[int]:
        """Process ids of its workers."""
        return sorted(workers_of(self.running.pid)) if self.running is not None else []

    def order(self, what: str) -> None:
        """Lets one of its workers fail at the next batch."""
        self._ordered += 1
        (self.orders / f"{what}-{self._ordered:06}").touch()


@dataclass(slots=True)
class Trainer:
    """A training: its process of the moment, its journal, its book."""

    number: int
    plan: TrainerPlan
    folder: Path
    endpoints: list[str]
    proxies: list[Proxy]
    book: Book
    sabotage: str = ""
    seed: int = 0
    running: Running | None = None
    wanted: bool = False
    stopped: bool = False
    starts: int = 0
    since: float = 0.0  # when the last batch came, or the process began
    left: dict[str, list[str]] | None = None
    gaps: list[tuple[float, float]] = field(default_factory=list)  # waits that are longer than some seconds, not yet looked at
    _read: int = 0
    _rest: bytes = b""

    def __str__(self) -> str:
        return f"trainer {self.number} ({self.plan.kind} of {self.plan.source})"

    def start(self) -> None:
        """Start it; it goes on where the one before it has saved its position."""
        plan = self.plan
        options: dict[str, Any] = {"transport": plan.transport, "prefetch": plan.prefetch, "lookahead": plan.lookahead}
        options |= {"memory": plan.memory, "connect_timeout": 300.0}
        options |= {"rank": plan.share[0], "world_size": plan.share[1]}
        if plan.kind == "local":
            attr, args = SERVED[plan.source]
            server = {"batch_timeout": BATCH_TIMEOUT, "max_retries": 40}
            options |= {"source": f"{SOURCE_FILE}:{attr}", "args": args, "workers": PRIVATE_WORKERS, "seed": self.seed, "server": server}
        if plan.source == "flawed":
            options |= {"on_error": "skip", "skip_budget": 1000}
        settings: dict[str, Any] = {"kind": plan.kind, "source": plan.source, "endpoints": self.endpoints, "options": options}
        settings |= {"every": plan.every, "step": STEP_SECONDS.get(plan.source, DEFAULT_STEP_SECONDS), "shuffle": plan.shuffle}
        settings["sabotage"] = self.sabotage if self.number == 0 else ""
        self.folder.mkdir(exist_ok=True)
        (self.folder / "settings.json").write_text(json.dumps(settings))
        self.wanted, self.stopped, self.left = True, False, None
        self.starts += 1
        self.since = time.monotonic()
        command = [sys.executable, "-m", "tests.chaos.trainer", str(self.folder / "settings.json")]
        self.running = Running(command, ROOT, ENV)

    @property
    def up(self) -> bool:
        """Whether it runs."""
        return self.wanted and not self.stopped

    @property
    def failed(self) -> bool:
        """Whether it has ended in another way than it should."""
        return self.wanted and self.running is not None and self.running.popen.poll() is not None and self.left is None

    @property
    def done(self) -> bool:
        """Whether it has ended in order."""
        return self.left is not None and self.running is not None and self.running.popen.poll() is not None

    def private_workers(self) -> list[int]:
        """Process ids of the workers of a server of its own."""
        below = workers_of(self.running.pid) if self.running is not None else {}
        found = []
        for pid, process in below.items():
            with suppress(psutil.Error):
                if any("feeder_server.worker" in word for word in process.cmdline()):
                    found.append(pid)
        return sorted(found)

    def kill(self) -> None:
        """Ends it as `kill -9` does."""
        assert self.running is not None
        self.wanted = False
        self.running.popen.kill()
        self.running.wait()
        self.read_all(0)
        # What it was writing when it was killed is no line.
        self._rest = b""
        with (self.folder / "journal").open("ab") as file:
            if file.tell() and self._torn():
                file.write(b"\n")

    def _torn(self) -> bool:
        return not (self.folder / "journal").read_bytes().endswith(b"\n")

    def pause(self, on: bool) -> None:
        """SIGSTOP, or SIGCONT."""
        assert self.running is not None
        self.stopped = on
        pause(self.running.pid, on)

    def tell_to_end(self) -> None:
        """It ends at the end of the pass."""
        (self.folder / "stop").touch()

    def read_all(self, long: float) -> int:
        """`read` to the end."""
        came = read = -1
        while read != self._read:
            read = self._read
            came += self.read(long)
        return came + 1

    def read(self, long: float) -> int:
        """Reads a portion of what is new in the journal. Waits longer than `long` seconds go to `gaps`. Returns how many batches came."""
        path = self.folder / "journal"
        if not path.exists():
            return 0
        with path.open("rb") as file:
            file.seek(self._read)
            data = file.read(PORTION_BYTES)
        self._read += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        before = self.book.delivered
        for line in lines:
            self._take(line.decode().split(" ", 2), long)
        return self.book.delivered - before

    def _take(self, words: list[str], long: float) -> None:
        match words:
            case ["start", count, at]:
                self.book.back_to(int(count))
                self._waited(float(at), long)
            case ["batch", found, at]:
                self.book.came(found)
                self._waited(float(at), long)
            case ["changed", found]:
                self.book.corrupted(found)
            case ["left", *rest]:
                self.left = json.loads(" ".join(rest))
            case _:  # torn by a kill
                return

    def _waited(self, at: float, long: float) -> None:
        if at - self.since > long:
            self.gaps.append((self.since, at))
        self.since = at


def cast(world: World, folder: Path, sabotage: str = "") -> tuple[list[Node], list[Trainer]]:
    """Makes all of them; none is started. `sabotage`: what one of them is to do wrong, to see that it shows."""
    nodes = [Node(number, folder, world, sabotage) for number in range(len(world.workers))]
    references: dict[str, Reference] = {}
    trainers = []
    for number, plan in enumerate(world.trainers):
        attr, args = SERVED[plan.source]
        if plan.kind == "local":
            reference = Reference(attr, args, world.seed, [PRIVATE_WORKERS])
        else:
            if plan.source not in references:
                references[plan.source] = Reference(attr, args, world.seed, list(world.workers), world.fixed)
            reference = references[plan.source]
        proxies = [Proxy(node.endpoint, world.seed) for node in nodes] if plan.proxied else []
        endpoints = [proxy.endpoint for proxy in proxies] or [node.endpoint for node in nodes]
        ordered = world.fixed and plan.kind != "local" if reference.stream else not plan.shuffle
        book = Book(f"trainer {number}", reference.share(*plan.share), ordered)
        trainers.append(Trainer(number, plan, folder / f"trainer-{number}", endpoints, proxies, book, sabotage, world.seed))
    return nodes, trainers
