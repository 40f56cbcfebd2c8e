"""A node's life: its one line on stdout, its log, how it is stopped, and what it leaves behind: nothing."""

from __future__ import annotations

import gc
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

from feeder_client import FeederClient, NodeUnreachable
from tests.serving import (
    ANY_PORT,
    COMMAND,
    ON_WINDOWS,
    PATIENCE,
    SECONDS,
    SOURCES,
    Running,
    Serving,
    alive,
    arenas,
    arenas_since,
    free_port,
    posix_signals,
    serve,
    shadows,
    until,
    workers_of,
)


def came_to(folder: Path, what: object, times: int = 1) -> list[int]:
    """Waits until `times` workers have come to `what` in a source that holds there; their process ids."""
    until(lambda: len(list(folder.glob(f"at-{what}-*"))) >= times, f"{times} workers at {what}")
    return [int(path.name.rpartition("-")[2]) for path in folder.glob(f"at-{what}-*")]


class TestStart:
    def test_the_endpoint_line_means_that_clients_can_connect(self, tmp_path: Path) -> None:
        """It is the only thing on stdout, and comes once the source is loaded."""
        with Serving(tmp_path, f"{SOURCES}:Numbers", "-w", "2", "-b", "tcp://127.0.0.1:0") as node:
            with FeederClient(node.endpoint, connect_timeout=5) as client:
                assert len(list(client)) == 20
            assert node.stop() == 0
            assert node.stdout == f"feeder-server ready at {node.endpoint}\n"

    def test_the_program_that_pip_makes(self, tmp_path: Path) -> None:
        """On Windows an .exe that starts Python: Ctrl-C reaches both, and both are gone afterwards."""
        program = shutil.which("feeder-server", path=sysconfig.get_path("scripts"))
        if program is None:
            pytest.skip("feeder is not installed, or into the user's own folder")
        with Running([program, "serve", f"{SOURCES}:Numbers", "--workers", "1", "--bind", ANY_PORT], tmp_path) as node:
            node.says("feeder-server ready at ")
            below = workers_of(node.pid)
            with FeederClient(node.stdout.split()[-1], connect_timeout=5) as client:
                assert len(list(client)) == 20
            assert node.stop() == 0
            until(lambda: not alive(below), lambda: f"left: {alive(below)}")

    def test_several_sources_from_one_pool(self, tmp_path: Path) -> None:
        """With arguments for all of them and for one, in any order; the workers are the same."""
        arguments = (f"train={SOURCES}:Pids", f"val={SOURCES}:Pids", "-a", "val.n=3", "-a", "n=30", "-a", "size=1")
        with serve(tmp_path, *arguments, workers=2) as node:
            with FeederClient(node.endpoint, "train") as train, FeederClient(node.endpoint, "val") as val:
                assert (len(train), len(val)) == (30, 3)
                pids = {pid for _, pid, _ in train}
                assert {pid for _, pid, _ in val} <= pids
                assert [i for i, *_ in val] == [0, 1, 2]

    def test_a_module_of_the_current_folder(self, tmp_path: Path) -> None:
        (tmp_path / "pkg").mkdir()
        (tmp_path / "pkg" / "__init__.py").touch()
        (tmp_path / "pkg" / "data.py").write_text("from .more import thing\ndef make(n): return [thing] * n\n")
        (tmp_path / "pkg" / "more.py").write_text("thing = 'text'\n")
        with serve(tmp_path, "pkg.data:make", "-a", "n=4") as node, FeederClient(node.endpoint) as client:
            assert list(client) == ["text"] * 4

    def test_a_folder_with_odd_letters(self, tmp_path: Path) -> None:
        folder = tmp_path / "Größe und Maß"
        folder.mkdir()
        (folder / "données.py").write_text("made = ['ü', 'é']\n", encoding="utf-8")
        with serve(tmp_path, f"{folder / 'données.py'}:made") as node, FeederClient(node.endpoint) as client:
            assert list(client) == ["ü", "é"]

    def test_a_folder_whose_files_are_called_like_modules(self, tmp_path: Path) -> None:
        """The user's `queue.py` in the current folder is nobody else's."""
        folder = shadows(tmp_path / "mine")
        (folder / "data.py").write_text("made = [1, 2, 3]\n")
        with serve(folder, "data.py:made") as node, FeederClient(node.endpoint) as client:
            assert list(client) == [1, 2, 3]

    def test_a_batch_is_made_with_one_thread_and_without_accelerators(self, tmp_path: Path) -> None:
        code = "import os\nmade = [os.environ.get(k) for k in ('OMP_NUM_THREADS', 'CUDA_VISIBLE_DEVICES')]\n"
        (tmp_path / "see.py").write_text(code)
        with serve(tmp_path, "see.py:made", env={"OMP_NUM_THREADS": "3"}) as node, FeederClient(node.endpoint) as client:
            assert list(client) == ["3", "-1"]

    def test_the_seed_makes_the_batches(self, tmp_path: Path) -> None:
        """The same for one worker and for three; another seed gives others."""
        (tmp_path / "noise.py").write_text(
            "import numpy as np, random\n"
            "class Noise:\n"
            "    def __len__(self): return 12\n"
            "    def __getitem__(self, i): return i, float(np.random.rand()), random.random()\n"
        )

        def batches(workers: int, seed: int) -> list[object]:
            with serve(tmp_path, "noise.py:Noise", "--seed", str(seed), workers=workers) as node, FeederClient(node.endpoint) as client:
                return [list(client), list(client)]

        one = batches(1, 5)
        assert batches(3, 5) == one
        assert batches(1, 6) != one
        assert one[0] != one[1]

    @pytest.mark.skipif(ON_WINDOWS, reason="needs a shell")
    @pytest.mark.parametrize("output", [">&-", "| true"], ids=["closed", "nobody_reads"])
    def test_without_a_stdout(self, tmp_path: Path, output: str) -> None:
        """A service has none, and `| head` goes away: the node serves all the same, and ends with 0."""
        endpoint = f"tcp://127.0.0.1:{free_port()}"
        command = shlex.join([*COMMAND, "serve", f"{SOURCES}:Numbers", "--workers", "1", "--bind", endpoint])
        with Running(["sh", "-c", f"{{ {{ {command}; echo ended with $? >&2; }} {output}; }}"], tmp_path) as shell:
            with FeederClient(endpoint, connect_timeout=30) as client:
                assert len(list(client)) == 20
            (node,) = [p for p in workers_of(shell.pid).values() if "serve" in p.cmdline()]
            node.terminate()
            shell.wait()
            assert "ended with 0" in shell.stderr, shell.output
            assert "Error" not in shell.stderr


class TestStop:
    @pytest.mark.parametrize("name", ["SIGINT", pytest.param("SIGTERM", marks=posix_signals)])
    def test_a_signal_ends_it_cleanly(self, tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
        """Exit code 0, the client is told, no process and no file is left."""
        before = arenas()
        with serve(tmp_path, f"{SOURCES}:Blocks", workers=2) as node:
            below = workers_of(node.pid)
            assert len(below) == 2
            assert arenas() - before
            with FeederClient(node.endpoint, connect_timeout=2 * PATIENCE) as client:
                held = [client[i] for i in range(3)]
                node.signal(name)
                assert node.wait() == 0, node.output
                until(lambda: f"the server was stopped (it got {name})" in caplog.text, lambda: caplog.text)
                with pytest.raises(NodeUnreachable, match=re.escape(node.endpoint)):
                    for i in range(3, 300):
                        client[i]
                assert held[2][0] is not None
            assert not alive(below)
            if ON_WINDOWS:  # where what the trainer has mapped stays, until a server starts that finds it unmapped
                assert arenas() - before
                del held
                gc.collect()
            assert not arenas_since(before)
            assert "Traceback" not in node.output

    def test_ctrl_c_reaches_the_node_alone(self, tmp_path: Path) -> None:
        """A terminal sends it to all that it started: the workers stay up until the node ends them, and no traceback is printed."""
        command = [*COMMAND, "serve", f"{SOURCES}:Numbers", "--workers", "2", "--bind", ANY_PORT]
        if not ON_WINDOWS:
            # The interpreter in between is there as a shell would be; it must not mind the signal.
            deaf = "import signal, subprocess, sys\nsignal.signal(signal.SIGINT, lambda *_: None)\n"
            command = [sys.executable, "-c", f"{deaf}sys.exit(subprocess.call({command!r}))"]
        with Running(command, tmp_path, start_new_session=True) as shell:
            shell.says("feeder-server ready at")
            if ON_WINDOWS:
                shell.signal("SIGINT")  # goes to all processes of the console
            else:
                os.killpg(shell.pid, signal.SIGINT)
            shell.wait()
            assert "stopping: it got SIGINT" in shell.stderr
            assert "stopped" in shell.stderr
            assert "worker" not in shell.stderr.partition("stopping")[2]

    @pytest.mark.parametrize("child", [False, True], ids=["alone", "with_a_child"])
    def test_a_second_ctrl_c_kills(self, tmp_path: Path, child: bool) -> None:
        """The worker hangs in user code, so the first one waits for it; the second doesn't. A child of the worker's own (which
        no server can know) holds the worker's output open: that must hold up nobody."""
        arguments = (f"{SOURCES}:Hangs", "-a", f"folder={tmp_path}", "-a", f"child={str(child).lower()}")
        before = arenas()
        # So patient that a busy machine gets to press twice.
        with serve(tmp_path, *arguments, constants={"feeder_server.node.STOP_SECONDS": 10 * SECONDS}) as node:
            client = FeederClient(node.endpoint)
            assert client[0] == 0
            (pid,) = came_to(tmp_path, 1)
            below = {p: process for p, process in workers_of(node.pid).items() if p == pid}
            node.signal("SIGINT")
            node.says("stopping: it got SIGINT")
            assert node.popen.poll() is None
            node.signal("SIGINT")
            # Not for the end of its output as well: under Wine the child's console holds that open.
            assert node.popen.wait(SECONDS) == 130, node.output
            until(lambda: not alive(below), "the worker ends")
            assert arenas() == before
            (tmp_path / "go").touch()
            assert node.wait() == 130
            client.close()

    def test_a_worker_that_hangs_is_killed_after_a_while(self, tmp_path: Path) -> None:
        before = arenas()
        with serve(tmp_path, f"{SOURCES}:Hangs", "-a", f"folder={tmp_path}") as node:
            client = FeederClient(node.endpoint)
            assert client[0] == 0
            came_to(tmp_path, 1)
            below = workers_of(node.pid)
            assert node.stop() == 0
            assert not alive(below)
            assert arenas() == before
            client.close()

    def test_stopped_while_its_workers_start(self, tmp_path: Path) -> None:
        (tmp_path / "slow.py").write_text(
            f"from tests.sources import hold\nhold({str(tmp_path)!r}, 'import')\nmade = [1]\n", encoding="utf-8"
        )
        before = arenas()
        with Serving(tmp_path, "slow.py:made", "-w", "2", "-b", "tcp://127.0.0.1:0", env={"PYTHONPATH": str(SOURCES.parents[1])}) as node:
            came_to(tmp_path, "import", 2)
            below = workers_of(node.pid)
            node.signal("SIGINT")
            assert node.wait() == 0
            assert node.stdout == ""
            assert not alive(below)
            assert arenas() == before

    def test_sigkill(self, tmp_path: Path) -> None:
        """Nobody can catch it: the workers see their pipe end and go, and the next start sweeps the folders."""
        before = arenas()
        with serve(tmp_path, f"{SOURCES}:Blocks", workers=2) as node:
            below = workers_of(node.pid)
            client = FeederClient(node.endpoint, connect_timeout=2 * PATIENCE)
            held = client[0]
            left = arenas() - before
            node.popen.kill()
            node.wait()
            until(lambda: not alive(below), "the workers end")
            with pytest.raises(NodeUnreachable):
                for i in range(1, 300):
                    client[i]
            client.close()
            assert held.any()
            del held, client
            gc.collect()
            assert left
            assert left <= arenas()
        with serve(tmp_path, f"{SOURCES}:Numbers") as node:
            assert not left & arenas()
            for path in left:
                assert f"removed {path}, left behind by a server that was killed" in node.stderr

    def test_a_living_node_is_not_swept(self, tmp_path: Path) -> None:
        with serve(tmp_path, f"{SOURCES}:Blocks") as first, FeederClient(first.endpoint) as client:
            with serve(tmp_path, f"{SOURCES}:Numbers"):
                assert len(list(client)) == 300
            assert "removed" not in first.stderr


class TestLog:
    def test_plain_lines_in_a_pipe(self, tmp_path: Path) -> None:
        """One a line with time and level, no control characters, and who came and went."""
        with serve(tmp_path, f"{SOURCES}:Numbers", workers=2) as node:
            with FeederClient(node.endpoint) as client:
                list(client)
            until(lambda: re.search("client .* left", node.stderr), lambda: node.stderr)
            node.stop()
        lines = node.stderr.splitlines()
        assert all(re.match(r"\d\d:\d\d:\d\d (INFO|WARNING) +\S", line) for line in lines), node.stderr
        assert "\x1b" not in node.stderr
        assert "\r" not in node.stderr
        for text in ("starting 2 workers for default on tcp://127.0.0.1:", f"pid {os.getpid()} on ", "stopping: it got", "stopped"):
            assert text in node.stderr

    def test_what_batches_are_made_of_and_what_is_regretted(self, tmp_path: Path) -> None:
        """Of an indexed source at the start, before anybody asks; of a stream with its first batch."""
        (tmp_path / "data.py").write_text(
            "import numpy as np\n"
            "SHAPE = 4, 32, 32, 3\n"
            "def batch(): return np.random.rand(*SHAPE), np.random.randint(0, 255, SHAPE, np.int64), np.zeros((4, 512, 512), 'f4')\n"
            "class Items:\n"
            "    def __len__(self): return 5\n"
            "    def __getitem__(self, i): return batch()\n"
            "def stream():\n"
            "    while True: yield batch()\n"
            "class Plain(Items):\n"
            "    def __getitem__(self, i): return np.random.randint(0, 255, (4, 32, 32, 3), np.uint8)\n"
        )
        expected = (
            "source {!r} gives batches of 4.39 MB:",
            "    batch[0]  float64 (4, 32, 32, 3)  98.3 kB",
            "    batch[1]  int64 (4, 32, 32, 3)  98.3 kB",
            "    batch[2]  float32 (4, 512, 512)  4.19 MB",
            "source {!r}: batch[0] is float64: 98.3 kB where float32 needs 49.2 kB",
            "source {!r}: batch[1] is int64 with shape (4, 32, 32, 3), like an image: 98.3 kB where uint8 would need 12.3 kB",
            "source {!r}: batch[2] is 100% 0.0: 4.19 MB per batch are sent for it",
        )
        with serve(tmp_path, "items=data.py:Items", "stream=data.py:stream", "plain=data.py:Plain", workers=2) as node:
            for line in expected:
                node.says(line.format("items"))
            node.says("source 'plain' gives batches of 12.3 kB:")
            assert "source 'stream' gives" not in node.stderr
            with FeederClient(node.endpoint, "stream") as client:
                next(iter(client))
            for line in expected:
                node.says(line.format("stream"))
            assert node.stderr.count("WARNING source") == 6, node.stderr

    def test_what_user_code_prints(self, tmp_path: Path) -> None:
        """Both its outputs, with the worker's name, in any locale."""
        with serve(tmp_path, f"{SOURCES}:Prints", env={"PYTHONIOENCODING": "", "LC_ALL": "C", "PYTHONUTF8": "0"}) as node:
            with FeederClient(node.endpoint) as client:
                assert client[3] == 3
            node.says("[worker 0] complaining about 3")
            until(lambda: re.search(r"\[worker 0\] looking at 3 (\N{CHECK MARK}|\\u2713)", node.stderr), lambda: node.stderr)
            assert node.stdout.count("\n") == 1

    @pytest.mark.skipif(ON_WINDOWS, reason="Windows has no pty")
    def test_a_live_line_on_a_terminal(self, tmp_path: Path) -> None:
        """It shows the workers, the rate and the clients; the log scrolls above it; it is gone at the end."""
        import pty

        ours, theirs = pty.openpty()
        env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "150"}
        command = [*COMMAND, "serve", f"{SOURCES}:Numbers", "-w", "2", "-b", "tcp://127.0.0.1:0"]
        popen = subprocess.Popen(command, cwd=tmp_path, stdin=theirs, stdout=subprocess.PIPE, stderr=theirs, env=env, text=True)
        os.close(theirs)
        shown = bytearray()
        os.set_blocking(ours, False)

        def sees(pattern: bytes) -> Callable[[], object]:
            def look() -> object:
                try:
                    shown.extend(os.read(ours, 65536))
                except (BlockingIOError, OSError):  # nothing just now; or the other end is closed
                    pass
                return re.search(pattern, shown)

            return look

        try:
            assert popen.stdout is not None
            endpoint = popen.stdout.readline().split()[-1]
            figures = rb"workers 2/2 \| [0-9.]+ batches/s \| [0-9.]+ MB/s \| "
            until(sees(figures + rb"clients 0 \| 0 batches \| waiting for a client"), lambda: repr(shown[-500:]))
            with FeederClient(endpoint) as client:
                list(client)
                until(sees(rb"clients 1 \| [2-4][0-9] batches \| the clients have all they asked for"), lambda: repr(shown[-500:]))
            popen.send_signal(signal.SIGINT)
            until(sees(rb"stopped"), lambda: repr(shown[-500:]))
            assert popen.wait(30) == 0
            assert re.search(rb"starting 2 workers for default", shown)
            assert b"\x1b[2K" in shown  # the line is taken away
            assert b"Traceback" not in shown
        finally:
            popen.kill()
            popen.wait()
            popen.stdout.close() if popen.stdout else None
            os.close(ours)
