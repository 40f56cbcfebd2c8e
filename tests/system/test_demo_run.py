"""``feeder-server demo`` as users run it: with Keras, a private server and real workers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from feeder_server import demo

pytestmark = [pytest.mark.slow, pytest.mark.keras]

COMMAND = [sys.executable, "-m", "feeder_server.cli", "demo", "--quick"]
ROOT = str(Path(__file__).resolve().parents[2])


def environment(**more: str) -> dict[str, str]:
    paths = [more.pop("first", ""), ROOT, os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **more}


def row(text: str, label: str) -> list[tuple[float, float, int]]:
    """(seconds, speed-up, percent waited) of each table's row that begins with `label`."""
    found = re.findall(rf"^{re.escape(label)}.*?([\d.]+) \| +([\d.]+) x \| +(\d+)%", text, re.MULTILINE)
    return [(float(a), float(b), int(c)) for a, b, c in found]


def test_it_measures_and_shows_what_feeder_gains() -> None:
    done = subprocess.run(COMMAND, env=environment(PYTHONIOENCODING="ascii"), capture_output=True, timeout=110, check=False)
    text = done.stdout.decode("ascii")
    assert done.returncode == 0, text
    assert not done.stderr
    # How fast each of them was is up to the machine, on which other tests run beside this one.
    sleeping, computing = row(text, "feeder, ")
    for seconds, speed_up, waited in [*row(text, "plain model.fit"), *row(text, "Keras' threads"), sleeping, computing]:
        assert seconds > 0
        assert speed_up > 0
        assert 0 <= waited <= 100
    assert text.rstrip().endswith(demo.NEXT)


def read_until(stream: Callable[[], bytes], wanted: bytes, seconds: float = 90.0) -> bytes:
    deadline = time.monotonic() + seconds
    got = b""
    while wanted not in got:
        assert time.monotonic() < deadline, got
        more = stream()
        assert more, got
        got += more
    return got


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo terminal")
def test_ctrl_c_on_a_terminal_leaves_nothing_behind() -> None:
    import pty  # not on Windows

    # Its own session with the terminal in control: Ctrl-C goes where it goes for a user.
    code = f"import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.executable, {COMMAND!r})"
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=theirs, stdout=theirs, stderr=theirs, env=environment(TERM="xterm"), start_new_session=True
    )
    os.close(theirs)
    try:
        # While the private server and its workers are at it.
        text = read_until(lambda: os.read(ours, 65536), b"sleeping: feeder")
        time.sleep(0.5)
        os.write(ours, b"\x03")
        text += read_until(lambda: os.read(ours, 65536), b"Interrupted.")
        assert process.wait(20) == 130
        assert b"Traceback" not in text
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def test_a_demo_that_is_killed_takes_everything_with_it() -> None:
    with subprocess.Popen(COMMAND, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        read_until(process.stdout.readline, b"Keras' threads")
        time.sleep(1.0)  # the private server has started, or is about to
        process.kill()


@pytest.mark.parametrize("why", ["No module named 'keras'", "No module named 'tensorflow'"])
def test_without_keras(tmp_path: Path, why: str) -> None:
    (tmp_path / "keras.py").write_text(f'raise ModuleNotFoundError("{why}")', encoding="utf-8")
    done = subprocess.run(COMMAND, env=environment(first=str(tmp_path)), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert why in done.stdout
    assert 'pip install "keras-feeder[tensorflow]"' in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_what_goes_wrong_in_the_trainer_is_shown(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("class Broken:\n    def __len__(self): return 3\n    def __getitem__(self, i): raise ValueError('no such file')\n")
    part = {"name": "broken", "file": str(broken), "attr": "Broken", "args": {}, "hidden": 8, "seconds": 1, "at_once": 1}
    part |= {"threads": 2, "workers": 1}
    trainer = demo.Trainer({"epochs": 1, "parts": [part]})
    try:
        events = list(trainer.events())
    finally:
        trainer.stop()
    errors = [event["text"] for event in events if event["event"] == "error"]
    assert "ValueError: no such file" in errors[0]
    assert str(broken) in errors[0]
