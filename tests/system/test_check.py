"""`feeder-server check`, with real workers: what it says of sources as people write them, and its exit code."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest

from tests.serving import COMMAND, PATIENCE, SOURCES, Running, alive, arenas, until, workers_of

DIVERGENT = Path(__file__).with_name("divergent.py")
HANGS_SECONDS = 8.0 * PATIENCE

CODE = """
import os, time
import numpy as np

class Base:
    def __len__(self): return 40
    def __getitem__(self, i): return self.x(i), np.arange(8) + 8 * i

class Float64(Base):
    def __init__(self): self.rng = np.random.default_rng()
    def x(self, i): return self.rng.random((8, 32, 32, 3))

class Int64(Base):
    def x(self, i): return np.random.randint(0, 255, (8, 32, 32, 3), dtype=np.int64)

class Constant(Base):
    def x(self, i): return np.zeros((8, 512, 512), np.float32)

class Uint8(Base):
    def x(self, i): return np.random.randint(0, 255, (8, 32, 32, 3), dtype=np.uint8)

def float64_stream():
    while True:
        yield np.random.rand(8, 32, 32, 3)

def uint8_stream():
    while True:
        yield np.random.randint(0, 255, (8, 32, 32, 3), dtype=np.uint8)

class Seeded(Base):
    def __init__(self): self.augment = [np.random.default_rng()]
    def on_epoch_end(self): pass
    def reseed(self, seed): pass
    def x(self, i): return np.zeros(3, np.float32) + i

class SecondPassBreaks(Base):
    e = 0
    def on_epoch_end(self): self.e += 1
    def x(self, i):
        if self.e: raise RuntimeError("only once, please")
        return np.zeros(3, np.float32)

class Broken(Base):
    def x(self, i):
        if i == 5:
            self.open(i)
        return np.zeros(3, np.float32)
    def open(self, i):
        raise ValueError(f"picture {i} is broken")

class Objects(Base):
    def x(self, i): return np.array([{}], object)

class Dies(Base):
    def x(self, i):
        if i == 5: os._exit(9)
        return np.zeros(3, np.float32)

class Hangs(Base):
    def x(self, i):
        if i == 5:
            while not os.path.exists("go"): time.sleep(0.01)
        return np.zeros(3, np.float32)

def loads_for_ever():
    while not os.path.exists("go"): time.sleep(0.01)
    return [1]

ONCE = iter([1, 2, 3])

def once():
    yield from ONCE

def empty():
    return iter(())

class NoBatches(Base):
    def __len__(self): return 0

def prints():
    print("hello from my code")
    return [1, 2, 3]
"""


class Checked:
    """A finished ``feeder-server check``."""

    def __init__(self, folder: Path, target: str, *options: str) -> None:
        (folder / "data.py").write_text(textwrap.dedent(CODE), encoding="utf-8")
        before = arenas()
        with Running([*COMMAND, "check", target, *options], folder) as process:
            self.code = process.wait(90)
        self.stdout, self.error, self.output = process.stdout, process.stderr, process.output
        self.words = " ".join(self.stdout.split())
        assert arenas() == before
        assert not re.search(r'File ".*feeder_(server|wire|client)', self.error), self.output
        assert max(map(len, self.stdout.splitlines()), default=0) <= 80, self.stdout
        self.stdout.encode("cp1252")


def check(folder: Path, name: str, *options: str, code: int = 0) -> Checked:
    found = Checked(folder, f"data.py:{name}", *options)
    assert found.code == code, found.output
    if code == 0:
        assert found.error == ""
        assert f"data.py:{name} can be served." in found.words
    else:
        assert "can be served" not in found.words
        assert found.error.startswith("feeder-server: error: ")
    return found


class TestWhatIsRegretted:
    """Of items and of streams; with real batches."""

    @pytest.mark.parametrize("name", ["Float64", "float64_stream"])
    def test_float64(self, tmp_path: Path, name: str) -> None:
        said = check(tmp_path, name)
        assert "float64 (8, 32, 32, 3) 0.197 MB" in said.words
        assert said.words.count("warning") == 1
        assert "is float64: 0.197 MB where float32 needs 98.3 kB, and Keras computes in float32" in said.words

    def test_int64_image(self, tmp_path: Path) -> None:
        said = check(tmp_path, "Int64")
        assert "batch[0] int64 (8, 32, 32, 3) 0.197 MB" in said.words and "batch[1] int64 (8,) 64 bytes" in said.words
        assert said.words.count("warning") == 1
        assert "like an image: 0.197 MB where uint8 would need 24.6 kB: keep the dtype that the file had" in said.words

    def test_mostly_constant(self, tmp_path: Path) -> None:
        said = check(tmp_path, "Constant", "--batches", "4")
        assert said.words.count("warning") == 1
        assert "batch[0] is 100% 0.0: 8.39 MB per batch are sent for it" in said.words

    @pytest.mark.parametrize("name", ["Uint8", "uint8_stream"])
    def test_nothing_about_pictures_as_they_are(self, tmp_path: Path, name: str) -> None:
        said = check(tmp_path, name)
        assert "uint8 (8, 32, 32, 3) 24.6 kB" in said.words and "warning" not in said.words


class TestWhatItIs:
    def test_an_indexed_source(self, tmp_path: Path) -> None:
        said = check(tmp_path, "Float64", "--batches", "6")
        assert "indexed, 40 batches per pass; it is not told about epochs; 2 workers" in said.words
        assert "parallel: the copies of source 'default' agree" in said.words
        assert "seeded by feeder before each batch: source.rng" in said.words
        assert "first 6 of 40 batches drawn" in said.words
        assert re.search(
            r"second 6 of 40 batches drawn; a worker takes [\d.e-]+ ms for one .* 2 workers made [\d.,]+ batches/s", said.words
        )

    def test_one_that_is_told_its_seed(self, tmp_path: Path) -> None:
        said = check(tmp_path, "Seeded", "--workers", "1")
        assert "it is told about epochs; 1 worker" in said.words and "source.reseed(seed)" in said.words
        assert "one worker: one worker makes everything, so nothing was compared" in said.words

    def test_one_without_generators_and_shorter_than_what_is_drawn(self, tmp_path: Path) -> None:
        said = check(tmp_path, "prints")
        assert "no generator of its own was found" in said.words and "second 3 of 3 batches drawn" in said.words
        assert "hello" not in said.output
        assert "hello from my code" in Checked(tmp_path, "data.py:prints", "-v").error

    def test_streams(self, tmp_path: Path) -> None:
        said = Checked(tmp_path, f"{SOURCES}:sharded", "-a", "n=10", "-w", "3")
        assert said.code == 0 and "each worker makes its part of it" in said.words
        assert "first 10 batches drawn, and then it ended second 10 batches drawn, and then it ended" in said.words
        said = Checked(tmp_path, f"{SOURCES}:endless")
        assert said.code == 0 and "each of 2 workers runs a copy of it" in said.words and "note" in said.words
        assert "first 20 batches drawn second 20 batches drawn;" in said.words

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("Exact", "parallel: "),
            ("Augmented", "not reproducible: the copies of source 'default' agree in the order of the samples, but batch[0] differs"),
            ("Lazy", "warmed: "),
            ("Cursor", "single: the copies of source 'default' disagree"),
        ],
    )
    def test_what_comparing_its_copies_has_shown(self, tmp_path: Path, name: str, words: str) -> None:
        said = Checked(tmp_path, f"{DIVERGENT}:{name}")
        assert said.code == 0 and words in said.words
        assert ("self.cursor" in said.words) == (name == "Cursor")
        assert ("feeder_server.rng()" in said.words) == (name in ("Augmented", "Cursor"))

    def test_copies_that_disagree_and_may_not(self, tmp_path: Path) -> None:
        said = Checked(tmp_path, f"{DIVERGENT}:Cursor", "--on-divergence", "error")
        assert said.code == 3 and "can be served" not in said.words
        assert "divergent: see below" in said.words
        assert "disagree" in said.error and "self.cursor" in said.error and said.error.count("\n") == 1
        said = Checked(tmp_path, f"{DIVERGENT}:Cursor", "--on-divergence", "parallel")
        assert said.code == 0 and "samples come twice or never" in said.words


class TestWhatCanNotBeServed:
    def test_a_batch_that_raises(self, tmp_path: Path) -> None:
        """What is known is said all the same; the error ends in the user's traceback, which starts in their file."""
        said = check(tmp_path, "Broken", code=3)
        assert "indexed, 40 batches" in said.words and "first" not in said.words
        first, _, title, *trace = said.error.splitlines()
        assert first.startswith("feeder-server: error: batch 5 of the first pass: ValueError: picture 5 is broken (in worker ")
        assert title == "Traceback (most recent call last):"
        assert f'File "{tmp_path / "data.py"}", line' in trace[0] and trace[-1] == "ValueError: picture 5 is broken"

    def test_a_second_pass_that_raises(self, tmp_path: Path) -> None:
        said = check(tmp_path, "SecondPassBreaks", code=3)
        assert "first 20 of 40 batches drawn" in said.words and "second" not in said.words
        assert re.search(r"batch \d+ of the second pass: RuntimeError: only once, please", said.error)

    def test_what_can_not_be_sent(self, tmp_path: Path) -> None:
        said = check(tmp_path, "Objects", code=3)
        assert "batch[0]: an object array can't be sent; make it plain" in said.error and said.error.count("\n") == 1

    def test_a_worker_that_dies(self, tmp_path: Path) -> None:
        said = check(tmp_path, "Dies", code=5)
        assert "batch 5 of the first pass: the worker that made it died" in said.error and "exit code 9" in said.error

    def test_a_batch_that_hangs(self, tmp_path: Path) -> None:
        # Long enough for the workers to start and to load it, which has the same limit.
        said = check(tmp_path, "Hangs", "--timeout", f"{HANGS_SECONDS:g}", code=3)
        words = rf"worker \d has been making batch 5 of pass 1 for {HANGS_SECONDS:g} s: it hangs, or needs a longer --timeout"
        assert re.search(words, said.error)
        assert said.error.count("\n") == 1 and "indexed, 40 batches" in said.words

    def test_a_source_that_does_not_load(self, tmp_path: Path) -> None:
        said = check(tmp_path, "loads_for_ever", "--timeout", "2", code=3)
        assert re.search(r"worker \d has been loading the source for 2 s", said.error) and said.stdout == ""

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("once", "the second pass gave no batch; each pass has to begin anew"),
            ("empty", "the first pass gave no batch"),
            ("NoBatches", "it has no batches, its length is 0"),
            ("nothing", "data.py has no 'nothing'"),
        ],
    )
    def test_nothing_comes(self, tmp_path: Path, name: str, words: str) -> None:
        assert words in check(tmp_path, name, code=3).error

    @pytest.mark.parametrize(
        ("arguments", "code", "words"),
        [
            (["gone.py:x"], 3, "there is no file gone.py"),
            (["data.py"], 2, "write data.py:NAME"),
            (["data.py:Uint8", "-a", "size=3"], 3, "got an unexpected argument 'size'"),
            (["data.py:Uint8", "-w", "0"], 2, "--workers 0"),
            (["data.py:Uint8", "--batches", "0"], 2, "--batches 0"),
            (["data.py:Uint8", "--timeout", "-1"], 2, "--timeout -1"),
            (["data.py:ONCE", "-a", "n=3"], 2, "can't take the argument 'n'"),
        ],
    )
    def test_what_was_typed_wrong(self, tmp_path: Path, arguments: list[str], code: int, words: str) -> None:
        said = Checked(tmp_path, *arguments)
        assert said.code == code, said.output
        assert words in said.error and said.stdout == "" and said.error.count("\n") <= 2


def test_ctrl_c(tmp_path: Path) -> None:
    """It ends at once, with its workers, and has nothing to say for itself."""
    (tmp_path / "data.py").write_text(CODE, encoding="utf-8")
    before = arenas()
    with Running([*COMMAND, "check", "data.py:Hangs"], tmp_path) as process:
        below = until(lambda: len(found := workers_of(process.pid)) == 2 and found, "the workers start")
        until(lambda: arenas() - before, "the arena is there")
        process.signal("SIGINT")
        assert process.wait() == 130
    assert process.output.count("Traceback") == 0 and process.stderr == ""
    assert not alive(below) and arenas() == before
