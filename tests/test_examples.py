"""The examples run, and so does what the README tells the reader to type, both ways."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = {  # what its output ends with or holds
    "train_local.py": "the training waited for data",
    "train_object.py": "the training waited for data",
    "generator_train.py": "Epoch 3/3",
    "two_nodes.py": "epoch 2, batch 20",
}
SECONDS = 100.0  # for one run; TensorFlow alone may take many of them on a cold disk
ENDPOINT = "tcp://127.0.0.1:5555"  # in the README; a test takes a free port

pytestmark = [pytest.mark.keras, pytest.mark.slow]


def run(script: str, folder: Path) -> str:
    """Run a script to its end and return what it printed."""
    # A file in another folder doesn't find feeder where it isn't installed but only checked out.
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, script], cwd=folder, env=env, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", timeout=SECONDS
    )
    assert done.returncode == 0, f"{script} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_no_example_is_forgotten() -> None:
    files = {path.name for path in (ROOT / "examples").glob("*.py")}
    assert files == {*EXAMPLES, "augment_sequence.py"}
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert not {name for name in files if f"(examples/{name})" not in readme}


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name: str) -> None:
    assert EXAMPLES[name] in run(f"examples/{name}", ROOT)


class TestReadme:
    """The blocks under "60 seconds", as they stand there."""

    @pytest.fixture
    def text(self) -> str:
        found = re.search(r"^## In your script: 60 seconds$(.*?)^## ", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.M | re.S)
        assert found
        return found[1]

    @pytest.fixture
    def folder(self, text: str, tmp_path: Path) -> Path:
        """A folder with the files of the README: each block that begins with the name of a file is one."""
        files = re.findall(r"^```python\n(# (\w+\.py)\n.*?)^```$", text, flags=re.M | re.S)
        assert [name for _, name in files] == ["augment.py", "train.py", "resumable.py"]
        for content, name in files:
            (tmp_path / name).write_text(content, encoding="utf-8")
        return tmp_path

    def test_local(self, folder: Path) -> None:
        out = run("train.py", folder)
        assert "Epoch 3/3" in out
        assert "the training waited for data" in out

    def test_resumable(self, folder: Path) -> None:
        out = run("resumable.py", folder)
        assert "Epoch 3/3" in out
        assert not list(folder.rglob("position.json*")), "the training has come to its end"

    def test_server_and_script(self, text: str, folder: Path) -> None:
        command = re.search(r"^feeder-server (serve .*)$", text, flags=re.M)
        line = re.search(r"^```python\n# the line that changes\n(with .*)\n```$", text, flags=re.M)
        assert command
        assert line
        script = (folder / "train.py").read_text(encoding="utf-8")
        assert f"feeder-server ready at {ENDPOINT}" in text
        assert ENDPOINT in line[1]
        server = subprocess.Popen(
            [sys.executable, "-m", "feeder_server.cli", *shlex.split(command[1]), "--bind", "tcp://127.0.0.1:0"],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )
        assert server.stdout
        with server.stdout:
            try:
                said = server.stdout.readline()
                assert said.startswith("feeder-server ready at tcp://127.0.0.1:")
                changed, count = re.subn(r"^with .*$", line[1].replace(ENDPOINT, said.split()[-1]), script, flags=re.M)
                assert count == 1
                (folder / "train.py").write_text(changed, encoding="utf-8")
                out = run("train.py", folder)
            finally:
                server.terminate()
                code = server.wait(20)
        assert "Epoch 3/3" in out
        if os.name != "nt":  # there, to terminate is to kill
            assert code == 0
