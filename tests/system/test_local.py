"""`local()`: a private server for one process, which ends with it however that goes."""

from __future__ import annotations

import gc
import io
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from feeder_client import AuthenticationError, ConfigError, FeederClient, NodeUnreachable, SourceError, SourceNotFound, WorkerCrashed
from feeder_client.local import LocalServer
from feeder_wire.security import make_key_files
from tests.serving import ON_WINDOWS, SOURCES, Running, Script, alive, arenas, arenas_since, kill, posix_signals, shadows, until, workers_of
from tests.sources import Numbers, counted

# Exit codes of a Python that nobody saved: Windows' Popen.kill gives 1, and Ctrl-C its own NTSTATUS.
ENDS_WITH = {"SIGKILL": 1, "SIGINT": 0xC000013A} if ON_WINDOWS else {"SIGKILL": -9, "SIGTERM": -15, "SIGINT": -2}


def labels(client: FeederClient) -> list[int]:
    return [int(y[0, 0]) for _, y in client]


class Shelf:
    """Holds arrays, and tells what their memory is in the process that makes the batch."""

    def __init__(self, n: int) -> None:
        self.x = np.arange(n, dtype=np.float64)

    def __len__(self) -> int:
        return 4

    def __getitem__(self, i: int) -> Any:
        owner: Any = self.x
        while isinstance(owner, (np.ndarray, memoryview)):
            owner = owner.obj if isinstance(owner, memoryview) else owner.base
        return type(owner).__name__, os.getpid(), float(self.x[-1])


class TestWhatIsHandedOver:
    def test_a_target_with_arguments(self) -> None:
        with FeederClient.local(f"{SOURCES}:Numbers", workers=2, args={"n": 7}) as client:
            assert labels(client) == list(range(7))

    def test_an_object(self) -> None:
        with FeederClient.local(Numbers(9), workers=2) as client:
            assert labels(client) == list(range(9))

    def test_a_generator_function(self) -> None:
        with FeederClient.local(counted, workers=1) as client:
            assert list(client) == [0, 1, 2, 3, 4]
            assert list(client) == [0, 1, 2, 3, 4]

    def test_a_closure(self) -> None:
        offset = 40

        def shifted() -> Iterator[int]:
            yield from range(offset, offset + 3)

        with FeederClient.local(shifted, workers=1) as client:
            assert list(client) == [40, 41, 42]

    def test_the_same_batches_as_from_a_target(self) -> None:
        with FeederClient.local(f"{SOURCES}:Epochs", workers=2, seed=3) as client:
            by_name = [list(client) for _ in range(2)]
        from tests.sources import Epochs

        with FeederClient.local(Epochs(), workers=1, seed=3) as client:
            assert [list(client) for _ in range(2)] == by_name

    def test_large_arrays_are_shared(self) -> None:
        """Every worker maps the same file; none holds a copy, and none is in the set-up that goes through the pipe."""
        with FeederClient.local(Shelf(2_000_000), workers=2) as client:
            got = list(client) + list(client)
        assert {(kind, last) for kind, _, last in got} == {("mmap", 1_999_999.0)}

    def test_the_object_here_is_left_alone(self) -> None:
        shelf = Shelf(200_000)
        with FeederClient.local(shelf, workers=1) as client:
            list(client)
        assert shelf.x.base is None
        shelf.x[0] = 5

    def test_options_of_the_server(self) -> None:
        with FeederClient.local(f"{SOURCES}:Pids", workers=3, server={"single": True}) as client:
            assert len({pid for _, pid, _ in client}) == 1

    @pytest.mark.parametrize(
        ("server", "said"),
        [({"memory": "lots"}, "'lots' is not a size"), ({"threads": 0}, "--threads 0"), ({"bind": "tcp://0.0.0.0:1"}, "bind")],
    )
    def test_options_that_can_not_work(self, server: dict[str, Any], said: str) -> None:
        with pytest.raises(ConfigError, match=said):
            FeederClient.local(f"{SOURCES}:Numbers", workers=1, server=server)


class TestWhatCanNotBeHandedOver:
    """An error at once that names what is in the way and shows what to do; nothing is left (the fixture looks)."""

    def test_a_lock(self) -> None:
        source = Numbers()
        source.guard = threading.Lock()  # type: ignore[attr-defined]
        with pytest.raises(ConfigError, match=r"source\.guard") as caught:
            FeederClient.local(source, workers=1)
        assert "lock" in str(caught.value)
        assert "local(" in str(caught.value)

    def test_an_open_file(self, tmp_path: Path) -> None:
        source = Numbers()
        with (tmp_path / "data.bin").open("wb") as file:
            source.file = file  # type: ignore[attr-defined]
            with pytest.raises(ConfigError, match=r"source\.file") as caught:
                FeederClient.local(source, workers=1)
        assert "file" in str(caught.value)

    def test_a_generator(self) -> None:
        with pytest.raises(ConfigError, match="generator") as caught:
            FeederClient.local(counted(), workers=1)
        assert "counted" in str(caught.value)

    def test_arguments_for_an_object(self) -> None:
        with pytest.raises(ConfigError, match="args="):
            FeederClient.local(Numbers(), workers=1, args={"n": 3})

    def test_arguments_that_are_no_plain_values(self) -> None:
        with pytest.raises(ConfigError, match="args="):
            FeederClient.local(f"{SOURCES}:Numbers", workers=1, args={"n": io.BytesIO()})

    def test_endpoint_and_keys_are_its_own(self) -> None:
        with pytest.raises(ConfigError, match="chooses its own"):
            FeederClient.local(f"{SOURCES}:Numbers", workers=1, keys="x")
        with pytest.raises(
            TypeError, match=r"^FeederClient.local\(\) has no option batch_size, epochs; it has .*prefetch.* goes into args=\{"
        ):
            FeederClient.local(f"{SOURCES}:Numbers", workers=1, batch_size=32, epochs=2)


class TestErrors:
    """Those of the server reach the one who called it."""

    def test_a_file_that_is_missing(self) -> None:
        with pytest.raises(SourceNotFound, match=r"did you mean 'sources\.py'"):
            FeederClient.local(f"{SOURCES.parent / 'sourcse.py'}:Numbers", workers=1)

    def test_a_target_that_is_none(self) -> None:
        with pytest.raises(ConfigError, match="NAME"):
            FeederClient.local("augment.py", workers=1)

    def test_an_error_at_import(self, tmp_path: Path) -> None:
        (tmp_path / "bad.py").write_text("raise LookupError('nothing here')\n")
        with pytest.raises(SourceError, match="nothing here") as caught:
            FeederClient.local(f"{tmp_path / 'bad.py'}:x", workers=2)
        assert isinstance(caught.value, LookupError)
        assert f'File "{tmp_path / "bad.py"}", line 1' in str(caught.value)

    def test_an_error_of_a_server_that_has_ended_before_anybody_connected(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Workers start before the rest of a server does, and may have failed before it can be reached."""
        (tmp_path / "bad.py").write_text("raise LookupError('nothing here')\n")
        started = LocalServer._await_endpoint

        def too_late(self: LocalServer) -> str:
            endpoint = started(self)
            self._process.wait(60)
            return endpoint

        monkeypatch.setattr(LocalServer, "_await_endpoint", too_late)
        with pytest.raises(SourceError, match="nothing here") as caught:
            FeederClient.local(f"{tmp_path / 'bad.py'}:x", workers=2)
        assert isinstance(caught.value, LookupError)
        assert f'File "{tmp_path / "bad.py"}", line 1' in str(caught.value)

    def test_an_error_in_a_batch(self) -> None:
        with FeederClient.local(f"{SOURCES}:Broken", workers=2) as client:
            batches = iter(client)
            assert [int(next(batches)[1][0, 0]) for _ in range(4)] == [0, 1, 2, 3]
            with pytest.raises(ValueError, match="picture 4 is broken"):
                next(batches)

    def test_workers_that_keep_dying(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        """With their last words, which also came out where the user looks."""
        (tmp_path / "crash.py").write_text("import os\nprint('no such device')\nos._exit(6)\n")
        with pytest.raises(WorkerCrashed, match="no such device"):
            FeederClient.local(f"{tmp_path / 'crash.py'}:x", workers=1)
        assert "[worker 0] no such device" in capfd.readouterr().err

    def test_the_server_dies_under_a_waiting_trainer(self, tmp_path: Path) -> None:
        """An error at once, with its exit code; not the batch's time-out, nor a hang."""
        client = FeederClient.local(f"{SOURCES}:Holds", workers=1, args={"folder": str(tmp_path), "at": 2}, connect_timeout=120)
        (server,) = [pid for pid, p in workers_of(os.getpid()).items() if "feeder_server.private" in " ".join(p.cmdline())]
        below = workers_of(server)
        caught: list[BaseException] = []

        def read() -> None:
            try:
                list(client)
            except Exception as e:
                caught.append(e)

        trainer = threading.Thread(target=read)
        trainer.start()
        until(lambda: list(tmp_path.glob("at-2-*")), "the worker is at batch 2")
        kill(server)
        trainer.join(20)
        assert not trainer.is_alive()
        assert isinstance(caught[0], NodeUnreachable)
        assert f"the private server has ended (exit code {15 if ON_WINDOWS else -9})" in str(caught[0])
        until(lambda: not alive(below), "the worker ends")
        client.close()
        gc.collect()
        with FeederClient.local(f"{SOURCES}:Numbers", workers=1) as again:  # which sweeps
            assert len(labels(again)) == 20


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """Of a private server that somebody uses."""
    with FeederClient.local(f"{SOURCES}:Numbers", workers=1) as client:
        found = re.search(r"tcp://127\.0\.0\.1:\d+", repr(client))
        assert found
        yield found[0]
        assert len(labels(client)) == 20  # and it is not disturbed


class TestPrivate:
    """Nobody else can connect, and who tries is told so at once."""

    def test_without_keys(self, endpoint: str) -> None:
        self.refused(endpoint)

    def test_with_other_keys(self, endpoint: str, tmp_path: Path) -> None:
        public, secret = make_key_files(tmp_path, "mine")
        self.refused(endpoint, keys=secret, server_key=public)

    def refused(self, endpoint: str, **options: Any) -> None:
        started = time.monotonic()
        with pytest.raises(AuthenticationError, match=re.escape(endpoint)):
            FeederClient(endpoint, connect_timeout=60, **options)
        assert time.monotonic() - started < 15

    def test_nothing_secret_is_on_a_command_line(self, endpoint: str) -> None:
        for process in workers_of(os.getpid()).values():
            assert not re.search(
                r"[!-~]{40}", " ".join(process.cmdline()).replace("feeder_server", "").replace("/", " ").replace("\\", " ")
            )


# The class is the script's own, the script has no main guard, and what it does at its top would be done again by multiprocessing.
SCRIPT = """
    import os, sys
    import numpy as np
    from feeder_client import FeederClient

    print("top of", __name__)

    class Mine:
        def __len__(self):
            return 5
        def __getitem__(self, i):
            return np.arange(50_000) + i, os.getpid()

    client = FeederClient.local(Mine(), workers=2)
    got = list(client)
    print([int(x[0]) for x, _ in got], os.getpid() in {pid for _, pid in got})
"""


class TestTheEndOfTheTrainer:
    def test_a_script_without_a_main_guard(self, tmp_path: Path) -> None:
        """It closes nothing either: the end of the interpreter does."""
        before = arenas()
        with Script(tmp_path, SCRIPT) as script:
            assert script.wait() == 0, script.output
            assert script.stdout.splitlines() == ["top of __main__", "[0, 1, 2, 3, 4] False"]
            # That it waits, on a slow machine, and that a process id differs between workers, once two have made the same batch.
            said = ("waiting for source 'default'", "the copies of source 'default' agree in the order")
            assert not [line for line in script.stderr.splitlines() if not line.startswith(said)]
        until(lambda: not arenas_since(before), lambda: f"left: {arenas_since(before)}")

    def test_a_folder_whose_files_are_called_like_modules(self, tmp_path: Path) -> None:
        script = tmp_path / "script.py"
        script.write_text("from feeder_client import FeederClient\nwith FeederClient.local([1, 2], workers=1) as c: print(list(c))\n")
        with Running([sys.executable, str(script)], shadows(tmp_path / "mine")) as running:
            assert running.wait() == 0, running.output
            assert running.stdout == "[1, 2]\n"

    def test_as_in_a_notebook(self, tmp_path: Path) -> None:
        """Cells are run by exec in a namespace called __main__ that has no file; a second cell gets an error and goes on."""
        cells = """
            import types, sys
            main = types.ModuleType("__main__")
            main.__dict__.update(__name__="__main__")
            sys.modules["__main__"] = main
            def cell(code):
                exec(compile(code, "<ipython-input>", "exec"), main.__dict__)
            cell("import numpy as np\\nfrom feeder_client import FeederClient")
            cell("scale = 3\\ndef helper(i): return i * scale")
            cell("class Mine:\\n  def __len__(self): return 4\\n  def __getitem__(self, i): return np.full(3, helper(i))")
            cell("client = FeederClient.local(Mine(), workers=1)")
            cell("print([int(b[0]) for b in client])")
            cell("scale = 5")
            cell("client.close()\\nclient = FeederClient.local(Mine(), workers=1)")
            cell("print([int(b[0]) for b in client])")
        """
        with Script(tmp_path, cells) as script:
            assert script.wait() == 0, script.output
            assert script.stdout.splitlines() == ["[0, 3, 6, 9]", "[0, 5, 10, 15]"]
            assert script.stderr == ""

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")
    def test_a_child_that_the_trainer_forks(self, tmp_path: Path) -> None:
        """Its end is not the trainer's, nor is a close() there: nothing is taken away, so that a new worker finds the object too."""
        code = """
            import os, sys, time
            import numpy as np
            from feeder_client import FeederClient
            class Mine(list):
                def __init__(self): super().__init__(range(50)); self.x = np.zeros(400_000)
            client = FeederClient.local(Mine(), workers=1)
            batches = iter(client)
            next(batches)
            for close in (False, True):
                if os.fork() == 0:
                    if close:
                        client.close()
                    sys.exit(0)
                assert os.wait()[1] == 0
            print("forked", flush=True)
            while not os.path.exists("go"): time.sleep(0.01)
            print(len(list(batches)), len(list(client)))
        """
        with Script(tmp_path, code) as script:
            script.says("forked")
            (worker,) = [p for p in workers_of(script.pid).values() if "feeder_server.worker" in " ".join(p.cmdline())]
            worker.kill()
            (tmp_path / "go").touch()
            assert script.wait() == 0, script.output
            assert script.stdout.splitlines()[1] == "49 50"

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")
    @pytest.mark.parametrize("how", ["closed", "killed"])
    def test_a_forked_child_that_lives_on(self, tmp_path: Path, how: str) -> None:
        """It holds open what it has inherited, the server's pipe too, as torch's DataLoader does; the server ends all the same."""
        before = arenas()
        code = """
            import os, sys, time
            from feeder_client import FeederClient
            client = FeederClient.local([1, 2, 3], workers=1)
            print(list(client))
            if os.fork() == 0:
                os.closerange(0, 3)
                while not os.path.exists("go"):
                    time.sleep(0.01)
                os._exit(0)
            print("forked", flush=True)
            if sys.argv[1] == "closed":
                client.close()
            else:
                time.sleep(1000)
        """
        with Script(tmp_path, code, how) as script:
            script.says("forked")
            if how == "killed":
                below = {pid: p for pid, p in workers_of(script.pid).items() if "feeder_server" in " ".join(p.cmdline())}
                assert len(below) == 2
                script.signal("SIGKILL")
                until(lambda: not alive(below), lambda: f"left: {alive(below)}")
            assert script.wait() == (0 if how == "closed" else -9), script.output
            until(lambda: not arenas_since(before), lambda: f"left: {arenas_since(before)}")
            assert script.stderr == ""  # nor had it to be killed
            (tmp_path / "go").touch()

    @pytest.mark.parametrize("name", ["SIGKILL", pytest.param("SIGTERM", marks=posix_signals), "SIGINT"])
    def test_killed(self, tmp_path: Path, name: str) -> None:
        """However the trainer goes: server, workers and folders are gone, and nothing is said but Python's own words."""
        before = arenas()
        code = """
            from feeder_client import FeederClient
            import numpy as np
            class Mine:
                def __init__(self): self.x = np.zeros(400_000)
                def __len__(self): return 10**6
                def __getitem__(self, i): return self.x[:50_000]
            client = FeederClient.local(Mine(), workers=2)
            for i, batch in enumerate(client):
                if i == 20:
                    print("on the way", flush=True)
        """
        with Script(tmp_path, code) as script:
            script.says("on the way")
            below = workers_of(script.pid)
            assert len(below) == 3
            assert len(arenas() - before) >= 2
            script.signal(name)
            assert script.wait() == ENDS_WITH[name], script.output
            until(lambda: not alive(below), lambda: f"left: {alive(below)}")
            until(lambda: not arenas_since(before), lambda: f"left: {arenas_since(before)}")
            errors = script.stderr
            assert errors.count("Traceback") == (name == "SIGINT")
            assert "feeder_server" not in errors

    def test_dropped_without_close(self) -> None:
        before = workers_of(os.getpid())
        client = FeederClient.local(f"{SOURCES}:Numbers", workers=1)
        assert len(labels(client)) == 20
        below = {pid: process for pid, process in workers_of(os.getpid()).items() if pid not in before}
        assert len(below) == 2
        del client
        gc.collect()
        until(lambda: not alive(below), lambda: f"left: {alive(below)}")

    def test_close_twice(self) -> None:
        before = arenas()
        client = FeederClient.local(f"{SOURCES}:Numbers", workers=1)
        client.close()
        client.close()
        assert arenas() == before

    def test_what_user_code_prints_comes_out_here(self, tmp_path: Path) -> None:
        code = f"""
            from feeder_client import FeederClient
            with FeederClient.local({f"{SOURCES}:Prints"!r}, workers=1) as client:
                print(client[3])
        """
        with Script(tmp_path, code) as script:
            assert script.wait() == 0, script.output
            assert script.stdout == "3\n"
            assert "[worker 0] looking at 3 \N{CHECK MARK}\n" in script.stderr
            assert "[worker 0] complaining about 3\n" in script.stderr
