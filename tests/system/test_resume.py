"""Going on where a process was killed, with real servers: what comes is what would have come, and nothing is made again to get there.

Trainings with Keras: tests/keras/test_resume.py.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from feeder_client import FeederClient
from tests.serving import QUICK_RESTARTS, Script, Serving, free_port, kill, serve

SOURCES = Path(__file__).with_name("resuming_sources.py")
PROBE = {(0, 0), (0, 1), (0, 2)}
"""What two workers make to compare their copies, in epoch 0."""


def made(log: Path) -> list[tuple[int, ...]]:
    """What was made, without who made it."""
    return [tuple(map(int, line.split()[1:])) for line in log.read_text().splitlines()] if log.exists() else []


def plain(batch: Any) -> Any:
    """A batch as something that can be compared and sorted."""
    return tuple(part.tobytes() if hasattr(part, "tobytes") else part for part in batch)


def read(client: FeederClient, count: int | None = None) -> list[Any]:
    """So many batches, or a whole pass."""
    return [plain(batch) for batch in itertools.islice(client, count)]


class TestIndexed:
    @pytest.mark.parametrize("left_at", [1, 5, 12])
    def test_nothing_is_made_again_by_a_fresh_server(self, tmp_path: Path, left_at: int) -> None:
        log = tmp_path / "log"
        target = f"{SOURCES}:Logged"
        with serve(tmp_path, target, "-a", f"log={log}", workers=2) as node, FeederClient(node.endpoint, prefetch=3) as client:
            whole = [read(client) for _ in range(3)]
        log.unlink()
        with serve(tmp_path, target, workers=2) as node, FeederClient(node.endpoint, prefetch=3) as client:
            assert read(client) == whole[0]
            assert read(client, left_at) == whole[1][:left_at]
            state = json.loads(json.dumps(client.state_dict()))
        with serve(tmp_path, target, "-a", f"log={log}", workers=2) as node:
            with FeederClient(node.endpoint, prefetch=3, resume=state) as client:
                rest = whole[1][left_at:] if left_at < 12 else whole[2]
                epoch = 1 + left_at // 12
                assert len(client) == 12
                assert read(client) == rest
            owed = {(epoch, i) for _, i, _ in rest} | {(epoch + 1, i) for i in range(4)}
            found = made(log)
            # As long as the copies have not been compared, the first worker makes batch 0 of each epoch before any other.
            first = {(e, 0) for e in range(epoch + 1)}
            assert set(found) <= owed | PROBE | {(0, 3)} | first, sorted(set(found) - owed)
            again = Counter(key for key in found if key[1] and key[0])
            assert max(again.values()) == 1, again

    def test_nor_by_one_that_is_warm(self, tmp_path: Path) -> None:
        log = tmp_path / "log"
        with serve(tmp_path, f"{SOURCES}:Logged", "-a", f"log={log}", workers=2) as node:
            code = f"""
                import json, os
                from feeder_client import FeederClient
                client = FeederClient({node.endpoint!r}, prefetch=3)
                got = [client[i] for i in range(5)]
                open("state", "w").write(json.dumps(client.state_dict()))
                os._exit(9)
            """
            with Script(tmp_path, code) as script:
                assert script.wait() == 9, script.output
            before = made(log)
            state = json.loads((tmp_path / "state").read_text())
            with FeederClient(node.endpoint, prefetch=3, resume=state) as client:
                assert [batch[:2] for batch in client] == [(0, i) for i in range(5, 12)]
            after = made(log)[len(before) :]
            assert set(after) <= {(0, i) for i in range(5, 12)} | {(1, i) for i in range(4)}
            assert max(Counter(after).values()) == 1

    def test_in_a_share(self, tmp_path: Path) -> None:
        with serve(tmp_path, f"{SOURCES}:Logged", workers=2) as node:
            with FeederClient(node.endpoint, rank=1, world_size=2) as client:
                first = read(client, 4)
                state = client.state_dict()
            with FeederClient(node.endpoint, rank=1, world_size=2, resume=state) as client:
                rest = read(client)
            assert [i for _, i, _ in first + rest] == [1, 3, 5, 7, 9, 11]


class TestSharded:
    @pytest.mark.parametrize("transport", ["auto", "tcp"])
    @pytest.mark.parametrize(
        ("order", "source", "size"), [("ready", "augmented", 4), ("fixed", "augmented", 20000), ("fixed", "skipping", None)]
    )
    def test_the_rest_of_a_run(self, tmp_path: Path, order: str, source: str, size: int | None, transport: str) -> None:
        """The same bytes as undisturbed."""
        target = [f"{SOURCES}:{source}", "--stream-order", order, *(["-a", f"size={size}"] if size else [])]
        with serve(tmp_path, *target, workers=2) as node:
            with FeederClient(node.endpoint, transport=transport) as client:
                whole = [read(client) for _ in range(3)]
            with FeederClient(node.endpoint, transport=transport) as client:
                assert sorted(read(client)) == sorted(whole[0])
                begun = read(client, 11)
                state = client.state_dict()
        with serve(tmp_path, *target, workers=2) as node:
            with FeederClient(node.endpoint, transport=transport, resume=state) as client:
                rest, following = read(client), read(client)
        assert sorted(item for item, _ in begun + rest) == list(range(30))
        if order == "fixed":
            assert [begun + rest, following] == whole[1:]
        else:
            assert [sorted(begun + rest), sorted(following)] == [sorted(run) for run in whole[1:]]

    def test_how_many_are_made_to_get_there(self, tmp_path: Path) -> None:
        """With `start_batch` one by each worker, without it all that lie before: made in the worker, and not sent."""
        for source, expected in (("skipping", 2), ("augmented", 20)):
            log = tmp_path / source
            target = f"{SOURCES}:{source}"
            with serve(tmp_path, target, "--stream-order", "fixed", workers=2) as node, FeederClient(node.endpoint) as client:
                begun, state = read(client, 20), client.state_dict()
            with serve(tmp_path, target, "--stream-order", "fixed", "-a", f"log={log}", workers=2) as node:
                with FeederClient(node.endpoint, prefetch=1, resume=state) as client:
                    rest = read(client, 9)  # not the last one, so that the next run is not begun
                    assert client.stats().batches == 9
            assert len({item for item, _ in begun + rest}) == 29
            found = [item for item, *_ in made(log)]
            assert len(set(found) & {item for item, _ in begun}) == expected == len([i for i in found if i in {b for b, _ in begun}])


class TestFixed:
    @pytest.mark.parametrize("workers", [1, 2, 3])
    def test_the_same_sequence_on_every_run(self, tmp_path: Path, workers: int) -> None:
        runs = []
        for transport in ("auto", "tcp"):
            with serve(tmp_path, f"{SOURCES}:drawing", "--stream-order", "fixed", workers=workers) as node:
                with FeederClient(node.endpoint, transport=transport) as client:
                    runs.append([read(client), read(client)])
        assert runs[0] == runs[1]
        assert [i for i, *_ in runs[0][0]] == [i for i in range(9) for _ in range(workers)]
        assert len({noise for _, noise, _ in runs[0][0] + runs[0][1]}) == 18 * workers, "other numbers for each worker and run"

    def test_two_nodes_and_steps(self, tmp_path: Path) -> None:
        def start(stack: ExitStack) -> list[str]:
            options = ["--stream-order", "fixed"]
            return [stack.enter_context(serve(tmp_path, f"{SOURCES}:drawing", *options, workers=w)).endpoint for w in (1, 2)]

        with ExitStack() as stack, FeederClient(start(stack), steps=10) as client:
            whole = [read(client) for _ in range(6)]
        with ExitStack() as stack:
            with FeederClient(start(stack), steps=10) as client:
                begun = [*(read(client) for _ in range(3)), read(client, 4)]
                state = client.state_dict()
        with ExitStack() as stack, FeederClient(start(stack), steps=10, resume=state) as client:
            rest = [read(client) for _ in range(3)]
        assert list(itertools.chain(*begun, *rest)) == list(itertools.chain(*whole))
        assert len(rest[0]) == 6

    def test_a_worker_is_killed(self, tmp_path: Path) -> None:
        target = [f"{SOURCES}:augmented", "-a", "n=300", "--stream-order", "fixed"]
        with serve(tmp_path, *target, workers=2) as node, FeederClient(node.endpoint) as client:
            whole = read(client)
        with serve(tmp_path, *target, workers=2, constants=QUICK_RESTARTS) as node, FeederClient(node.endpoint, prefetch=4) as client:
            begun = read(client, 100)
            kill(node.workers[0])
            assert begun + read(client) == whole

    def test_the_node_is_killed_and_comes_back(self, tmp_path: Path) -> None:
        port = free_port()
        target = ["-a", "n=300", "--stream-order", "fixed"]
        with serve(tmp_path, f"{SOURCES}:augmented", *target, workers=2, bind=f"tcp://127.0.0.1:{port}") as node:
            client = FeederClient(node.endpoint, prefetch=4)
            begun = read(client, 100)
            node.kill()
        with client, serve(tmp_path, f"{SOURCES}:augmented", *target, workers=2, bind=f"tcp://127.0.0.1:{port}") as again:
            rest = read(client)
            assert isinstance(again, Serving)
            with FeederClient(again.endpoint) as other:
                whole = read(other)
        assert begun + rest == whole
