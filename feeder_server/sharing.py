"""`feeder_server.shared`: data that all workers of a machine read, computed by one of them and mapped by all.

    class Train:
        def __init__(self, folder):
            self.x = feeder_server.shared(load_all, folder)  # an array; or a dict, list or tuple of arrays

    worker 0    lock ── computes ── writes shared-ID-0-1.bin ── publishes shared-ID.json ── unlocks ── maps it, read-only
    worker 1    waits for the lock ────────────────────────────────────────────────────── finds it ── maps it, read-only
    worker 2    (started later)                                                           finds it ── maps it, read-only

ID is a digest of the call, see identity.py. The files lie in the node's arena and go with it. The lock is one of the system's, which a
worker that dies gives back; what it has written and not published is removed by the next one that computes. The batch's own form
(codec.py) serves for the data as well, so what may be in it is what may be in a batch.

What is computed is a function of the seed and the function's name, and changes nothing for what the source draws next: one worker
computes, the others don't, and all have to go on alike.
"""

from __future__ import annotations

import base64
import json
import logging
import mmap
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from feeder_server import entropy, seeding
from feeder_server.generators import Generators
from feeder_server.identity import CanNotTellError, identity_of, name_of
from feeder_server.module_seeds import seeded
from feeder_server.undisturbed import undisturbed
from feeder_wire.arena import map_new
from feeder_wire.codec import Encoded, aligned_empty, decode, encode
from feeder_wire.directories import free_bytes, try_lock
from feeder_wire.errors import UnsupportedBatch
from feeder_wire.mapping import unmap

log = logging.getLogger("feeder.worker")

T = TypeVar("T")

LOOK_SECONDS = 0.05  # how often the lock is tried
FIRST_WORD_SECONDS = 10.0
LATER_WORDS_SECONDS = 60.0

_store: Store | None = None  # of this process, if it is a worker


def shared(function: Callable[..., T], *args: Any, key: object = None, **kwargs: Any) -> T:
    """Give what ``function(*args, **kwargs)`` returns, computed once for all workers of this machine and mapped read-only in each.

    To be called while a source is built or a module imported; later too, but then all workers should come to it. Outside a worker it
    calls the function, and makes its arrays read-only.

    Args:
        function: returns an array, or a dict, list or tuple of arrays (numbers and texts may be among them). It is called in one
            worker only, so it should do nothing else than return that.
        key: what makes this call another one than others of the same function, in place of its arguments and of what the function has
            from around it. Needed where those can't be compared: a number, a text, or a tuple of these.

    Raises:
        TypeError: it can't be told whether two calls are the same; give a key.
        UnsupportedBatch: it returned something that can't be shared; the message says what.
    """
    name = name_of(function)
    try:
        identity = identity_of(function, args, kwargs, key)
    except CanNotTellError as e:
        raise TypeError(
            f"feeder_server.shared({name}) can't tell whether another call is the same: {e}. Say what makes it another one, for example "
            "feeder_server.shared(..., key='train')"
        ) from None
    call = partial(function, *args, **kwargs)
    if _store is not None:
        return _store.get(name, identity, call)  # type: ignore[return-value]
    result = call()
    _encoded(name, result)  # what can't be shared is told here as well
    return _read_only(result)  # type: ignore[no-any-return]


def use(store: Store | None) -> None:
    """This process is a worker, and shares through `store`."""
    global _store
    _store = store


def _encoded(name: str, result: object) -> Encoded:
    try:
        return encode(result)
    except UnsupportedBatch as e:
        raise UnsupportedBatch(f"feeder_server.shared({name}): in what it returned, here called a batch: {e}") from e.__cause__


def _read_only(value: Any) -> Any:
    """The same with arrays that can't be written to, in the form in which a worker gets them. Copies nothing but tensors."""
    if isinstance(value, np.ndarray):
        view = np.asarray(value).view()
        view.flags.writeable = False
        return view
    if isinstance(value, dict):
        return {name: _read_only(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        parts = [_read_only(part) for part in value]
        return tuple(parts) if isinstance(value, tuple) else parts
    made = _in_memory(encode(value))
    return decode(made.head, made.payload)


@dataclass(frozen=True, slots=True)
class _Made:
    head: bytes
    payload: np.ndarray[Any, np.dtype[np.uint8]]  # read-only


def _in_memory(encoded: Encoded) -> _Made:
    payload = aligned_empty(encoded.nbytes)
    encoded.write_into(payload)
    payload.flags.writeable = False
    return _Made(encoded.head, payload)


class Store:
    """What the workers of a node share, as one of them sees it.

    Args:
        directories: the node's arena, best first; none: nothing can be shared, and each worker computes for itself.
        writer: names the worker in the names of its files.
        seed: the server's seed.
        reserve_bytes: room to leave for batches in all but the last directory.
    """

    def __init__(self, directories: list[str] | tuple[str, ...], writer: str, seed: int, reserve_bytes: int) -> None:
        self._directories = [Path(d) for d in directories]
        self._writer = writer
        self._seed = seed
        self._reserve = reserve_bytes
        self._lock = threading.RLock()
        self._known: dict[str, _Made] = {}
        self._under_way: list[str] = []
        self._count = 0

    def get(self, name: str, identity: str, call: Callable[[], object]) -> object:
        """Give the data of a call, from this process, from the node, or by computing it. What the call raises comes out as it is."""
        value, before = seeding.current(), seeding.frameworks()
        with self._lock:
            if identity in self._under_way:
                raise RecursionError(f"feeder_server.shared({name}) is called while it is computed")
            if identity not in self._known:
                self._known[identity] = self._published(identity) or self._wait_or_make(name, identity, call)
            made = self._known[identity]
        if value is not None:
            # Those that don't tell their state: where it was computed they have been drawn from, elsewhere not.
            seeding.seed_frameworks(seeding.derive(value, "shared", name), [library for library in before if library != "torch"])
        return decode(made.head, made.payload)

    def _wait_or_make(self, name: str, identity: str, call: Callable[[], object]) -> _Made:
        if not self._directories:
            return _in_memory(self._make(name, identity, call))
        with _locked(self._directories[0] / f"shared-{identity}.lock", name):
            found = self._published(identity)
            if found is not None:
                return found
            started = time.monotonic()
            encoded = self._make(name, identity, call)
            made = self._publish(name, identity, encoded)
            seconds, size = time.monotonic() - started, encoded.nbytes / 1e6
            log.info("made the shared data of %s, %.1f MB in %.1f s", name, size, seconds)
            return made

    def _make(self, name: str, identity: str, call: Callable[[], object]) -> Encoded:
        value = seeding.derive(seeding.build_seed(self._seed), "shared", name)
        own = Generators(call=call)
        own.walk()
        self._under_way.append(identity)
        try:
            with undisturbed(more=own.holders), seeded(seeding.import_seed(self._seed)), entropy.derived_from(value):
                seeding.seed_globals(value)
                own.reseed(value)
                return _encoded(name, call())
        finally:
            self._under_way.remove(identity)

    # -- files -------------------------------------------------------------------------------------------------------------------

    def _publish(self, name: str, identity: str, encoded: Encoded) -> _Made:
        for place, directory in enumerate(self._directories):
            for left in directory.glob(f"shared-{identity}-*"):  # of one that died at it: we have the lock
                _remove(left)
            last = place == len(self._directories) - 1
            if not last and free_bytes(directory) < encoded.nbytes + self._reserve:
                continue
            self._count += 1
            path = directory / f"shared-{identity}-{self._writer}-{self._count}.bin"
            try:
                _write(path, encoded)
                return self._announce(identity, encoded, path)
            except OSError as e:
                _remove(path)
                log.debug("no room for %d bytes in %s: %s", encoded.nbytes, directory, e)
        free = ", ".join(f"{d} has {free_bytes(d) / 1e6:.0f} MB free" for d in self._directories)
        log.warning("the shared data of %s, %.1f MB, isn't shared, for there is no room: %s", name, encoded.nbytes / 1e6, free)
        return _in_memory(encoded)

    def _announce(self, identity: str, encoded: Encoded, path: Path) -> _Made:
        head = base64.b64encode(encoded.head).decode("ascii")
        text = json.dumps({"file": str(path), "nbytes": encoded.nbytes, "head": head})
        new = self._directories[0] / f"shared-{identity}-{self._writer}.new"
        new.write_text(text, encoding="ascii")
        os.replace(new, self._directories[0] / f"shared-{identity}.json")
        return _Made(encoded.head, _mapped(path, encoded.nbytes))

    def _published(self, identity: str) -> _Made | None:
        if not self._directories:
            return None
        try:
            data = json.loads((self._directories[0] / f"shared-{identity}.json").read_text(encoding="ascii"))
            return _Made(base64.b64decode(data["head"]), _mapped(Path(data["file"]), data["nbytes"]))
        except (OSError, ValueError):  # not yet; or a cleaner of /tmp has taken the file away
            return None


def _write(path: Path, encoded: Encoded) -> None:
    view = map_new(path, max(1, encoded.nbytes))
    try:
        encoded.write_into(memoryview(view)[: encoded.nbytes])
    finally:
        unmap(view)


def _mapped(path: Path, nbytes: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    with open(path, "rb") as file:
        # ValueError: it is shorter. Read-only for the whole process, so that no worker can change what the others see.
        view = mmap.mmap(file.fileno(), max(1, nbytes), access=mmap.ACCESS_READ)
    return np.frombuffer(view, np.uint8, nbytes)


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:  # Windows, still mapped: it goes with the directory
        pass


@contextmanager
def _locked(path: Path, name: str) -> Iterator[None]:
    """Hold the lock that only one process has; wait for it, and say so if that takes long."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOINHERIT", 0), 0o600)
    try:
        started = time.monotonic()
        word = started + FIRST_WORD_SECONDS
        while not _try(lock):
            if time.monotonic() >= word:
                word = time.monotonic() + LATER_WORDS_SECONDS
                log.info("waiting for another worker, which makes the shared data of %s, for %.0f s now", name, time.monotonic() - started)
            time.sleep(LOOK_SECONDS)
        yield
    finally:
        os.close(lock)  # and so gives it back


def _try(lock: int) -> bool:
    try:
        return try_lock(lock)
    except OSError as e:  # no locks in this file system: then more than one may compute, and the last one's file counts
        log.debug("going without a lock: %s", e)
        return True
