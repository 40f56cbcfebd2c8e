"""Signals, the one line on stdout, and where the log goes. Fakes stand for the node; one real server is stopped by a signal."""

from __future__ import annotations

import io
import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from feeder_server import serve
from feeder_server.config import ServeConfig, SourceEntry
from feeder_server.display import LiveDisplay, LogDisplay
from feeder_server.serve import SIGNALS, Stopper
from feeder_server.target import parse_target
from feeder_wire.errors import EndpointError, SourceError

posix = pytest.mark.skipif(sys.platform == "win32", reason="a console is needed to send these on Windows")


class FakeNode:
    """Remembers what was asked of it."""

    def __init__(self) -> None:
        self.did: list[str] = []
        self.stop_reason: str | None = None

    def stop(self, reason: str) -> None:
        self.did.append(f"stop: {reason}")
        self.stop_reason = reason

    def drain(self, reason: str) -> None:
        self.did.append(f"drain: {reason}")

    def kill(self) -> None:
        self.did.append("kill")

    def open(self) -> str:
        self.did.append("open")
        return "tcp://127.0.0.1:1234"

    def run(self) -> None:
        self.did.append("run")
        self.stop("a test")

    def close(self) -> None:
        self.did.append("close")


@pytest.fixture
def exits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The codes given to os._exit, which doesn't exit."""
    codes: list[int] = []
    monkeypatch.setattr(serve.os, "_exit", codes.append)
    return codes


@pytest.fixture
def own_signals() -> Iterator[None]:
    """Puts the handlers back."""
    before = {number: signal.getsignal(number) for name in SIGNALS if (number := getattr(signal, name, None)) is not None}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class TestStopper:
    def test_the_first_signal_asks_the_second_kills(self, exits: list[int]) -> None:
        node = FakeNode()
        stopper = Stopper(node)  # type: ignore[arg-type]
        stopper.handle(signal.SIGINT, None)
        assert (node.did, exits) == (["stop: it got SIGINT"], [])
        stopper.handle(signal.SIGINT, None)
        assert (node.did, exits) == (["stop: it got SIGINT", "kill"], [130])

    def test_any_two_will_do(self, exits: list[int]) -> None:
        node = FakeNode()
        stopper = Stopper(node)  # type: ignore[arg-type]
        stopper.handle(signal.SIGTERM, None)
        stopper.handle(signal.SIGINT, None)
        assert (node.did, exits) == (["drain: it got SIGTERM", "kill"], [130])

    @pytest.mark.usefixtures("own_signals")
    def test_installs_what_the_system_has(self, monkeypatch: pytest.MonkeyPatch) -> None:
        taken: dict[int, Any] = {}
        monkeypatch.setattr(signal, "signal", lambda number, handler: taken.update({number: handler}))
        monkeypatch.delattr(signal, "SIGBREAK", raising=False)
        stopper = Stopper(FakeNode())  # type: ignore[arg-type]
        stopper.install()
        assert taken == {signal.SIGINT: stopper.handle, signal.SIGTERM: stopper.handle}
        monkeypatch.setattr(signal, "SIGBREAK", 21, raising=False)
        stopper.install()
        assert taken == {signal.SIGINT: stopper.handle, signal.SIGTERM: stopper.handle, 21: stopper.handle}

    def test_ctrl_break_as_windows_sends_it(self, monkeypatch: pytest.MonkeyPatch, exits: list[int]) -> None:
        class Break:
            name = "SIGBREAK"

        monkeypatch.setattr(serve.signal, "Signals", lambda number: Break())
        node = FakeNode()
        stopper = Stopper(node)  # type: ignore[arg-type]
        stopper.handle(21, None)
        stopper.handle(21, None)
        assert (node.did, exits) == (["drain: it got SIGBREAK", "kill"], [130])

    @posix
    @pytest.mark.usefixtures("own_signals")
    def test_a_real_signal(self, exits: list[int]) -> None:
        node = FakeNode()
        Stopper(node).install()  # type: ignore[arg-type]
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        assert (node.did, exits) == (["stop: it got SIGINT", "kill"], [130])


@pytest.mark.usefixtures("own_signals")
class TestRun:
    @pytest.fixture(autouse=True)
    def quiet(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """No handlers are added to the test run's own log."""
        monkeypatch.setattr(serve, "_display", lambda verbose: LogDisplay())

    def config(self) -> ServeConfig:
        return ServeConfig(sources=(SourceEntry("train", target=parse_target("a.py:b")),), workers=3)

    def test_opens_runs_and_closes(self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "feeder.node")
        node = FakeNode()
        monkeypatch.setattr(serve, "Node", lambda config, ready, look: node)
        serve.run(self.config())
        assert node.did == ["open", "run", "stop: a test", "close"]
        assert [r.getMessage() for r in caplog.records] == [
            "starting 3 workers for train on tcp://127.0.0.1:1234",
            "stopping: a test",
            "stopped",
        ]

    def test_closes_after_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        node = FakeNode()

        def fail() -> None:
            raise SourceError("no")

        node.run = fail  # type: ignore[method-assign]
        monkeypatch.setattr(serve, "Node", lambda config, ready, look: node)
        with pytest.raises(SourceError):
            serve.run(self.config())
        assert node.did == ["open", "close"]

    def test_an_endpoint_that_cannot_be_bound(self, monkeypatch: pytest.MonkeyPatch) -> None:
        node = FakeNode()

        def fail() -> str:
            raise EndpointError("taken")

        node.open = fail  # type: ignore[method-assign]
        monkeypatch.setattr(serve, "Node", lambda config, ready, look: node)
        with pytest.raises(EndpointError):
            serve.run(self.config())

    def test_the_endpoint_is_the_only_line_on_stdout(self, capsys: pytest.CaptureFixture[str]) -> None:
        serve._announce("tcp://127.0.0.1:1234")
        assert capsys.readouterr().out == "feeder-server ready at tcp://127.0.0.1:1234\n"


class TestDisplay:
    @pytest.fixture(autouse=True)
    def own_logging(self, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
        """Records how logging would be set up."""
        calls: list[dict[str, Any]] = []
        monkeypatch.setattr(logging, "basicConfig", lambda **options: calls.append(options))
        return calls

    @pytest.mark.parametrize("stderr", [io.StringIO(), None])
    def test_plain_lines_without_a_terminal(
        self, monkeypatch: pytest.MonkeyPatch, own_logging: list[dict[str, Any]], stderr: io.StringIO | None
    ) -> None:
        monkeypatch.setattr(sys, "stderr", stderr)  # None: pythonw on Windows
        assert isinstance(serve._display(verbose=False), LogDisplay)
        assert own_logging[0]["level"] == logging.INFO
        serve._display(verbose=True)
        assert own_logging[1]["level"] == logging.DEBUG

    def test_a_live_line_on_a_terminal(self, monkeypatch: pytest.MonkeyPatch, own_logging: list[dict[str, Any]]) -> None:
        class Terminal(io.StringIO):
            def isatty(self) -> bool:
                return True

        monkeypatch.setattr(sys, "stderr", Terminal())
        assert isinstance(serve._display(verbose=False), LiveDisplay)
        assert own_logging[0]["format"] == "%(message)s"


@posix
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_server_stops_when_asked(tmp_path: Path, name: str) -> None:
    (tmp_path / "data.py").write_text("import numpy as np\ndef train():\n    while True:\n        yield np.zeros(3)\n")
    command = [sys.executable, "-m", "feeder_server.cli", "serve", "data.py:train", "-b", "tcp://127.0.0.1:0", "-w", "1"]
    env = dict(os.environ, PYTHONPATH=str(Path(__file__).resolve().parents[2]))
    with subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        first = server.stdout.readline()
        server.send_signal(getattr(signal, name))
        out, err = server.communicate(timeout=60)
    assert re.fullmatch(r"feeder-server ready at tcp://127\.0\.0\.1:[1-9][0-9]*\n", first)
    assert (server.returncode, out) == (0, "")
    assert f"stopping: it got {name}" in err
    assert err.rstrip().endswith("stopped")
    assert "Traceback" not in err
