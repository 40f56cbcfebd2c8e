"""Places without room: small and full shared memory, a full temporary folder, few descriptors.

What can be had by another way is, and that is said once; what can't is an error that says what to make room for, and is over when there
is room. File systems of a few MB are mounted for it, which takes root and Linux.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from feeder_client import FeederClient, FeederError
from tests.serving import SOURCES, Script, posix_signals, serve, until
from tests.system.training import is_pattern

KILOBYTES = 300
BLOCKS = (f"{SOURCES}:Blocks", "-a", "n=60", "-a", f"kilobytes={KILOBYTES}")
right = is_pattern(KILOBYTES * 1024)


@pytest.fixture
def file_system(tmp_path: Path) -> Iterator[Callable[[str, int], Path]]:
    """Mounts a file system in memory of so many MB."""
    mounted: list[Path] = []

    def mount(name: str, megabytes: int) -> Path:
        place = tmp_path / name
        place.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "feeder-test", str(place)]
        try:
            done = subprocess.run(command, capture_output=True, timeout=30, check=False)
        except OSError:
            pytest.skip("nothing can be mounted here")
        if done.returncode:
            pytest.skip(f"nothing can be mounted here: {done.stderr.decode().strip()}")
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", "-l", str(place)], check=True, timeout=30)


def fill(place: Path) -> Path:
    """Leaves no room in a file system."""
    ballast = place / "ballast"
    with open(ballast, "wb", buffering=0) as file:
        for nbytes in (1 << 16, 1 << 12, 1):
            try:
                while True:
                    file.write(bytes(nbytes))
            except OSError:
                continue
    return ballast


class TestSharedMemory:
    def test_that_is_too_small_is_passed_over(self, tmp_path: Path, file_system: Callable[[str, int], Path]) -> None:
        shm = file_system("shm", 8)
        with serve(tmp_path, *BLOCKS, "--memory", "16MiB", workers=2, env={"FEEDER_SHM_DIR": str(shm)}) as node:
            with FeederClient(node.endpoint) as client:
                assert all(right(i, batch) for i, batch in enumerate(client))
            assert node.stderr.count("shared memory is not used") == 1
            assert not list(shm.iterdir())

    def test_that_fills_up_in_mid_pass(self, tmp_path: Path, file_system: Callable[[str, int], Path]) -> None:
        """By another program. No SIGBUS: blocks go into the temporary folder, also for who holds many; later back again."""
        shm = file_system("shm", 32)
        with serve(tmp_path, *BLOCKS, "--memory", "30MiB", workers=2, env={"FEEDER_SHM_DIR": str(shm)}) as node:
            with FeederClient(node.endpoint) as client:
                held = []
                for i, batch in enumerate(client):
                    held.append(batch)
                    if i == 5:
                        fill(shm)
                assert len(held) == 60
                assert all(right(i, batch) for i, batch in enumerate(held))
                assert all(right(i, batch) for i, batch in enumerate(client))
            assert node.stderr.count("no room in") == 1
            assert "restarts" not in node.stderr and "Traceback" not in node.stderr

    @pytest.mark.skipif(sys.platform != "linux", reason="mounts")
    def test_that_is_read_only(self, tmp_path: Path, file_system: Callable[[str, int], Path]) -> None:
        shm = file_system("shm", 64)
        subprocess.run(["mount", "-o", "remount,ro", str(shm)], check=True, timeout=30)
        with serve(tmp_path, *BLOCKS, "--memory", "16MiB", env={"FEEDER_SHM_DIR": str(shm)}) as node:
            with FeederClient(node.endpoint) as client:
                assert all(right(i, batch) for i, batch in enumerate(client))
            assert f"nothing can be written in {shm}" in node.stderr


def test_no_room_anywhere(tmp_path: Path, file_system: Callable[[str, int], Path]) -> None:
    """The batch is an error that says so. When there is room again it can be had, of the same server by the same client."""
    temporary = file_system("temporary", 24)
    env = {"FEEDER_SHM_DIR": "", "TMPDIR": str(temporary)}
    with serve(tmp_path, *BLOCKS, "--memory", "20MiB", workers=2, env=env) as node:
        with FeederClient(node.endpoint, prefetch=2) as client:
            held = [client[0], client[1]]
            ballast = fill(temporary)
            with pytest.raises(FeederError, match=r"no room for a batch of 0.3 MB: .* has 0 MB free. Make room there"):
                held.extend(client[i] for i in range(2, 60))
            ballast.unlink()
            while len(held) < 60:
                with suppress(FeederError):  # what was asked for ahead may have failed before there was room
                    held.append(client[len(held)])
            assert all(right(i, batch) for i, batch in enumerate(held))
        assert "Traceback" not in node.stderr


@posix_signals  # where there are these, there is a limit of descriptors
class TestFewDescriptors:
    LIMITED = """
        import resource, sys
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    """

    def test_of_a_training_that_keeps_every_batch(self, tmp_path: Path) -> None:
        code = (
            self.LIMITED
            + """
        from feeder_client import FeederClient
        from tests.system.training import is_pattern
        right = is_pattern(40 * 1024)
        with FeederClient(sys.argv[1]) as client:
            held = list(client)
            assert len(held) == 500 and all(right(i, batch) for i, batch in enumerate(held))
            assert client.stats().borrowed_bytes > 15_000_000
        print("all right")
        """
        )
        blocks = (f"{SOURCES}:Blocks", "-a", "n=500", "-a", "kilobytes=40")
        with serve(tmp_path, *blocks) as node, Script(tmp_path, code, node.endpoint, env={"PYTHONPATH": str(SOURCES.parents[1])}) as script:
            assert script.wait() == 0, script.output
            assert "all right" in script.stdout

    def test_of_a_node_and_its_workers(self, tmp_path: Path) -> None:
        """What is lent costs none; clients do, and who comes when there are none left waits until others have gone."""
        code = f"""{self.LIMITED}
        from feeder_server.cli import main
        main()
        """
        arguments = (f"{SOURCES}:Blocks", "-a", "n=300", "-a", "kilobytes=40", "--workers", "2", "--bind", "tcp://127.0.0.1:0")
        with Script(tmp_path, code, "serve", *arguments) as node:
            until(lambda: "ready at" in node.stdout, lambda: node.output)
            endpoint = node.stdout.split()[-1]
            right = is_pattern(40 * 1024)
            many: list[Any] = []
            with FeederClient(endpoint) as client:
                held = list(client)
                assert all(right(i, batch) for i, batch in enumerate(held))
                with pytest.raises(FeederError, match="no server answers"):
                    for _ in range(60):
                        many.append(FeederClient(endpoint, connect_timeout=0.5))
                assert len(many) > 10
                assert all(right(i, batch) for i, batch in enumerate(client))
                for one in many:
                    one.close()
                with FeederClient(endpoint, connect_timeout=30) as late:
                    assert right(0, late[0])
            assert "Traceback" not in node.stderr
