"""Parcels: what the object is after the trip, what went into the file, and whose memory it is."""

from __future__ import annotations

import json
import mmap
import os
import re
import stat
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from feeder_wire import parcel as parcel_module
from feeder_wire.errors import ConfigError, ProtocolError, SourceNotFound
from feeder_wire.parcel import ALIGNMENT, FILE_FROM_BYTES, Parcel, pack, picklable, unpack

ROOT = Path(__file__).resolve().parents[2]
BIG = FILE_FROM_BYTES


@pytest.fixture(autouse=True)
def _same_search_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))


def round_trip(obj: Any, directory: Path) -> Any:
    return unpack(Parcel.from_json(pack(obj, directory).to_json()))


# --------------------------------------------------------------------------------------------------------- arrays


def pictures() -> np.ndarray[Any, Any]:
    return np.arange(2 * BIG, dtype=np.uint8).reshape(32, -1, 64)


ARRAYS: dict[str, Callable[[], Any]] = {
    "C order": pictures,
    "Fortran order": lambda: np.asfortranarray(pictures()),
    "transposed": lambda: pictures().T,
    "every other": lambda: pictures()[:, ::2],
    "reversed": lambda: pictures()[::-1],
    "broadcast": lambda: np.broadcast_to(np.arange(64.0), (BIG // 64, 64)),
    "big endian": lambda: np.arange(BIG // 4, dtype=">i4"),
    "float16": lambda: np.arange(BIG, dtype=np.float16),
    "bool": lambda: np.arange(BIG) % 3 == 0,
    "structured": lambda: np.zeros(BIG // 8, dtype=[("x", "f4"), ("y", "i4")]),
    "datetime": lambda: np.arange(BIG // 8).astype("datetime64[s]"),
    "strings": lambda: np.array(["cat", "dog"] * (BIG // 16)),
    "objects": lambda: np.array([{"a": 1}, None, "x"], dtype=object),
    "matrix": lambda: np.ones((4, 4)).view(np.matrix),
    "empty": lambda: np.zeros((0, 3), np.float32),
    "no dimensions": lambda: np.array(3.5),
    "small": lambda: np.arange(10),
}


@pytest.mark.parametrize("make", ARRAYS.values(), ids=ARRAYS)
def test_arrays_come_out_as_they_went_in(make: Callable[[], Any], tmp_path: Path) -> None:
    array = make()
    [got] = round_trip([array], tmp_path)
    assert type(got) is type(array)
    assert got.dtype == array.dtype
    assert got.shape == array.shape
    np.testing.assert_array_equal(got, array)


@pytest.mark.parametrize(
    "name", ["C order", "Fortran order", "transposed", "every other", "reversed", "big endian", "float16", "structured"]
)
def test_large_arrays_lie_in_the_file_and_not_in_the_stream(name: str, tmp_path: Path) -> None:
    array = ARRAYS[name]()
    made = pack({"x": array}, tmp_path)
    assert len(made.stream) < 2000
    assert [nbytes for _, nbytes, _ in made.segments] == [array.nbytes]


@pytest.mark.parametrize("order", ["C", "F"])
def test_contiguous_arrays_keep_their_order(order: Any, tmp_path: Path) -> None:
    got = round_trip(np.ones((1024, 1024), order=order), tmp_path)
    assert got.flags.f_contiguous == (order == "F")


def test_the_limit_between_stream_and_file(tmp_path: Path) -> None:
    assert pack(np.zeros(BIG - 2000, np.uint8), tmp_path).file is None
    assert list(tmp_path.iterdir()) == []
    assert pack(np.zeros(BIG, np.uint8), tmp_path).segments == ((0, BIG, False),)


def test_small_arrays_go_into_the_file_once_there_are_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parcel_module, "FILE_FROM_BYTES", 55_000)
    images = [np.full(10_000, i, np.uint8) for i in range(20)]
    tiny = [np.full(100, i, np.uint8) for i in range(20)]
    made = pack([images, tiny], tmp_path)
    assert len(made.segments) == 15
    got_images, got_tiny = unpack(made)
    np.testing.assert_array_equal(got_images, images)
    np.testing.assert_array_equal(got_tiny, tiny)


def test_every_array_is_aligned_and_the_file_holds_nothing_else(tmp_path: Path) -> None:
    arrays = [np.full(BIG + odd, odd, np.uint8) for odd in (1, 63, 64, 65)]
    made = pack(arrays, tmp_path)
    assert made.file is not None
    assert os.path.isabs(made.file)
    assert [offset % ALIGNMENT for offset, _, _ in made.segments] == [0] * 4
    assert os.path.getsize(made.file) < sum(a.nbytes for a in arrays) + 4 * ALIGNMENT
    for got, sent in zip(unpack(made), arrays, strict=True):
        assert got.ctypes.data % ALIGNMENT == 0
        np.testing.assert_array_equal(got, sent)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no modes; the folder is the user's own")
def test_nobody_else_may_read_the_file(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        made = pack(np.zeros(BIG), tmp_path)
    finally:
        os.umask(before)
    assert made.file is not None
    assert stat.S_IMODE(os.stat(made.file).st_mode) == 0o600


def test_an_array_in_two_places_travels_once(tmp_path: Path) -> None:
    x = np.zeros(BIG, np.uint8)
    made = pack({"a": x, "b": [x]}, tmp_path)
    assert len(made.segments) == 1
    got = unpack(made)
    assert got["a"] is got["b"][0]


def test_views_of_one_memory_travel_once_and_still_share_it(tmp_path: Path) -> None:
    x = np.arange(4 * BIG, dtype=np.uint8)
    parts = [x[2 * BIG :], x, x.reshape(4, -1), x[: 3 * BIG], x[BIG : 2 * BIG]]
    made = pack(parts, tmp_path)
    assert made.file is not None
    assert os.path.getsize(made.file) == x.nbytes
    got = unpack(made)
    for a, b in zip(got, parts, strict=True):
        np.testing.assert_array_equal(a, b)
    got[1][2 * BIG] = 77
    assert got[0][0] == got[2][2, 0] == got[3][2 * BIG] == 77


def test_parts_of_an_array_that_is_not_sent_itself(tmp_path: Path) -> None:
    x = np.arange(8 * BIG, dtype=np.uint32)
    made = pack([x[: 2 * BIG], x[BIG : 3 * BIG], x[4 * BIG : 5 * BIG]], tmp_path)
    assert made.file is not None
    assert os.path.getsize(made.file) == 4 * 4 * BIG
    a, b, c = unpack(made)
    np.testing.assert_array_equal(a, x[: 2 * BIG])
    np.testing.assert_array_equal(b, x[BIG : 3 * BIG])
    np.testing.assert_array_equal(c, x[4 * BIG : 5 * BIG])


def test_read_only_stays_read_only_and_the_rest_is_writable(tmp_path: Path) -> None:
    writable, frozen = np.zeros(BIG, np.uint8), np.ones(BIG, np.uint8)
    frozen.flags.writeable = False
    made = pack([writable, frozen], tmp_path)
    got_writable, got_frozen = unpack(made)
    got_writable[:] = 9
    with pytest.raises(ValueError, match="read-only"):
        got_frozen[0] = 9
    again, _ = unpack(made)
    assert not again.any()  # the file, and so every other copy, is as it was


def test_an_array_seen_read_only_and_writable(tmp_path: Path) -> None:
    x = np.zeros(BIG, np.uint8)
    frozen = x.view()
    frozen.flags.writeable = False
    got, got_frozen = round_trip([x, frozen], tmp_path)
    got[5] = 3
    assert got_frozen[5] == 3
    assert not got_frozen.flags.writeable


def test_a_large_stream_goes_into_the_file_too(tmp_path: Path) -> None:
    jpegs = [os.urandom(50_000) for _ in range(40)]
    made = pack({"jpegs": jpegs, "x": np.ones(BIG)}, tmp_path)
    assert made.stream == b""
    assert len(made.to_json()) < 10_000
    got = unpack(made)
    assert got["jpegs"] == jpegs
    assert got["x"].sum() == BIG


# ------------------------------------------------------------------------------------------------- mapped arrays


@pytest.fixture
def mapped(tmp_path: Path) -> np.memmap[Any, Any]:
    path = tmp_path / "data.bin"
    np.arange(3 * BIG, dtype=np.int32).tofile(path)
    return np.memmap(path, dtype=np.int32, mode="r", offset=400, shape=(BIG, 2))


MAPPED: dict[str, Callable[[Any], Any]] = {
    "itself": lambda m: m,
    "slice": lambda m: m[1000:],
    "slice of a slice": lambda m: m[1000:][::3, 1],
    "reversed": lambda m: m[::-1],
    "plain array": lambda m: np.asarray(m)[5:],
    "transposed": lambda m: m.T,
    "other type": lambda m: m.view(np.uint16),
    "one element": lambda m: m[7:8, 1:],
}


@pytest.mark.parametrize("view", MAPPED.values(), ids=MAPPED)
def test_mapped_arrays_travel_by_file_name(view: Callable[[Any], Any], mapped: Any, tmp_path: Path) -> None:
    made = pack([view(mapped)], tmp_path)
    assert made.file is None
    assert len(made.stream) < 2000
    [got] = unpack(made)
    np.testing.assert_array_equal(got, view(mapped))
    assert got.strides == view(mapped).strides
    assert not got.flags.writeable


def test_npy_files_in_either_order(tmp_path: Path) -> None:
    for array in (pictures(), np.asfortranarray(pictures())):
        np.save(tmp_path / "x.npy", array)
        x = np.load(tmp_path / "x.npy", mmap_mode="r")
        made = pack({"train": x[:20], "val": x[20:], "x": x}, tmp_path)
        assert made.file is None
        got = unpack(made)
        np.testing.assert_array_equal(got["x"], pictures())
        np.testing.assert_array_equal(got["train"], pictures()[:20])
        np.testing.assert_array_equal(got["val"], pictures()[20:])
        del x, got


def test_a_worker_never_writes_into_the_users_file(mapped: Any, tmp_path: Path) -> None:
    writable = np.memmap(mapped.filename, dtype=np.int32, mode="r+")
    made = pack(writable, tmp_path)
    assert made.file is None
    got = unpack(made)
    got[100] = -1
    assert writable[100] == mapped[0, 0] == 100
    del got, writable


def test_a_mapping_that_differs_from_its_file_is_copied(mapped: Any, tmp_path: Path) -> None:
    changed = np.memmap(mapped.filename, dtype=np.int32, mode="c")
    changed[3] = -5
    made = pack(changed, tmp_path)
    assert made.file is not None
    assert unpack(made)[3] == -5


def test_a_copy_of_a_mapping_is_an_array(mapped: Any, tmp_path: Path) -> None:
    copy = mapped.copy()
    copy[0, 0] = -5
    made = pack(copy, tmp_path)
    assert len(made.segments) == 1
    np.testing.assert_array_equal(unpack(made), copy)


@pytest.mark.skipif(os.name == "nt", reason="Windows doesn't remove a mapped file")
def test_a_mapping_whose_file_is_gone_is_copied(mapped: Any, tmp_path: Path) -> None:
    os.unlink(mapped.filename)
    np.testing.assert_array_equal(round_trip(mapped[::2], tmp_path), mapped[::2])


# ------------------------------------------------------------------------------------------ the parcel and errors


def test_json_keeps_everything() -> None:
    made = Parcel(b"\x00\xff", "/tmp/\udcff/ü x.bin", ((0, 5, True), (64, 0, False)), ("/a", "\udce9"))
    text = made.to_json()
    assert "\n" not in text
    assert text.isascii()
    assert Parcel.from_json(text) == made


GOOD = {"stream": "AA==", "file": None, "segments": [], "search_path": []}


@pytest.mark.parametrize(
    "text",
    ["", "null", "[]", "{}", *(json.dumps({**GOOD, **bad}) for bad in (
        {"stream": "?"}, {"stream": 3}, {"stream": ""}, {"segments": [[1, 2]]}, {"segments": [[0, 8, True]]}, {"file": "x"},
        {"file": "x", "segments": [[-1, 8, True]]}, {"search_path": None},
    ))],
)  # fmt: skip
def test_what_is_no_parcel_is_refused(text: str) -> None:
    with pytest.raises(ProtocolError, match="not a parcel"):
        Parcel.from_json(text)


def test_repr_is_short(tmp_path: Path) -> None:
    assert len(repr(pack(np.zeros(BIG), tmp_path))) < 200


def test_too_little_room_is_said_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": BIG}))
    with pytest.raises(
        ConfigError, match=re.escape("needs 8.0 MiB in " + str(tmp_path)) + r": only 1.0 MiB are free.*(TMPDIR|TEMP) .*mmap_mode"
    ):
        pack(np.zeros(BIG), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="needs a limit on file sizes")
def test_a_disk_that_runs_full_leaves_nothing_behind(tmp_path: Path) -> None:
    code = f"""
        import resource, numpy, pathlib
        from feeder_wire.parcel import pack
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        try:
            pack(numpy.ones(1 << 20), pathlib.Path({str(tmp_path)!r}))
        except Exception as exc:
            print(type(exc).__name__, exc)
    """
    done = run_python(["-c", textwrap.dedent(code)], tmp_path)
    assert done.startswith("ConfigError your object needs 8.0 MiB in"), done
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"needs 8\.0 MiB in"):
        pack(np.zeros(BIG), tmp_path / "gone")


def test_a_file_that_is_gone_or_cut_short(tmp_path: Path) -> None:
    made = pack(np.zeros(BIG), tmp_path)
    assert made.file is not None
    for size in (BIG, 0):
        os.truncate(made.file, size)
        with pytest.raises(ConfigError, match="can't be read from"):
            unpack(made)
    os.unlink(made.file)
    with pytest.raises(ConfigError, match="can't be read from"):
        unpack(made)


def test_without_memory_for_private_copies_arrays_are_read_only(
    mapped: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = mmap.mmap
    writable = np.memmap(mapped.filename, dtype=np.int32, mode="r+")
    made = pack([np.ones(BIG), writable, writable[3:]], tmp_path)

    def no_copies(fileno: int, length: int, access: int = 0, **more: Any) -> mmap.mmap:
        if access == mmap.ACCESS_COPY:
            raise OSError("paging file too small")
        return real(fileno, length, access=access, **more)

    monkeypatch.setattr(mmap, "mmap", no_copies)
    x, whole, part = unpack(made)
    monkeypatch.undo()
    assert "paging file too small" in caplog.text
    assert x.sum() == BIG
    np.testing.assert_array_equal(whole[3:], part)
    assert [array.flags.writeable for array in (x, whole, part)] == [False] * 3


def test_picklable() -> None:
    assert picklable({"x": np.zeros(2 * BIG), "f": lambda: 1}) is None
    error = picklable([(i for i in range(3))])
    assert isinstance(error, TypeError)
    assert "generator" in str(error)
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    assert picklable(deep) is not None


def test_what_pickling_raised_comes_through(tmp_path: Path) -> None:
    class Mine:
        def __reduce__(self) -> Any:
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        pack([np.zeros(BIG), Mine()], tmp_path)
    assert list(tmp_path.iterdir()) == []


# -------------------------------------------------------------------------------------------------- real processes

PYTHONPATH = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
ENVIRONMENT = {**os.environ, "PYTHONPATH": PYTHONPATH, "PYTHONIOENCODING": "utf-8"}
WORKER = """
import sys
import numpy as np
from feeder_wire.parcel import Parcel, unpack
def answer(make):
    try:
        print(repr(make()), flush=True)
    except Exception as exc:
        print(f"{type(exc).__name__}: {exc}".replace("\\n", " "), flush=True)
names = {"np": np, "sys": sys}
line = sys.stdin.readline()
answer(lambda: names.update(obj=unpack(Parcel.from_json(line))))
for line in sys.stdin:
    answer(lambda: eval(line, names))
"""


def run_python(arguments: list[str], folder: Path, stdin: str = "") -> str:
    command = [sys.executable, *arguments]
    done = subprocess.run(command, input=stdin, capture_output=True, encoding="utf-8", cwd=folder, env=ENVIRONMENT, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


class Worker:
    """A process that unpacks a parcel from its stdin, as feeder's workers do, and then evaluates what it is asked."""

    def __init__(self, text: str, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8", cwd=folder, env=ENVIRONMENT
        )
        self.unpacked = self.ask(text)

    def ask(self, line: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(20)


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Callable[[str], Worker]]:
    started: list[Worker] = []
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    def start(text: str) -> Worker:
        started.append(Worker(text, elsewhere))
        return started[-1]

    yield start
    for worker in started:
        worker.close()


@pytest.fixture
def packed(tmp_path: Path) -> Callable[..., str]:
    """Runs a script that ends by packing `obj`, the way users run scripts; gives back the parcel's JSON."""
    folder = tmp_path / "project with ü"
    folder.mkdir()
    (folder / "parcels").mkdir(mode=0o700)

    def run(script: str, how: str = "file", more: dict[str, str] | None = None) -> str:
        text = textwrap.dedent(script) + (
            "\nimport pathlib\nfrom feeder_wire.parcel import pack\nprint(pack(obj, pathlib.Path('parcels')).to_json())\n"
        )
        for name, content in (more or {}).items():
            (folder / name).write_text(textwrap.dedent(content), encoding="utf-8")
        if how == "stdin":
            return run_python(["-"], folder, text)
        if how == "notebook":  # cells are compiled one by one and run in a __main__ without a file
            cells = (
                "import sys, types\nmain = types.ModuleType('__main__')\nsys.modules['__main__'] = main\nsys.path[0] = ''\n"
                f"for number, cell in enumerate({re.split(r'(?m)^#%%$', text)!r}):\n"
                "    exec(compile(cell, f'<ipython-input-{number}>', 'exec'), main.__dict__)\n"
            )
            (tmp_path / "kernel.py").write_text(cells, encoding="utf-8")
            return run_python([str(tmp_path / "kernel.py")], folder)
        (folder / "train.py").write_text(text, encoding="utf-8")
        return run_python(["train.py"], folder)

    return run


SCRIPT = """
    import dataclasses, enum, functools
    import numpy as np
    import helpers

    SCALE = np.full((512, 1024), 2.0, np.float32)

    class Mode(enum.Enum):
        TRAIN = 1
        VAL = 2

    @dataclasses.dataclass
    class Config:
        batch_size: int = 4
        mode: Mode = Mode.TRAIN

    class Base:
        def __len__(self):
            return len(self.x) // self.config.batch_size

    #%%
    @functools.lru_cache(maxsize=7)
    def fibonacci(n):
        return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)

    class MySequence(Base):
        def __init__(self, x):
            super().__init__()
            self.x = x
            self.config = Config()
            self.augment = lambda batch: batch * SCALE[0, 0]

        @functools.cached_property
        def total(self):
            return float(self.x.sum())

        @functools.lru_cache
        def twice(self, i):
            return 2 * i

        def __getitem__(self, i, offset=SCALE):
            n = self.config.batch_size
            return helpers.shift(self.augment(self.x[i * n : (i + 1) * n])) + offset[0, 0]

    def factory(step):
        def generate(limit=3):
            for i in range(limit):
                yield i * step + SCALE[0, 0]
        return generate

    #%%
    obj = {"seq": MySequence(np.ones((16, 1 << 16), np.float32)), "gen": factory(10), "fib": fibonacci, "mode": Mode.VAL,
           "cached": functools.lru_cache(functools.partial(max, 3))}
"""


@pytest.mark.parametrize("how", ["file", "stdin", "notebook"])
def test_what_is_defined_in_the_script(how: str, packed: Callable[..., str], workers: Callable[[str], Worker]) -> None:
    text = packed(SCRIPT, how, {"helpers.py": "def shift(x):\n    return x + 100\n"})
    assert len(Parcel.from_json(text).segments) == 2  # x, and SCALE, which a function, a method and a default refer to
    worker = workers(text)
    assert worker.unpacked == "None"
    assert worker.ask("len(obj['seq'])") == "4"
    assert worker.ask("float(obj['seq'][3].mean())") == "104.0"
    assert worker.ask("[float(x) for x in obj['gen']()]") == "[2.0, 12.0, 22.0]"
    assert worker.ask("obj['seq'].total, obj['seq'].twice(4)") == f"({float(16 << 16)}, 8)"
    assert worker.ask("obj['fib'](30), obj['fib'].cache_parameters()['maxsize']") == "(832040, 7)"
    assert worker.ask("obj['cached'](5)") == "5"
    assert worker.ask("obj['mode'].name, obj['seq'].config.mode is type(obj['mode']).TRAIN") == "('VAL', True)"


def test_a_module_means_the_same_in_the_worker(packed: Callable[..., str], workers: Callable[[str], Worker], tmp_path: Path) -> None:
    # Both folders have a module of that name; the worker's own current folder must not win.
    other = tmp_path / "elsewhere"
    script = f"""
        import sys
        sys.path.append({str(other)!r})
        import augment
        obj = augment.make
    """
    text = packed(script, "file", {"augment.py": "def make():\n    yield 'mine'\n"})
    worker = workers(text)
    (other / "augment.py").write_text("def make():\n    yield 'wrong'\n", encoding="utf-8")
    worker = workers(text)
    assert worker.ask("list(obj())") == "['mine']"


def test_a_module_that_a_worker_cannot_find(packed: Callable[..., str], workers: Callable[[str], Worker]) -> None:
    script = """
        import sys, types
        made = types.ModuleType("made_at_run_time")
        exec("def batches():\\n    yield 1", made.__dict__)
        sys.modules["made_at_run_time"] = made
        obj = made.batches
        import importlib.machinery
        made.__spec__ = importlib.machinery.ModuleSpec("made_at_run_time", None, origin="x.py")
        made.__file__ = "x.py"
    """
    worker = workers(packed(script))
    assert worker.unpacked.startswith("SourceNotFound: a worker can't find a part of your object: No module named 'made_at_run_time'")
    assert "project with" in worker.unpacked


def test_what_travels_by_name_only_is_named(packed: Callable[..., str], workers: Callable[[str], Worker]) -> None:
    script = """
        class Single:
            def __reduce__(self):
                return "THE_ONE"
        THE_ONE = Single()
        obj = [THE_ONE]
    """
    worker = workers(packed(script))
    assert worker.unpacked.startswith("SourceNotFound: a worker can't find a part of your object: Can't get attribute 'THE_ONE'")


def test_errors_of_the_users_own_code_come_through(tmp_path: Path) -> None:
    made = pack([_FailsToLoad()], tmp_path)
    with pytest.raises(AttributeError, match="my own"):
        unpack(made)
    with pytest.raises(SourceNotFound, match="no_such_module"):
        unpack(Parcel(b"cno_such_module\nthing\n.", None, (), ()))


class _FailsToLoad:
    def __reduce__(self) -> Any:
        return _fail, ()


def _fail() -> None:
    raise AttributeError("my own")


def test_one_workers_changes_are_not_seen_by_another(tmp_path: Path, workers: Callable[[str], Worker]) -> None:
    text = pack({"x": np.arange(4 * BIG, dtype=np.uint8)}, tmp_path).to_json()
    a, b = workers(text), workers(text)
    assert a.ask("obj['x'].__setitem__(slice(None), 7)") == "None"
    assert a.ask("int(obj['x'].sum())") == str(7 * 4 * BIG)
    assert b.ask("int(obj['x'][300])") == str(300 % 256)
    assert workers(text).ask("int(obj['x'][300])") == str(300 % 256)


def kilobytes(worker: Worker, file: str) -> dict[str, int]:
    """What Linux counts for the mapping of `file` in a worker."""
    found: dict[str, int] = {}
    inside = False
    for line in Path(f"/proc/{worker.process.pid}/smaps").read_text(encoding="utf-8").splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            inside = line.endswith(file)
        elif inside and line.endswith(" kB"):
            name, value = line.split(":")
            found[name] = found.get(name, 0) + int(value.split()[0])
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="counts pages in /proc")
def test_the_pages_are_shared_until_written_to(tmp_path: Path, workers: Callable[[str], Worker]) -> None:
    made = pack({"x": np.ones((64, BIG), np.uint8)}, tmp_path)
    assert made.file is not None
    a, b = workers(made.to_json()), workers(made.to_json())
    for worker in (a, b):
        assert worker.ask("int(obj['x'].sum(dtype='i8'))") == str(64 * BIG)
    for worker in (a, b):
        count = kilobytes(worker, made.file)
        assert count["Rss"] >= 64 * 1024  # all of it was read
        assert count["Anonymous"] == 0  # and none of it copied
        assert count["Pss"] <= count["Rss"] * 0.55  # each is charged for half
    assert a.ask("obj['x'].__setitem__((3, 5), 9)") == "None"
    page = os.sysconf("SC_PAGE_SIZE") // 1024
    assert kilobytes(a, made.file)["Anonymous"] == page
    assert kilobytes(b, made.file)["Anonymous"] == 0
