"""Workers are started, watched, restarted with a back-off, and stopped: by fakes with a clock of ours, and a few real processes."""

from __future__ import annotations

import io
import json
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from feeder_server import launching
from feeder_server import supervisor as supervisor_module
from feeder_server.launching import worker_environment, worker_options
from feeder_server.supervisor import FIRST_DELAY, LONGEST_DELAY, MAX_CRASHES, TAIL_LINES, Lost, Supervisor, describe_exit

PATIENCE = 30.0


class Stdin(io.BytesIO):
    """A pipe that remembers what was written to it."""

    written = b""

    def close(self) -> None:
        if not self.closed:
            self.written = self.getvalue()
        super().close()


class FakeProcess:
    """A thin twin of Popen: its output is a real pipe, so that it ends when the process does."""

    def __init__(self, pid: int, options: dict[str, Any], obeys: bool) -> None:
        reading, writing = os.pipe()
        self.pid, self.options, self.obeys = pid, options, obeys
        self.stdout = os.fdopen(reading, "rb")
        self._output = os.fdopen(writing, "wb", 0)
        self.stdin = Stdin()
        self._handle = 0  # on Windows: of no process, so the system doesn't put it into a job
        self.returncode: int | None = None
        self.killed = False
        self._ended = threading.Event()

    def say(self, text: str) -> None:
        self._output.write(text.encode() + b"\n")

    def end(self, code: int) -> None:
        if self.returncode is None:
            self.returncode = code
            self._output.close()
            self._ended.set()

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.obeys and self.stdin.closed:
            self.end(0)
        # No test waits for a real deadline: a process that doesn't obey has simply used it up.
        if timeout is not None and self.returncode is None:
            raise subprocess.TimeoutExpired("fake", timeout)
        assert self._ended.wait(PATIENCE)
        assert self.returncode is not None
        return self.returncode

    def kill(self) -> None:
        self.killed = True
        self.end(-9)


class Stage:
    """A supervisor whose processes are fakes."""

    def __init__(self, slots: int = 2, obeys: bool = True, **options: Any) -> None:
        self.processes: list[FakeProcess] = []
        self.started: queue.Queue[FakeProcess] = queue.Queue()
        self.obeys = obeys
        self.error: OSError | None = None
        self.supervisor = Supervisor(slots, lambda slot, generation: {"slot": slot, "generation": generation}, spawn=self.spawn, **options)  # type: ignore[arg-type]

    def spawn(self, command: list[str], **options: Any) -> FakeProcess:
        if self.error is not None:
            raise self.error
        made = FakeProcess(100 + len(self.processes), {"command": command, **options}, self.obeys)
        self.processes.append(made)
        self.started.put(made)
        return made

    def poll(self, now: float) -> list[Lost]:
        return self.supervisor.poll(now)

    def running(self, count: int) -> dict[int, FakeProcess]:
        """By slot, all of them, once they have their set-up."""
        found = {}
        for _ in range(count):
            process = self.started.get(timeout=PATIENCE)
            wait_until(lambda process=process: process.stdin.closed or b"\n" in process.stdin.getvalue())
            found[setup_of(process)["slot"]] = process
        wait_until(lambda: all(self.supervisor.pid(slot) == process.pid for slot, process in found.items()))
        return found


def setup_of(process: FakeProcess) -> dict[str, Any]:
    text = process.stdin.written if process.stdin.closed else process.stdin.getvalue()
    return json.loads(text)  # type: ignore[no-any-return]


def wait_until(done: Callable[[], bool]) -> None:
    """Waits for what another thread is about to do."""
    event = threading.Event()
    for _ in range(int(PATIENCE / 0.005)):
        if done():
            return
        event.wait(0.005)
    raise AssertionError("it never came")


@pytest.fixture
def stage() -> Iterator[Callable[..., Stage]]:
    """Makes stages whose supervisors are stopped after the test."""
    made: list[Stage] = []

    def make(*args: Any, **options: Any) -> Stage:
        made.append(Stage(*args, **options))
        return made[-1]

    yield make
    for each in made:
        each.supervisor.kill()


class TestStarting:
    def test_all_at_once_each_with_its_set_up(self, stage: Callable[..., Stage]) -> None:
        on = stage(3)
        assert on.poll(0.0) == []
        running = on.running(3)
        assert {slot: setup_of(p) for slot, p in running.items()} == {s: {"slot": s, "generation": 1} for s in range(3)}
        assert on.poll(0.1) == []
        assert len(on.processes) == 3
        assert not any(p.stdin.closed for p in running.values()), "the pipe stays open: its end means that the node is gone"

    def test_fresh_interpreters_out_of_reach_of_ctrl_c(self, stage: Callable[..., Stage]) -> None:
        on = stage(1)
        on.poll(0.0)
        options = on.running(1)[0].options
        assert options["command"][:2] == [sys.executable, "-c"]
        assert "feeder_server.worker" in options["command"][2]
        assert options["stdin"] == options["stdout"] == subprocess.PIPE
        assert options["stderr"] == subprocess.STDOUT
        if sys.platform == "win32":
            assert options["creationflags"] == subprocess.CREATE_NEW_PROCESS_GROUP
        else:
            assert options["start_new_session"] is True

    def test_windows_has_process_groups_for_that(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "platform", "win32")
        monkeypatch.setattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 512, raising=False)
        options = worker_options({})
        assert options["creationflags"] == 512
        assert "start_new_session" not in options

    def test_what_a_worker_prints_goes_to_the_log(self, stage: Callable[..., Stage], caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "feeder.worker")
        on = stage(1)
        on.poll(0.0)
        process = on.running(1)[0]
        process.say("loading ✓ images")
        process._output.write(b"\xff\n")
        wait_until(lambda: len(caplog.records) == 2)
        assert [r.getMessage() for r in caplog.records] == ["[worker 0] loading ✓ images", "[worker 0] \\xff"]

    def test_a_process_that_cannot_be_started_is_a_loss(self, stage: Callable[..., Stage]) -> None:
        on = stage(1)
        on.error = OSError(12, "Cannot allocate memory")
        on.poll(0.0)
        lost: list[Lost] = []
        wait_until(lambda: bool(lost.extend(on.poll(1.0)) or lost))
        assert lost == [Lost(0, 1, "could not be started: [Errno 12] Cannot allocate memory", ())]
        on.error = None
        on.poll(1.0 + FIRST_DELAY)
        assert setup_of(on.running(1)[0])["generation"] == 2

    def test_a_process_that_dies_before_it_reads_its_set_up(self, stage: Callable[..., Stage], monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(stdin: Stdin, data: bytes) -> int:
            raise BrokenPipeError

        monkeypatch.setattr(Stdin, "write", broken)
        on = stage(1)
        on.poll(0.0)
        process = on.started.get(timeout=PATIENCE)
        process.end(1)
        lost: list[Lost] = []
        wait_until(lambda: bool(lost.extend(on.poll(1.0)) or lost))
        assert lost[0].why == "exit code 1"


class TestRestarting:
    def test_a_lost_worker_is_reported_once_and_replaced_after_a_while(self, stage: Callable[..., Stage]) -> None:
        on = stage(2)
        on.poll(0.0)
        dead = on.running(2)[1]
        dead.say("first line")
        dead.say("Segmentation fault")
        dead.end(-11)
        assert on.poll(10.0) == [Lost(1, 1, "killed by SIGSEGV", ("first line", "Segmentation fault"))]
        assert on.supervisor.pid(1) is None
        assert on.poll(10.0 + FIRST_DELAY - 0.01) == []
        assert on.started.empty()
        on.poll(10.0 + FIRST_DELAY)
        fresh = on.running(1)[1]
        assert setup_of(fresh) == {"slot": 1, "generation": 2}
        assert on.supervisor.restarts == 1

    def test_ever_more_slowly_and_then_no_more(self, stage: Callable[..., Stage]) -> None:
        on = stage(1)
        now, delays = 0.0, []
        on.poll(now)
        for crash in range(1, MAX_CRASHES + 1):
            on.running(1)[0].end(3)
            assert [lost.why for lost in on.poll(now)] == ["exit code 3"]
            if crash == MAX_CRASHES:
                break
            assert not on.supervisor.hopeless()
            delay = on.supervisor._places[0].start_at - now  # type: ignore[operator]
            delays.append(delay)
            on.poll(now + 0.99 * delay)
            assert on.started.empty()
            now += delay
            on.poll(now)
        assert delays == [min(LONGEST_DELAY, FIRST_DELAY * 2**i) for i in range(MAX_CRASHES - 1)]
        on.poll(now + 1000)
        assert on.started.empty(), "restart without a budget is a fork bomb"
        why = f"{MAX_CRASHES} workers in a row died without having made a batch, the last one: exit code 3"
        assert on.supervisor.hopeless() == [Lost(0, MAX_CRASHES, why, ())]

    def test_a_batch_pardons_all_crashes(self, stage: Callable[..., Stage]) -> None:
        on = stage(1)
        now = 0.0
        on.poll(now)
        for _ in range(3 * MAX_CRASHES):
            process = on.running(1)[0]
            on.supervisor.progressed(0)
            process.end(-9)
            assert len(on.poll(now)) == 1
            assert on.supervisor._places[0].start_at == now + FIRST_DELAY
            now += 1.0
            on.poll(now)
        assert not on.supervisor.hopeless()
        assert on.supervisor.restarts == 3 * MAX_CRASHES

    def test_who_had_loaded_gets_as_many_as_a_batch_may_be_tried(self, stage: Callable[..., Stage]) -> None:
        on = stage(2, max_crashes=MAX_CRASHES + 3)
        now = 0.0
        on.poll(now)
        for crash in range(1, MAX_CRASHES + 4):
            for slot, process in on.running(2 if crash <= MAX_CRASHES else 1).items():
                if slot == 1:
                    on.supervisor.loaded(1)
                process.end(-9)
            on.poll(now)
            now += LONGEST_DELAY
            on.poll(now)
            expected = [0] * (crash >= MAX_CRASHES) + [1] * (crash >= MAX_CRASHES + 3)
            assert [lost.slot for lost in on.supervisor.hopeless()] == expected

    def test_one_that_was_killed_is_no_sign_that_the_next_one_dies(self, stage: Callable[..., Stage]) -> None:
        on = stage(1)
        now = 0.0
        on.poll(now)
        for _ in range(3 * MAX_CRASHES):
            process = on.running(1)[0]
            on.supervisor.loaded(0)
            assert on.supervisor.end(0, "killed, for it took too long")
            assert process.killed
            assert not on.supervisor.end(0, "again"), "it is dead already"
            assert [lost.why for lost in on.poll(now)] == ["killed, for it took too long"]
            assert not on.supervisor.end(0, "nobody"), "nobody is there"
            assert on.supervisor._places[0].start_at == now + FIRST_DELAY
            now += FIRST_DELAY
            on.poll(now)
        assert not on.supervisor.hopeless()
        on.running(1)[0].end(3)
        assert [lost.why for lost in on.poll(now)] == ["exit code 3"], "the next one dies of its own"

    def test_crashes_that_a_batch_was_given_up_for_are_excused(self, stage: Callable[..., Stage]) -> None:
        on = stage(1)
        now = 0.0
        on.poll(now)
        for _ in range(3 * MAX_CRASHES):
            process = on.running(1)[0]
            on.supervisor.loaded(0)
            process.end(3)
            on.poll(now)
            on.supervisor.excuse()
            now += LONGEST_DELAY
            on.poll(now)
        assert not on.supervisor.hopeless()
        for _ in range(MAX_CRASHES):  # before they had their sources: no batch is to blame
            on.running(1)[0].end(3)
            on.poll(now)
            on.supervisor.excuse()
            now += LONGEST_DELAY
            on.poll(now)
        assert len(on.supervisor.hopeless()) == 1

    def test_one_slots_crashes_are_not_anothers(self, stage: Callable[..., Stage]) -> None:
        on = stage(2)
        on.poll(0.0)
        first = on.running(2)
        first[0].end(1)
        on.poll(0.0)
        on.poll(1.0)
        on.running(1)
        first[1].end(1)
        on.poll(1.0)
        assert [place.crashes for place in on.supervisor._places] == [1, 1]

    def test_only_the_last_lines_are_kept(self, stage: Callable[..., Stage]) -> None:
        on = stage(1)
        on.poll(0.0)
        process = on.running(1)[0]
        for number in range(3 * TAIL_LINES):
            process.say(f"line {number}")
        process.end(1)
        (lost,) = on.poll(0.0)
        assert lost.tail == tuple(f"line {n}" for n in range(2 * TAIL_LINES, 3 * TAIL_LINES))


class TestStopping:
    def test_those_told_get_time_the_others_lose_their_pipe(self, stage: Callable[..., Stage]) -> None:
        on = stage(2)
        on.poll(0.0)
        running = on.running(2)
        running[1].end(0)  # it was told to stop, and did
        on.supervisor.stop(3.0, told={1})
        assert running[0].stdin.closed
        assert running[0].returncode == 0
        assert not any(p.killed for p in running.values())

    def test_who_does_not_obey_is_killed(self, stage: Callable[..., Stage]) -> None:
        on = stage(2, obeys=False)
        on.poll(0.0)
        running = on.running(2)
        on.supervisor.stop(3.0, told={0})
        assert all(p.killed for p in running.values())

    def test_afterwards_nothing_is_reported_or_started(self, stage: Callable[..., Stage]) -> None:
        on = stage(2)
        on.poll(0.0)
        on.running(2)
        on.supervisor.stop(3.0)
        on.supervisor.stop(3.0)
        assert on.poll(1000.0) == []
        assert on.started.empty()
        assert on.supervisor.restarts == 0

    def test_before_anything_was_started(self) -> None:
        Supervisor(2, lambda slot, generation: {}).stop(3.0)

    def test_a_worker_that_is_just_being_started_is_killed_too(self, stage: Callable[..., Stage]) -> None:
        on = stage(1, obeys=False)
        spawning, go_on = threading.Event(), threading.Event()
        spawn = on.spawn

        def slowly(command: list[str], **options: Any) -> FakeProcess:
            spawning.set()
            assert go_on.wait(PATIENCE)
            return spawn(command, **options)

        on.supervisor._spawn = slowly  # type: ignore[assignment]
        on.poll(0.0)
        assert spawning.wait(PATIENCE)
        stopper = threading.Thread(target=on.supervisor.stop, args=(0.0,))
        stopper.start()
        wait_until(lambda: on.supervisor._ending)
        go_on.set()
        stopper.join(PATIENCE)
        assert on.processes[0].killed


class TestWords:
    @pytest.mark.parametrize(
        ("code", "words"),
        [
            (0, "exit code 0"),
            (3, "exit code 3"),
            (0xC0000005, "exit code 0xC0000005 (access violation)"),
            (0xC0000409, "exit code 0xC0000409 (abort)"),
        ],
    )
    def test_exit_codes(self, code: int, words: str) -> None:
        assert describe_exit(code) == words

    @pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
    @pytest.mark.parametrize(
        ("code", "words"),
        [(-11, "killed by SIGSEGV"), (-6, "killed by SIGABRT"), (-9, "killed by SIGKILL (out of memory?)"), (-250, "killed by signal 250")],
    )
    def test_signals(self, code: int, words: str) -> None:
        assert describe_exit(code) == words


class TestEnvironment:
    def test_threads_are_few_unless_the_user_says_otherwise(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        monkeypatch.setenv("MKL_NUM_THREADS", "7")
        env = worker_environment(2, gpu=False)
        assert (env["OMP_NUM_THREADS"], env["OPENBLAS_NUM_THREADS"], env["MKL_NUM_THREADS"]) == ("2", "2", "7")

    def test_accelerators_are_hidden(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
        monkeypatch.delenv("JAX_PLATFORMS", raising=False)
        hidden, shown = worker_environment(1, gpu=False), worker_environment(1, gpu=True)
        assert (hidden["CUDA_VISIBLE_DEVICES"], hidden["HIP_VISIBLE_DEVICES"], hidden["JAX_PLATFORMS"]) == ("-1", "-1", "cpu")
        assert shown["CUDA_VISIBLE_DEVICES"] == "0,1"
        assert "JAX_PLATFORMS" not in shown

    def test_output_comes_at_once_and_in_utf_8(self) -> None:
        env = worker_environment(1, gpu=False)
        assert (env["PYTHONUNBUFFERED"], env["PYTHONIOENCODING"]) == ("1", "utf-8:backslashreplace")

    def test_our_own_environment_is_left_alone(self) -> None:
        before = dict(os.environ)
        worker_environment(3, gpu=False)
        assert dict(os.environ) == before


class TestRealProcesses:
    """What fakes can't show: signals, pipes, and a process that really ends."""

    @pytest.fixture
    def real(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Supervisor]]:
        made: list[Supervisor] = []

        def make(code: str) -> Supervisor:
            monkeypatch.setattr(launching, "BOOT", code)
            made.append(Supervisor(1, lambda slot, generation: {"slot": slot}))
            return made[-1]

        yield make
        for each in made:
            each.kill()

    def lost(self, supervisor: Supervisor) -> Lost:
        found: list[Lost] = []
        wait_until(lambda: bool(found.extend(supervisor.poll(0.0)) or found))
        return found[0]

    def test_the_set_up_arrives_and_the_last_words_come_back(self, real: Callable[[str], Supervisor]) -> None:
        lost = self.lost(real("import sys; print('got', sys.stdin.readline().strip()); print('and this', file=sys.stderr); sys.exit(7)"))
        assert lost == Lost(0, 1, "exit code 7", ('got {"slot": 0}', "and this"))

    @pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
    def test_a_signal_by_name(self, real: Callable[[str], Supervisor]) -> None:
        supervisor = real("import sys; sys.stdin.read()")
        supervisor.poll(0.0)
        wait_until(lambda: supervisor.pid(0) is not None)
        pid = supervisor.pid(0)
        assert pid is not None
        os.kill(pid, signal.SIGSEGV)
        assert self.lost(supervisor).why == "killed by SIGSEGV"

    def test_the_end_of_the_pipe_ends_it(self, real: Callable[[str], Supervisor]) -> None:
        supervisor = real("import sys; sys.stdin.read()")
        supervisor.poll(0.0)
        wait_until(lambda: supervisor.pid(0) is not None)
        process = supervisor._places[0].process
        assert process is not None
        supervisor.stop(PATIENCE)
        assert process.returncode == 0

    def test_one_that_ignores_everything_is_killed(self, real: Callable[[str], Supervisor]) -> None:
        supervisor = real("import threading; print('up', flush=True); threading.Event().wait()")
        supervisor.poll(0.0)
        wait_until(lambda: list(supervisor._places[0].tail) == ["up"])
        process = supervisor._places[0].process
        assert process is not None
        supervisor.kill()
        assert process.returncode not in (None, 0)


class TestHowMany:
    """Slots that are asleep, woken, and let go."""

    def test_only_those_that_are_awake_are_started(self, stage: Callable[..., Stage]) -> None:
        on = stage(3, awake=1)
        on.poll(0.0)
        assert list(on.running(1)) == [0]
        on.supervisor.wake(3, 5.0)
        on.poll(5.0)
        assert sorted(on.running(2)) == [1, 2]
        assert len(on.processes) == 3

    @pytest.mark.parametrize("told", [True, False])
    def test_one_that_is_let_go_is_no_crash_and_isnt_replaced(self, stage: Callable[..., Stage], told: bool) -> None:
        on = stage(2, max_crashes=1)
        on.poll(0.0)
        running = on.running(2)
        on.supervisor.wake(1, 0.0)
        assert on.supervisor.let_go(1, 0.0, told=told)
        assert not on.supervisor.let_go(1, 0.5, told=told), "it knows already"
        assert running[1].stdin.closed is not told
        running[1].end(0)
        (lost,) = on.poll(1.0)
        assert (lost.slot, lost.generation) == (1, 1)
        assert on.poll(100.0) == []
        assert (len(on.processes), on.supervisor.restarts, on.supervisor.hopeless()) == (2, 0, [])
        assert not on.supervisor.let_go(1, 101.0, told=told), "there is none"
        on.supervisor.wake(2, 102.0)
        on.poll(102.0)
        assert setup_of(on.running(1)[1]) == {"slot": 1, "generation": 2}

    def leaving(self, on: Stage) -> FakeProcess:
        """The only worker of a stage; it has just been told that it isn't needed."""
        on.poll(0.0)
        process = on.running(1)[0]
        on.supervisor.wake(0, 0.0)
        assert on.supervisor.let_go(0, 0.0, told=True)
        return process

    def test_one_that_does_not_go_is_killed(self, stage: Callable[..., Stage]) -> None:
        on = stage(1)
        process = self.leaving(on)
        assert on.poll(supervisor_module.LEAVE_SECONDS) == []
        assert not process.killed
        assert [lost.slot for lost in on.poll(supervisor_module.LEAVE_SECONDS + 1)] == [0]
        assert process.killed

    def test_one_that_is_wanted_again_while_it_goes(self, stage: Callable[..., Stage]) -> None:
        on = stage(1)
        process = self.leaving(on)
        on.supervisor.wake(1, 0.1)
        process.end(0)
        assert len(on.poll(1.0)) == 1
        on.poll(1.0)
        assert setup_of(on.running(1)[0])["generation"] == 2

    def test_one_in_its_back_off_stays_away(self, stage: Callable[..., Stage]) -> None:
        on = stage(1)
        on.poll(0.0)
        on.running(1)[0].end(1)
        assert len(on.poll(1.0)) == 1
        on.supervisor.wake(0, 1.0)
        assert not on.supervisor.let_go(0, 1.0, told=False)
        assert on.poll(1000.0) == []
        assert len(on.processes) == 1
