"""Workers of a private server that are started before there is a node.

    private server ── reads its set-up ──▶ EarlyWorkers ──▶ loads the node ──▶ binds ──▶ supervisor: spawn() ──▶ set-up of a worker
    workers                                     └─▶ start, load NumPy and the rest ────────────────────────────────▶┘

Loading the node takes the server nearly as long as a worker takes to load what it needs; so both are done at the same time. A worker
that is started early is like any other: it waits for its set-up, which comes when there is a node, and ends when its pipe does.
"""

from __future__ import annotations

import subprocess
import threading
from collections import deque
from typing import Any

from feeder_server.launching import worker_command, worker_environment, worker_options

MOST = 64
"""More are not started early: the number has not been checked yet."""


class _Early:
    """One process. Its thread lives as long as it does: by the death of that thread Linux would end it, see bond.py."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.error: OSError | None = None
        self.started = threading.Event()
        threading.Thread(target=self._run, args=(options,), name="feeder-early", daemon=True).start()

    def _run(self, options: dict[str, Any]) -> None:
        try:
            self.process = subprocess.Popen(worker_command(), **options)
        except OSError as e:
            self.error = e
        finally:
            self.started.set()
        if self.process is not None:
            self.process.wait()


class EarlyWorkers:
    """Starts processes at once, each in a thread: on Windows one start takes half a second. `spawn` is for any thread.

    Args:
        count: how many, if that is a number that could be meant.
        threads: see `worker_environment`.
        gpu: see `worker_environment`.
    """

    def __init__(self, count: object, threads: object, gpu: object) -> None:
        self._early: deque[_Early] = deque()
        if type(count) is int and type(threads) is int and type(gpu) is bool:  # else the node will say what is wrong
            options = worker_options(worker_environment(threads, gpu))
            self._early.extend(_Early(options) for _ in range(max(0, min(count, MOST))))

    def spawn(self, command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        """As `subprocess.Popen`; while there are any, gives a process that was started early, with the same command and options."""
        try:
            early = self._early.popleft()
        except IndexError:
            return subprocess.Popen(command, **options)
        early.started.wait()
        if early.error is not None:
            raise early.error
        assert early.process is not None
        return early.process

    def close(self) -> None:
        """End those that nobody has asked for. They know nothing yet, and have nothing to finish."""
        while self._early:
            early = self._early.popleft()
            early.started.wait()
            if early.process is not None:
                early.process.kill()
                early.process.wait()
                for pipe in (early.process.stdin, early.process.stdout):
                    assert pipe is not None
                    pipe.close()
