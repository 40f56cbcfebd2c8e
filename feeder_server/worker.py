"""The worker: a fresh interpreter that makes batches, one at a time.

    stdin ── one line of set-up, then silence; its end means that the node is gone ──▶ exit
    node ── Task ──▶ copies ──▶ batch ──▶ encode ──▶ block of the arena, or inline when small ── Made/MadeBlock ──▶ node

Nothing heavy is imported here: NumPy and pyzmq, and what the user's own code imports. stdout and stderr are the node's pipe, so
what user code prints comes out in the node's log. Ctrl-C is the node's business: workers ignore it.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, BinaryIO

from feeder_server import entropy, failure, inplace, light_imports, sample, sharing
from feeder_server.bond import die_with_parent, take_over_stdin
from feeder_server.code_version import code_version
from feeder_server.copies import Copies, Maker, StreamEnded
from feeder_server.fingerprint import attributes, changed, fingerprint
from feeder_server.inplace import Scratch
from feeder_server.link import NodeLink
from feeder_server.packer import Packer
from feeder_server.regrets import describe
from feeder_server.source import IndexedSource, StreamSource, build
from feeder_server.target import Target
from feeder_server.undisturbed import undisturbed
from feeder_wire import codec, parcel
from feeder_wire import worker_messages as w
from feeder_wire.arena import ArenaFullError, ArenaWriter, Block
from feeder_wire.beacon import IDLE, Beacon
from feeder_wire.errors import RemoteError
from feeder_wire.fields import INLINE_BYTES

log = logging.getLogger("feeder.worker")

IDLE_SECONDS = 1.0  # how often an idle worker looks up
LOAD_FAILED = 3  # exit code, as of the server itself
TAKE_SECONDS = 0.001  # how often a worker that has something to do looks whether there is news; asking takes as long as a small batch
LOOK_UP_SECONDS = 0.25  # how often a worker that replays epochs looks whether they are still wanted


class Abandoned(BaseException):
    """Nobody wants what is being made. Not an Exception: what goes on after one of the user's must not go on after this."""


class Worker:
    """What one worker process does, from its set-up to `Stop`. One thread.

    Args:
        setup: see `supervisor.Supervisor`, which writes it.
    """

    def __init__(self, setup: dict[str, Any]) -> None:
        self.slot = int(setup["slot"])
        self._setup = setup
        self._link = NodeLink(setup["endpoint"])
        self._link.put(w.Joined(self.slot, int(setup["generation"]), bytes.fromhex(setup["token"])))
        self._link.flush()
        self._arena = ArenaWriter(setup["directories"], self.slot, int(setup["generation"]), int(setup["budget_bytes"]))
        self._beacon = _beacon(setup["directories"], self.slot, int(setup["generation"]))
        self._copies: dict[int, Copies] = {}
        self._scratch = Scratch(self._arena)
        inplace.use(self._scratch)
        writer = f"{self.slot}-{int(setup['generation'])}"
        if setup["light_imports"]:
            light_imports.install(self._loading)
        sharing.use(sharing.Store(setup["directories"], writer, int(setup["seed"]), int(setup["memory_bytes"])))
        self._packer = Packer()
        self._tasks: deque[w.Task] = deque()
        self._shown: set[int] = set()  # sources of which the node has seen a batch described
        self._stopped = False
        self._making: bytes | None = None  # the session for which something is made now
        self._heard: list[w.ToWorker] = []  # while something was made, and not acted upon yet
        self._next_look = self._next_take = 0.0
        self._took = 0.0  # seconds that the last task took

    def run(self) -> int:
        """Load the sources, then work until told to stop. Returns the exit code."""
        try:
            if not self._load():
                return LOAD_FAILED
            while not self._stopped:
                self._step()
            return 0
        finally:
            self._link.close()
            self._arena.close()

    def _load(self) -> bool:
        for number in self._setup["mine"]:
            try:
                copies = self._open_source(self._setup["sources"][number])
                info = copies.info()
            except BaseException as e:  # SystemExit in user code too: whatever it is, the node must hear of it
                self._link.put(w.LoadFailed(number, failure.describe(e)))
                return False
            self._copies[number] = copies
            length = -1 if info.num_batches is None else info.num_batches
            self._link.put(w.Loaded(number, info.kind, length, info.sharded, self._code_of(number), info.stateful))
            self._link.flush()
        return True

    def _open_source(self, entry: dict[str, Any]) -> Copies:
        slots = len(entry["slots"])
        nth = entry["slots"].index(self.slot)
        seed = int(self._setup["seed"])
        make: Callable[[], IndexedSource | StreamSource]
        if entry["parcel"] is not None:
            packed = parcel.Parcel.from_json(entry["parcel"])

            def make() -> IndexedSource | StreamSource:
                # Unpacked anew each time: copies must not share what they change.
                return build(parcel.unpack(packed), {}, shard=(nth, slots), label=entry["name"])
        else:
            make = Maker(Target.from_json(entry["target"]), seed=seed, shard=(nth, slots))
        incarnation, ordered = int(self._setup["generation"]), bool(self._setup["ordered"])
        copies = Copies(make, seed=seed, slot=nth, slots=slots, incarnation=incarnation, ordered=ordered, on_step=self._begin_step)
        copies.mode(warm=entry["warm"], exclusive=entry["exclusive"], rebuild=False)
        copies.warm()
        return copies

    def _code_of(self, number: int) -> bytes:
        target = self._setup["sources"][number]["target"]
        return code_version(Target.from_json(target)) if target else b""

    def _step(self) -> None:
        started = time.perf_counter()
        if not self._tasks:
            self._link.flush()
            self._take_all(IDLE_SECONDS)
        elif self._heard or started >= self._next_take:
            self._next_take = started + TAKE_SECONDS
            self._take_all(0.0)
        if self._tasks and not self._stopped:
            started = time.perf_counter()
            task = self._tasks.popleft()
            self._link.put_off(self._took)
            if self._beacon is not None:
                self._beacon.mark(task.task)
            self._making, self._next_look = task.copy, time.monotonic() + LOOK_UP_SECONDS
            self._make(task)
            self._making = None
            if self._beacon is not None:
                self._beacon.mark(IDLE)
            self._took = time.perf_counter() - started

    @contextmanager
    def _loading(self) -> Iterator[None]:
        """A library is loaded that something needs: that may take as long as it likes, and changes nothing of what is drawn."""
        timed = self._beacon is not None and self._beacon.timed
        self._show_step(False)
        try:
            with undisturbed():
                yield
        finally:
            self._show_step(timed)

    def _show_step(self, timed: bool) -> None:
        if self._beacon is not None:
            self._beacon.step(timed)

    def _begin_step(self, timed: bool) -> None:
        self._show_step(timed)
        if self._making is not None and (now := time.monotonic()) >= self._next_look:
            # Between two epochs, of which there may be thousands to replay, for a training that has ended meanwhile.
            self._next_look = now + LOOK_UP_SECONDS
            self._heard += self._link.receive(0)
            if any(isinstance(message, w.Drop) and message.session == self._making for message in self._heard):
                raise Abandoned

    def _take_all(self, wait: float) -> None:
        heard, self._heard = self._heard, []
        for message in (*heard, *self._link.receive(0 if heard else wait)):
            self._take(message)

    def _take(self, message: w.ToWorker) -> None:
        match message:
            case w.Task():
                self._tasks.append(message)
            case w.Free():
                self._arena.give_back(message.blocks)
            case w.Retire():
                self._arena.retire(message.blocks)
            case w.Drop():
                self._drop(message.session)
            case w.Mode():
                copies = self._copies[message.source]
                copies.mode(warm=message.warm, exclusive=message.exclusive, rebuild=message.rebuild)
            case w.Stop():
                self._stopped = True

    def _drop(self, session: bytes) -> None:
        for task in [t for t in self._tasks if t.copy == session]:
            self._tasks.remove(task)
            self._link.put(w.TaskEnded(task.task))  # every task is answered, or the node would believe this worker busy for ever
        self._packer.drop(session)
        for copies in self._copies.values():
            copies.drop(session)
            if not self._tasks:
                try:
                    copies.warm()  # so that the next trainer finds the server warm
                except Exception as e:  # user code: the next session will meet it, and report it
                    log.warning("building a fresh copy failed: %s", e)

    def _make(self, task: w.Task) -> None:
        started = time.perf_counter()
        copies = self._copies[task.source]
        look = task.look or (task.source not in self._shown and copies.info().kind == "stream")
        before = attributes(copies.subject(task.copy)) if look else {}
        self._scratch.begin()
        try:
            if copies.info().kind == "stream":
                batch = copies.next(task.copy, task.epoch, task.index // len(self._setup["sources"][task.source]["slots"]))
            else:
                batch = copies.item(task.copy, task.epoch, task.index)
            encoded = codec.encode(batch, self._scratch if self._scratch.used else None)
            if self._scratch.used and not encoded.placed:
                encoded = codec.encode(batch)
            if look:
                self._look(task, batch, encoded, changed(before, copies.subject(task.copy)))
            del batch  # nobody but the user's code may hold it when its block is lent
            self._report(task, encoded, started)
        except (StreamEnded, Abandoned):
            self._link.put(w.TaskEnded(task.task))
        except ArenaFullError as e:
            text = f"{e}. Make room there, or start the server with a lower --memory or fewer --workers"
            self._link.put(w.TaskFailed(task.task, RemoteError("ConfigError", "ArenaFullError", (), text, "", f"worker {self.slot}")))
        except BaseException as e:  # also SystemExit and KeyboardInterrupt: user code must not end a worker unheard
            self._link.put(w.TaskFailed(task.task, failure.describe(e, where=f"worker {self.slot}")))
        finally:
            self._scratch.finish()

    def _look(self, task: w.Task, batch: object, encoded: codec.Encoded, attributes: tuple[str, ...]) -> None:
        text = ""
        if task.source not in self._shown:
            self._shown.add(task.source)
            found = self._copies[task.source].generators(task.copy)
            text = sample.to_text(replace(describe(batch), generators=sample.cut(found)))
        leaves = fingerprint(encoded) if task.look else ()
        self._link.put(w.Looked(task.task, leaves, text, attributes))

    def _report(self, task: w.Task, encoded: codec.Encoded, started: float) -> None:
        workers = len(self._setup["sources"][task.source]["slots"])
        made = time.perf_counter() - started
        packed = self._packer.pack((task.source, task.copy), encoded, task.methods, task.line, made, workers)
        if packed is not None:
            self._report_packed(task, *packed, started)
            return
        if encoded.nbytes <= INLINE_BYTES:
            data = bytes(encoded.to_bytes())
            self._link.put(w.Made(task.task, encoded.head, data, time.perf_counter() - started))
            return
        self._take_all(0)  # blocks may have come back meanwhile
        nbytes = encoded.nbytes
        block = self._scratch.lend(encoded) or self._written(encoded)
        self._lend(task, encoded.head, block, nbytes, time.perf_counter() - started)

    def _lend(self, task: w.Task, head: bytes, block: Block, nbytes: int, seconds: float) -> None:
        self._link.put(w.MadeBlock(task.task, head, block.name, block.size, nbytes, seconds))
        if self._arena.dropped:
            self._link.put(w.Dropped(tuple(self._arena.dropped)))
            self._arena.dropped.clear()

    def _report_packed(self, task: w.Task, head: bytes, data: bytes, started: float) -> None:
        if len(data) <= INLINE_BYTES:
            self._link.put(w.Made(task.task, head, data, time.perf_counter() - started))
            return
        self._take_all(0)
        block = self._arena.take(len(data))
        block.view[: len(data)] = data
        self._lend(task, head, block, len(data), time.perf_counter() - started)

    def _written(self, encoded: codec.Encoded) -> Block:
        block = self._arena.take(encoded.nbytes)
        try:
            encoded.write_into(memoryview(block.view)[: encoded.nbytes])
        except BaseException:
            self._arena.give_back((block.name,))
            raise
        return block


def _beacon(directories: list[str], slot: int, generation: int) -> Beacon | None:
    # Where nothing can be written (no arena, a full disk, a folder that was removed) the node has to guess what a worker was at.
    try:
        return Beacon(directories[0], slot, generation) if directories else None
    except OSError as e:
        log.debug("no beacon: %s", e)
        return None


def watch(pipe: BinaryIO) -> None:
    """End this process when the pipe ends: the node is gone, however it went."""

    def wait() -> None:
        while pipe.read(4096):
            pass
        os._exit(0)

    threading.Thread(target=wait, name="feeder-watch", daemon=True).start()


def main() -> None:
    """Entry point of a worker process, called by the supervisor's command line."""
    for name in ("SIGINT", "SIGBREAK"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    logging.basicConfig(format="%(levelname)s %(message)s", level=logging.INFO)
    die_with_parent()
    pipe = take_over_stdin()
    line = pipe.readline()
    if not line:
        return
    watch(pipe)
    entropy.stay()
    code = Worker(json.loads(line)).run()
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: threads, atexit handlers and destructors of user code could hold the process for ever.
    os._exit(code)


if __name__ == "__main__":
    main()
