"""A private server for this process: started, watched, and gone when this process is gone, however that went.

    this process ── set-up, one line through the stdin pipe ──▶ python -m feeder_server.private ──▶ workers
                 ◀── one line: the endpoint, or why not ──────
                 ── a second line, or the end of the pipe, means stop ──▶

The set-up holds key pairs made for this one server, so nobody else on the machine can connect, and, where an object was handed
over, the parcel it is packed in. Nothing secret is on a command line.
"""

from __future__ import annotations

import json
import logging
import operator
import os
import queue
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from feeder_client.connection import Keys
from feeder_client.unpicklable import explain
from feeder_wire.directories import PrivateDirectory, parents, sweep
from feeder_wire.errors import ConfigError, FeederError, NodeUnreachable, of_kind
from feeder_wire.parcel import pack
from feeder_wire.security import KeyPair
from feeder_wire.words import AUTO

log = logging.getLogger("feeder.client")

_PACKAGES = str(Path(__file__).resolve().parent.parent)
# See feeder_server/launching.py.
_PATH = f"import sys; sys.path[:] = [*filter(None, sys.path), {_PACKAGES!r}]"
_BOOT = f"{_PATH}; from feeder_server.private import main; sys.exit(main())"
STOP_SECONDS = 8.0
START_SECONDS = 60.0
LAST_WORD_SECONDS = 1.0  # for what it said to come through the pipe after it has ended


class LocalServer:
    """A running private server.

    Args:
        source: a target ``module_or_file:attr``, or an object or generator function of this process.
        workers: worker processes; None: as many as there are usable cores; "auto": as many of those as are of use.
        args: arguments for a target's class or function.
        seed: of everything random.
        options: further options of the server (see feeder_server/private_config.py).

    Raises:
        ConfigError: the object can't be packed (the message says which attribute and what to do), or an option can't work.
        FeederError: the server did not start.
    """

    def __init__(
        self, source: object, workers: int | str | None, args: Mapping[str, Any] | None, seed: int, options: Mapping[str, Any] | None = None
    ) -> None:
        self._directory: PrivateDirectory | None = None
        self._tail: deque[str] = deque(maxlen=30)
        self._said: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._error: FeederError | None = None  # that it said it ends with
        self._stopped = False
        self._pid = os.getpid()
        entry: dict[str, Any] = {"target": None, "parcel": None, "args": None}
        if isinstance(source, str):
            entry.update(target=source, args=_plain_args(args))
        elif args:
            raise ConfigError("args= are for a target such as 'augment.py:train'; an object is handed over as it is")
        else:
            entry["parcel"] = self._pack(source)
        server, client = KeyPair.fresh(), KeyPair.fresh()
        self.keys = Keys(client, server.public)
        setup = {
            "source": entry,
            "workers": workers if workers == AUTO else _whole("workers", workers),
            "seed": _whole("seed", seed),
            "server_public": server.public.decode(),
            "server_secret": server.secret.decode(),
            "client_public": client.public.decode(),
            "remove": str(self._directory.path) if self._directory else None,
            "options": dict(options or {}),
        }
        try:
            self._start(setup)
            self.endpoint = self._await_endpoint()
        except BaseException:
            self.stop()
            raise

    def _pack(self, source: object) -> str:
        for parent in parents(256 << 20):
            try:
                self._directory = PrivateDirectory(parent)
                break
            except OSError as e:
                log.debug("no directory in %s: %s", parent, e)
        if self._directory is None:
            raise ConfigError(f"no temporary directory to hand the object over in: tried {', '.join(map(str, parents()))}")
        try:
            return pack(source, self._directory.path).to_json()
        except FeederError:
            self._directory.close()
            raise
        except Exception as e:  # pickling runs the user's code: anything may come out
            self._directory.close()
            raise explain(source, e) from None

    def _start(self, setup: Mapping[str, Any]) -> None:
        env = dict(os.environ, PYTHONIOENCODING="utf-8:backslashreplace", PYTHONUNBUFFERED="1")
        self._process = subprocess.Popen(
            [sys.executable, "-c", _BOOT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=env,
            **_apart(),
        )
        self._listener, relay = (threading.Thread(target=f, name="feeder-local", daemon=True) for f in (self._listen, self._relay))
        self._listener.start()
        relay.start()
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(setup).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:  # it died at once: `_await_endpoint` says why
            pass

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout:
            for line in self._process.stdout:
                try:
                    said = json.loads(line)
                except ValueError:  # a sitecustomize of the user's that prints
                    log.info("%s", line.decode("utf-8", "replace").rstrip())
                    continue
                if "error" in said:
                    kind, text, builtins = said["error"]
                    self._error = of_kind(kind, text, tuple(builtins))
                self._said.put(said)
        self._said.put({})

    def _relay(self) -> None:
        # What the workers print belongs where the user looks: in the script's own output, or the notebook's cell.
        assert self._process.stderr is not None
        with self._process.stderr:
            for raw in self._process.stderr:
                line = raw.decode("utf-8", "replace").rstrip()
                self._tail.append(line)
                # It may be closed, None under pythonw, or the interpreter is ending.
                with suppress(OSError, ValueError, AttributeError):
                    sys.stderr.write(line + "\n")

    def _await_endpoint(self) -> str:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                said = self._said.get(timeout=0.2)
                break
            except queue.Empty:
                if time.monotonic() > deadline:
                    raise NodeUnreachable(f"the private server did not start within {START_SECONDS:g} s") from None
        if "endpoint" not in said:
            raise self._error or self.ended() or NodeUnreachable("the private server ended before it said anything")
        return str(said["endpoint"])

    def ended(self) -> FeederError | None:
        """None while the server runs; else why it has ended."""
        code = self._process.poll()
        if code is None or self._stopped:
            return None
        self._listener.join(LAST_WORD_SECONDS)
        if self._error is not None:
            return self._error
        tail = "\n".join(f"    {line}" for line in list(self._tail)[-10:])
        return NodeUnreachable(f"the private server has ended (exit code {code})" + (f"; its last lines:\n{tail}" if tail else ""))

    def stop(self) -> None:
        """End the server and what belongs to it. Takes at most a few seconds; may be called again."""
        if os.getpid() != self._pid:
            return  # a forked child: all of it is its parent's
        self._stopped = True
        process = getattr(self, "_process", None)
        if process is not None:
            with suppress(OSError, ValueError):  # it is gone; or was told already
                # In words: a child that this process has forked may hold the pipe open.
                process.stdin.write(b"stop\n")
                process.stdin.flush()
            with suppress(OSError):  # it is gone, with something unwritten
                process.stdin.close()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                log.warning("the private server did not end within %g s: killed", STOP_SECONDS)
                process.kill()
                process.wait()
                sweep(parents())
        if self._directory is not None:
            self._directory.close()


def _apart() -> dict[str, Any]:
    """Ctrl-C in the terminal is this process' business: the server is out of its reach."""
    if sys.platform == "win32":
        # With a console of its own that nobody sees: without one (pythonw, Spyder, a service) Windows would open a window for it.
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
    return {"start_new_session": True}


def _whole(name: str, value: Any) -> int | None:
    """A whole number that JSON can carry, also from a NumPy integer; None stays None."""
    try:
        return None if value is None else operator.index(value)
    except TypeError:
        raise ConfigError(f"{name}={value!r:.80}: a whole number is needed") from None


def _plain_args(args: Mapping[str, Any] | None) -> dict[str, Any]:
    try:
        return dict(json.loads(json.dumps(dict(args or {}))))
    except (TypeError, ValueError) as e:
        raise ConfigError(
            f"args={args!r:.200}: {e}. Arguments are numbers, texts, booleans, lists and dicts of those; hand anything else over "
            "as an object: FeederSequence.local(my_object)"
        ) from None
