"""The private server's end of the pipe: what its set-up means, and that it ends with it, whatever happens."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from feeder_server import private
from feeder_server.cores import usable_cores
from feeder_server.private_config import configure
from feeder_wire.errors import ConfigError
from feeder_wire.security import KeyPair

SERVER, CLIENT = KeyPair.fresh(), KeyPair.fresh()
ROOT = Path(__file__).resolve().parents[2]


def setup(**changes: Any) -> dict[str, Any]:
    """What feeder_client/local.py writes."""
    return {
        "source": {"target": "data.py:train", "parcel": None, "args": {}},
        "workers": 2,
        "seed": 7,
        "server_public": SERVER.public.decode(),
        "server_secret": SERVER.secret.decode(),
        "client_public": CLIENT.public.decode(),
        "remove": None,
        "options": {},
        **changes,
    }


class TestConfigure:
    def test_a_target_with_arguments(self) -> None:
        config = configure(setup(source={"target": "data.py:train", "parcel": None, "args": {"size": 3}}))
        (source,) = config.sources
        assert source.name == "default"
        assert source.target is not None
        assert (source.target.reference, source.target.args) == ("data.py:train", {"size": 3})

    def test_a_parcel(self) -> None:
        (source,) = configure(setup(source={"target": None, "parcel": "{}", "args": None})).sources
        assert (source.name, source.target, source.parcel) == ("default", None, "{}")

    def test_only_this_machine_and_only_this_client(self) -> None:
        config = configure(setup())
        assert config.bind == "tcp://127.0.0.1:0"
        assert config.keys == SERVER
        assert config.authorized == {CLIENT.public}
        assert not config.insecure

    def test_numbers_are_passed_on(self) -> None:
        options = {"memory": "5MiB", "max_retries": 0, "batch_timeout": 2.5, "gpu": True, "threads": 3, "single": True}
        config = configure(setup(options=options))
        assert (config.workers, config.seed, config.memory, config.max_retries) == (2, 7, 5 << 20, 0)
        assert (config.gpu, config.threads, config.single, config.batch_timeout) == (True, 3, True, 2.5)

    def test_what_is_not_given_has_its_default(self) -> None:
        config = configure(setup(workers=None))
        assert config.workers == usable_cores()
        assert (config.threads, config.max_retries, config.memory_bytes) == (1, 2, 0)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"workers": 0}, "--workers 0"),
            ({"workers": "4"}, "--workers '4'"),
            ({"workers": 2.5}, r"--workers 2\.5"),
            ({"seed": -1}, "--seed -1"),
            ({"options": {"memory": "much"}}, "is not a size"),
            ({"options": {"thread": 3}}, "there is no such option; there are: memory, max_retries"),
            ({"options": {"threads": 0}}, "--threads 0"),
            ({"options": {"batch_timeout": 0}}, "--batch-timeout 0"),
            ({"source": {"target": "data.py", "parcel": None, "args": {}}}, r"write data\.py:NAME"),
        ],
    )
    def test_what_cannot_work(self, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            configure(setup(**changes))


@contextmanager
def server(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A private server that has not got its set-up yet."""
    (folder / "data.py").write_text("import numpy as np\ndef train():\n    while True:\n        yield np.zeros(3)\n")
    env = dict(os.environ, PYTHONPATH=str(ROOT))
    code = "import sys; from feeder_server.private import main; sys.exit(main())"
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=folder, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def tell(process: subprocess.Popen[bytes], **changes: Any) -> dict[str, Any]:
    """Writes the set-up and reads the answer."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(setup(**changes)).encode() + b"\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())  # type: ignore[no-any-return]


class TestProcess:
    def test_nothing_comes_and_it_ends(self, tmp_path: Path) -> None:
        with server(tmp_path) as process:
            assert process.communicate(b"", timeout=60) == (b"", b"")
            assert process.returncode == 0

    def test_says_where_it_is_and_ends_with_the_pipe(self, tmp_path: Path) -> None:
        with server(tmp_path) as process:
            endpoint = tell(process)["endpoint"]
            assert endpoint.startswith("tcp://127.0.0.1:")
            assert not endpoint.endswith(":0")
            out, err = process.communicate(timeout=60)
            assert (process.returncode, out, err) == (0, b"", b"")

    def test_says_what_cannot_work(self, tmp_path: Path) -> None:
        folder = tmp_path / "handed over"
        folder.mkdir()
        (folder / "array").write_bytes(b"x")
        with server(tmp_path) as process:
            kind, text, builtins = tell(process, workers=0, remove=str(folder))["error"]
            assert builtins == []
            assert (kind, text.split(":")[0]) == ("ConfigError", "--workers 0")
            process.communicate(timeout=60)
            assert process.returncode == 2
        assert not folder.exists(), "what was handed over goes in any case"

    @pytest.mark.parametrize("target", ["gone.py:train", "data.py:gone"])
    def test_a_source_that_cannot_be_loaded_is_the_clients_to_hear(self, tmp_path: Path, target: str) -> None:
        # It answers first: the error comes through the socket, as it does from any server, and here, for who is not connected yet.
        with server(tmp_path) as process:
            assert "endpoint" in tell(process, source={"target": target, "parcel": None, "args": {}}, workers=1)
            assert process.stdout is not None
            kind, text, _ = json.loads(process.stdout.readline())["error"]
            _, err = process.communicate(timeout=60)
            assert kind in ("SourceNotFound", "SourceError")
            assert "gone" in text
            assert process.returncode == 0
            assert b"Traceback" not in err

    @pytest.mark.skipif(sys.platform == "win32", reason="a console is needed to send it on Windows")
    def test_ctrl_c_is_the_training_process_business(self, tmp_path: Path) -> None:
        with server(tmp_path) as process:
            tell(process)
            process.send_signal(signal.SIGINT)
            process.send_signal(signal.SIGINT)
            assert process.poll() is None
            process.communicate(timeout=60)
            assert process.returncode == 0

    @pytest.mark.skipif(sys.platform == "win32", reason="no handler runs on Windows")
    def test_a_polite_request_is_heard(self, tmp_path: Path) -> None:
        with server(tmp_path) as process:
            tell(process)
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0

    @pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
    def test_what_a_killed_one_leaves_is_swept_by_the_next(self, tmp_path: Path) -> None:
        shared = tmp_path / "shm"
        shared.mkdir()
        with pytest.MonkeyPatch.context() as patched:
            patched.setenv("FEEDER_SHM_DIR", str(shared))
            patched.setenv("TMPDIR", str(shared))
            with server(tmp_path) as process:
                tell(process)
                process.kill()
                process.wait(60)
            assert list(shared.glob("feeder-*"))
            with server(tmp_path) as process:
                tell(process)
                assert len(list(shared.glob("feeder-*"))) == 2, "its own two"
                process.communicate(timeout=60)
        assert list(shared.glob("feeder-*")) == []


def test_nobody_listens_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(fd: int, data: bytes) -> int:
        raise BrokenPipeError

    monkeypatch.setattr(os, "write", broken)
    private._say({"endpoint": "tcp://127.0.0.1:1"})
