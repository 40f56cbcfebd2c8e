"""A TCP relay between a client and a node that does to the bytes what networks do.

    with Proxy(node.endpoint) as proxy:                 client ── proxy.endpoint ──▶ [ proxy ] ── node.endpoint ──▶ node
        FeederClient(proxy.endpoint, transport="tcp")           "up": towards the node, "down": towards the client
        proxy.cut(); proxy.restore()                    the connections break, new ones too until it is restored
        proxy.drop(); proxy.drop_after(100_000)         they break once, now or after so many more bytes
        proxy.half_open("up")                           the connection stands, and nothing goes through any more
        proxy.stop_reading("down")                      the peer's buffers fill up
        proxy.delay(1.0, jitter=0.2); proxy.throttle(200_000); proxy.chop(7)

One thread with plain sockets does it all; a call returns when what it asks for has been done. It knows nothing of feeder.
"""

from __future__ import annotations

import ctypes
import random
import selectors
import socket
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal

Direction = Literal["up", "down", "both"]

PIECE_BYTES = 65536
QUEUE_BYTES = 256 * 1024
"""What one connection may have in the relay, one way; beyond that it isn't read, and the sender feels it."""
DELAYED_BYTES = 32 * 1024 * 1024
"""The same while there is a delay: a long line holds more."""
SLICE_SECONDS = 0.02
"""A throttled line moves about so many seconds' worth of bytes at once."""
_WINE = sys.platform == "win32" and hasattr(ctypes.WinDLL("ntdll"), "wine_get_version")
RESETS_BEFORE_ACCEPT = not _WINE
"""Of a connection that was reset before it was accepted, `accept` says on Windows that it was reset. Wine says that it is not connected,
an error that libzmq doesn't expect there, and ends its process for. So under Wine a node that hasn't said anything yet sees an end."""
_RESET = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)


@dataclass(frozen=True, slots=True)
class Counters:
    """What has gone through so far."""

    accepted: int  # connections
    refused: int  # of those, the ones that were reset at once because of `cut`
    open: int
    dropped: int  # by `cut`, `drop` and `drop_after`
    up_bytes: int
    down_bytes: int
    swallowed_bytes: int


@dataclass(slots=True)
class _Way:
    """One direction, of all connections: they share one line."""

    delay: float = 0.0
    jitter: float = 0.0
    rate: float | None = None  # bytes per second
    silent: bool = False
    paused: bool = False
    most: int = PIECE_BYTES
    drop_at: int | None = None
    passed: int = 0  # bytes
    swallowed: int = 0
    free_at: float = 0.0  # when the line can take more

    def reset(self) -> None:
        self.delay = self.jitter = 0.0
        self.rate = self.drop_at = None
        self.silent = self.paused = False
        self.most = PIECE_BYTES


@dataclass(slots=True, eq=False)
class _Pipe:
    """One direction of one connection."""

    source: socket.socket
    sink: socket.socket
    way: _Way
    rng: random.Random
    queue: deque[tuple[float, memoryview]] = field(default_factory=deque)  # (when it is due, bytes)
    held: int = 0
    begun: bool = False  # something has come from the source
    ended: bool = False  # nothing more comes from the source
    finished: bool = False  # and the sink has been told
    silent: bool = False  # for good: a stream with a hole in it is of no use to anybody

    def hush(self) -> None:
        self.silent = True
        self.way.swallowed += self.held
        self.queue.clear()
        self.held = 0

    @property
    def reads(self) -> bool:
        room = self.silent or self.held < (DELAYED_BYTES if self.way.delay else QUEUE_BYTES)
        return not self.ended and not self.way.paused and room

    def ready_at(self) -> float | None:
        """When the next bytes may be written; None: there are none."""
        return max(self.queue[0][0], self.way.free_at) if self.queue else None

    def read(self, now: float) -> None:
        data = self.source.recv(PIECE_BYTES)
        self.begun, self.ended = self.begun or bool(data), not data
        if self.way.silent and not self.silent:
            self.hush()
        if self.silent:
            self.way.swallowed += len(data)
        elif data:
            due = now + self.way.delay + self.way.jitter * self.rng.random()
            if self.queue:  # jitter doesn't change the order
                due = max(due, self.queue[-1][0])
            self.queue.append((due, memoryview(data)))
            self.held += len(data)

    def write(self, now: float) -> None:
        way = self.way
        due, data = self.queue[0]
        most = way.most if way.most == PIECE_BYTES else self.rng.randint(1, way.most)
        if way.rate is not None:
            most = min(most, max(1, int(way.rate * SLICE_SECONDS)))
        if way.drop_at is not None:
            most = min(most, max(1, way.drop_at - way.passed))
        sent = self.sink.send(data[:most])
        way.passed += sent
        self.held -= sent
        if way.rate is not None:
            way.free_at = max(now - SLICE_SECONDS, way.free_at) + sent / way.rate
        if sent == len(data):
            self.queue.popleft()
        else:
            self.queue[0] = (due, data[sent:])

    def finish(self) -> None:
        """Pass the end on, once all that came before it has gone."""
        if self.ended and not self.queue and not self.finished:
            self.finished = True
            if not self.silent:
                with suppress(OSError):
                    self.sink.shutdown(socket.SHUT_WR)


@dataclass(slots=True, eq=False)
class _Link:
    """One connection: its two ends, and a pipe for each way."""

    client: socket.socket
    node: socket.socket
    up: _Pipe
    down: _Pipe
    connecting: bool = True

    def broke(self, end: socket.socket) -> bool:
        """One end has failed. False: the other one can't know, for nothing gets through to it."""
        out, into = (self.up, self.down) if end is self.client else (self.down, self.up)
        if not out.silent:
            return True
        out.ended = out.finished = True
        into.hush()
        return False

    def close(self, reset: bool) -> None:
        for end in (self.client, self.node):
            if reset and (end is self.client or self.down.begun or RESETS_BEFORE_ACCEPT):
                with suppress(OSError):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            end.close()


class Proxy:
    """See the module.

    Args:
        target: where it relays to, ``tcp://host:port``; it need not be there yet.
        seed: of what is random: jitter, and the sizes of pieces.
    """

    def __init__(self, target: str, seed: int = 0) -> None:
        host, _, port = target.removeprefix("tcp://").rpartition(":")
        self.target = target
        self._address = (host, int(port))
        self._rng = random.Random(seed)
        self._up, self._down = _Way(), _Way()
        self._links: list[_Link] = []
        self._refusing = False
        self._accepted = self._refused = self._dropped = 0
        self._closing = False
        self._orders: deque[tuple[Callable[[], None], threading.Event]] = deque()
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(256)
        self._ear, self._bell = socket.socketpair()
        for one in (self._listener, self._ear, self._bell):
            one.setblocking(False)
        self.endpoint = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._run, name="test-proxy", daemon=True)
        self._thread.start()

    # ------------------------------------------------------------------------------------------------- from any thread

    def cut(self, reset: bool = True) -> None:
        """Break all connections, and each new one at once, until `restore`. `reset`: with a RST, not in good order."""
        self._do(lambda: self._cut(reset))

    def drop(self, reset: bool = True) -> None:
        """Break all connections; new ones are served."""
        self._do(lambda: self._drop(reset))

    def drop_after(self, nbytes: int, direction: Literal["up", "down"] = "down") -> None:
        """Break all connections when `nbytes` more have passed; new ones are served."""
        way = self._ways(direction)[0]
        self._do(lambda: setattr(way, "drop_at", way.passed + nbytes))

    def delay(self, seconds: float, jitter: float = 0.0, direction: Direction = "both") -> None:
        """Let every byte take `seconds`, and up to `jitter` more."""
        self._set(direction, delay=seconds, jitter=jitter)

    def throttle(self, bytes_per_second: float | None, direction: Direction = "both") -> None:
        """Let no more through than that, of all connections together; None: as much as comes."""
        self._set(direction, rate=bytes_per_second)

    def chop(self, most: int, direction: Direction = "both") -> None:
        """Write pieces of 1 to `most` bytes, chance has it."""
        self._set(direction, most=most)

    def half_open(self, direction: Direction = "both") -> None:
        """Swallow what comes, and the news that an end is closed; the connections stand. Those never recover; new ones after `restore`."""
        self._do(lambda: self._hush(self._ways(direction)))

    def stop_reading(self, direction: Direction = "both") -> None:
        """Read nothing that goes this way, until `restore`: the sender's buffers fill up."""
        self._set(direction, paused=True)

    def restore(self) -> None:
        """From now on let everything through."""
        self._do(self._restore)

    @property
    def counters(self) -> Counters:
        """What has gone through so far."""
        up, down = self._up, self._down
        swallowed = up.swallowed + down.swallowed
        return Counters(self._accepted, self._refused, len(self._links), self._dropped, up.passed, down.passed, swallowed)

    def close(self) -> None:
        """End it, with all connections. May be called again."""
        if not self._closing:
            self._closing = True
            self._ring()
            self._thread.join(30)
            assert not self._thread.is_alive()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _ways(self, direction: Direction) -> list[_Way]:
        return {"up": [self._up], "down": [self._down], "both": [self._up, self._down]}[direction]

    def _set(self, direction: Direction, **values: float | bool | None) -> None:
        def change() -> None:
            for way in self._ways(direction):
                for name, value in values.items():
                    setattr(way, name, value)

        self._do(change)

    def _do(self, order: Callable[[], None]) -> None:
        done = threading.Event()
        self._orders.append((order, done))
        self._ring()
        assert done.wait(30), "the proxy has ended"

    def _ring(self) -> None:
        with suppress(OSError):  # full: it will look up anyway
            self._bell.send(b"!")

    # ------------------------------------------------------------------------------------------------------ the thread

    def _cut(self, reset: bool) -> None:
        self._refusing = True
        self._drop(reset)

    def _drop(self, reset: bool) -> None:
        self._dropped += len(self._links)
        for link in self._links:
            link.close(reset)
        self._links.clear()

    def _hush(self, ways: list[_Way]) -> None:
        for way in ways:
            way.silent = True
        for pipe in self._pipes():
            if pipe.way in ways:
                pipe.hush()

    def _restore(self) -> None:
        self._refusing = False
        self._up.reset()
        self._down.reset()

    def _pipes(self) -> Iterator[_Pipe]:
        for link in self._links:
            yield link.up
            yield link.down

    def _run(self) -> None:
        try:
            while not self._closing:
                self._turn()
        finally:
            for link in self._links:
                link.close(reset=False)
            self._links.clear()
            for one in (self._listener, self._ear, self._bell):
                one.close()

    def _turn(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._ear, selectors.EVENT_READ)
            selector.register(self._listener, selectors.EVENT_READ)
            timeout = self._interests(selector, time.monotonic())
            ready = {key.fileobj: mask for key, mask in selector.select(timeout)}
        if self._ear in ready:
            with suppress(OSError):
                self._ear.recv(4096)
        if self._listener in ready:
            self._accept()
        for link in list(self._links):
            if link in self._links:  # serving another one may have broken all of them
                self._serve(link, ready)
        while self._orders:
            order, done = self._orders.popleft()
            order()
            done.set()

    def _interests(self, selector: selectors.BaseSelector, now: float) -> float | None:
        """Say what is to be waited for; returns the seconds after which something is due all the same."""
        timeout = None
        for link in self._links:
            if link.connecting:
                selector.register(link.node, selectors.EVENT_WRITE)
                continue
            wanted = {link.client: 0, link.node: 0}
            for pipe in (link.up, link.down):
                wanted[pipe.source] |= selectors.EVENT_READ if pipe.reads else 0
                at = pipe.ready_at()
                if at is not None and at <= now:
                    wanted[pipe.sink] |= selectors.EVENT_WRITE
                elif at is not None:
                    timeout = at - now if timeout is None else min(timeout, at - now)
            for end, events in wanted.items():
                if events:
                    selector.register(end, events)
        return timeout

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError:  # it has left again
            return
        self._accepted += 1
        node = socket.socket()
        for end in (client, node):
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        up, down = _Pipe(client, node, self._up, self._rng), _Pipe(node, client, self._down, self._rng)
        up.silent, down.silent = self._up.silent, self._down.silent
        link = _Link(client, node, up, down)
        if self._refusing:
            self._refused += 1
            link.close(reset=True)
            return
        node.connect_ex(self._address)  # how that went shows when it can be written to
        self._links.append(link)

    def _serve(self, link: _Link, ready: Mapping[Any, int]) -> None:
        now = time.monotonic()
        if link.connecting:
            if link.node not in ready:
                return
            link.connecting = False
            if link.node.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self._end(link, reset=True)
                return
        for pipe in (link.up, link.down):
            end = pipe.source
            try:
                if ready.get(pipe.source, 0) & selectors.EVENT_READ and pipe.reads:
                    pipe.read(now)
                end = pipe.sink
                at = pipe.ready_at()
                if ready.get(pipe.sink, 0) & selectors.EVENT_WRITE and at is not None and at <= now:
                    pipe.write(now)
            except BlockingIOError:
                pass
            except OSError:
                if link.broke(end):
                    self._end(link, reset=True)
                    return
            if pipe.way.drop_at is not None and pipe.way.passed >= pipe.way.drop_at:
                pipe.way.drop_at = None
                self._drop(reset=True)
            if link not in self._links:
                return
            pipe.finish()
        if link.up.finished and link.down.finished:
            self._end(link, reset=False)

    def _end(self, link: _Link, reset: bool) -> None:
        self._links.remove(link)
        link.close(reset)
