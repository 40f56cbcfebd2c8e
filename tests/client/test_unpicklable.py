"""What users are told about objects that can't be sent: the place by their own names, and the call that works."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from feeder_client import unpicklable
from feeder_client.unpicklable import explain
from feeder_wire.errors import ConfigError
from feeder_wire.parcel import picklable

ROOT = Path(__file__).resolve().parents[2]
PYTHONPATH = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
ENVIRONMENT = {**os.environ, "PYTHONPATH": PYTHONPATH, "PYTHONIOENCODING": "utf-8"}

SCRIPT = """
import abc, functools, json, multiprocessing, queue, socket, sqlite3, sys, tempfile, threading
from concurrent.futures import ThreadPoolExecutor
import numpy as np
from feeder_client.unpicklable import explain
from feeder_wire.parcel import picklable

told = {}

def tell(case, _obj):  # names with an underscore are not the user's for a thing
    error = picklable(_obj)
    told[case] = None if error is None else str(explain(_obj, error))

class MySequence(abc.ABC):
    def __init__(self, x, batch_size=32, shuffle=False, *, names=None, **more):
        self.x, self.batch_size, self.shuffle, self.names = x, batch_size, shuffle, names
        vars(self).update(more)
    def __len__(self): return 3
    def __getitem__(self, i): return self.x[i]

class Augment:
    def __init__(self, what): self.flip, self.items = (lambda x: x[::-1]), [1, {"a": what}]

class Private(MySequence):
    def __init__(self): self.__lock = threading.RLock()

class Slotted:
    __slots__ = ("a", "__b")
    def __init__(self): self.__b = threading.Lock()

class Refers:
    def __init__(self, owner): self.owner = owner

class Careful:
    def __init__(self): self.lock, self.file = threading.Lock(), open(__file__, "rb")
    def __getstate__(self): return {"file": self.file}

class OnTheClass:
    lock = threading.Lock()
    def __getitem__(self, i): return 1

class Derived(OnTheClass): pass

db = sqlite3.connect(":memory:")
class UsesGlobal:
    @property
    def rows(self): return [list(db.execute("select 1")) for _ in range(2)]

class Store:
    def __init__(self): self.connection = sqlite3.connect(":memory:")
    def batches(self, step=2):
        yield step
store = Store()

def batches(folder, batch_size, how="fast"):
    yield db.execute("select 1"), how

def closing_over():
    store = Store()
    def make():
        yield store
    return make

def with_default(stream=open(__file__, "rb")):
    yield stream

def count(n, step=1):
    yield n * step

x = np.zeros((100, 100))

def all_cases():
    seq = MySequence(x, 64, lock=threading.Lock()); tell("lock", seq)
    my_sequence = MySequence(x, shuffle=True, names=["a"], aug=Augment(threading.Lock())); tell("nested", my_sequence)
    tell("no variable", MySequence(x, lock=threading.Lock()))
    seq = Private(); tell("private", seq)
    seq = Slotted(); tell("slots", seq)
    seq = MySequence(x); seq.back = Refers(seq); seq.log = open(__file__, "rb"); tell("cycle", seq)
    seq = Careful(); tell("getstate", seq)
    seq = OnTheClass(); tell("class attribute", seq)
    seq = Derived(); tell("base class attribute", seq)
    seq = UsesGlobal(); tell("global of a property", seq)
    seq = MySequence(x, rows=count(3)); tell("generator attribute", seq)
    seq = MySequence(x, pool=ThreadPoolExecutor(1)); tell("pool", seq)
    seq = MySequence(x, q=queue.Queue()); tell("queue", seq)
    seq = MySequence(x, event=threading.Event()); tell("event", seq)
    seq = MySequence(x, lock=multiprocessing.Lock()); tell("multiprocessing", seq)
    seq = MySequence(x, s=socket.socket()); tell("socket", seq); seq.s.close()
    seq = MySequence(x, tmp=tempfile.TemporaryFile()); tell("temporary file", seq)
    seq = MySequence(x, out=open(sys.argv[1], "w")); tell("text file", seq)
    seq = MySequence(x, f=functools.partial(print, threading.Lock())); tell("partial", seq)
    parts = {"train": [MySequence(x), MySequence(x, lock=threading.Lock())]}; tell("containers", parts)
    tell("function", batches)
    tell("closure", closing_over())
    tell("default", with_default)
    tell("bound method", store.batches)
    tell("lambda that fails", lambda: db)
    tell("library object", db)
    made = count(3); tell("generator", made)
    made = count(3, step=x); tell("generator with array", made)
    made = store.batches(5); tell("generator of a method", made)
    made = (i for i in range(3)); tell("generator expression", made)
    tell("fine", MySequence(x, f=lambda x: x, g=closing_over))

all_cases()
print(json.dumps(told))
"""


def run(arguments: list[str], folder: Path, stdin: str = "") -> Any:
    command = [sys.executable, *arguments]
    done = subprocess.run(command, input=stdin, capture_output=True, encoding="utf-8", cwd=folder, env=ENVIRONMENT, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("project")
    (folder / "train.py").write_text(SCRIPT, encoding="utf-8")
    return run(["train.py", str(folder / "out.txt")], folder)


LOCK = "a threading.Lock (_thread.lock)"
HEADS = {
    "lock": f"seq to its workers: seq.lock is {LOCK}, which",
    "nested": f"my_sequence to its workers: my_sequence.aug.items[1]['a'] is {LOCK}, which",
    "no variable": f"MySequence(...) to its workers: MySequence(...).lock is {LOCK}, which",
    "private": "seq to its workers: seq.__lock is a threading.RLock (_thread.RLock), which",
    "slots": f"seq to its workers: seq.__b is {LOCK}, which",
    "cycle": "seq to its workers: seq.log is an open file (_io.BufferedReader of '",
    "getstate": "seq to its workers: seq.file is an open file (_io.BufferedReader of '",
    "class attribute": f"seq to its workers: OnTheClass.lock is {LOCK}, which",
    "base class attribute": f"seq to its workers: OnTheClass.lock is {LOCK}, which",
    "global of a property": "seq to its workers: db (a variable that UsesGlobal.rows uses) is a sqlite3.Connection, which",
    "generator attribute": "seq to its workers: seq.rows is a generator object (made by count), which",
    "pool": "seq to its workers: seq.pool is a concurrent.futures.thread.ThreadPoolExecutor, which",
    "queue": "seq to its workers: seq.q is a queue.Queue, which",
    "event": "seq to its workers: seq.event is a threading.Event, which",
    "multiprocessing": "seq to its workers: seq.lock is a multiprocessing.synchronize.Lock, which can't be pickled. (",
    "socket": "seq to its workers: seq.s is a socket.socket, which",
    "text file": "seq to its workers: seq.out is an open file (_io.TextIOWrapper of '",
    "partial": f"seq to its workers: seq.f.args[0] is {LOCK}, which",
    "containers": f"parts to its workers: parts['train'][1].lock is {LOCK}, which",
    "function": "batches to its workers: db (a variable that batches uses) is a sqlite3.Connection, which",
    "closure": "make to its workers: store.connection (store is a variable that make uses) is a sqlite3.Connection, which",
    "default": "with_default to its workers: stream (a default argument of with_default) is an open file (_io.BufferedReader of '",
    "bound method": "store.batches to its workers: store.connection is a sqlite3.Connection, which",
    "library object": "db to its workers: it is a sqlite3.Connection, which",
}


@pytest.mark.parametrize("case", HEADS)
def test_the_place_is_named(case: str, told: Any) -> None:
    assert told[case].startswith(f"feeder can't send {HEADS[case]}")


CALLS = {
    "lock": '"train.py:MySequence", workers=4, args={"x": ..., "batch_size": 64}',
    "nested": '"train.py:MySequence", workers=4, args={"x": ..., "shuffle": True}',
    "private": '"train.py:Private", workers=4',
    "function": '"train.py:batches", workers=4, args={"folder": ..., "batch_size": ...}',
    "closure": '"train.py:make", workers=4',
    "default": '"train.py:with_default", workers=4',
    "bound method": '"train.py:make_batches", workers=4',
    "library object": '"train.py:make_db", workers=4',
    "containers": '"train.py:make_parts", workers=4',
    "generator": 'count, workers=4, args={"n": 3, "step": 1}',
    "generator with array": 'count, workers=4, args={"n": 3, "step": ...}',
    "generator of a method": 'store.batches, workers=4, args={"step": 5}',
}


@pytest.mark.parametrize("case", CALLS)
def test_the_call_that_works_is_shown(case: str, told: Any) -> None:
    assert f"\n    FeederSequence.local({CALLS[case]})" in told[case] + "\n"


HINTS = {
    "lock": "Or do without: a worker makes one batch at a time.",
    "event": "Or do without",
    "cycle": "open it in the worker on first use",
    "text file": "open it in the worker on first use",
    "temporary file": "open it in the worker on first use",
    "library object": "open it in the worker on first use",
    "socket": "connect in the worker on first use",
    "pool": "start it in the worker on first use",
    "generator attribute": "keep the function that makes it",
    "generator": "runs only once.\nPass the function that makes it, without calling it:\n",
    "generator expression": "Write it as a generator function",
    "multiprocessing": "objects should only be shared between processes through inheritance",
    "nested": "A separate file is better: the workers import it, and the top-level code of train.py would run again",
}


@pytest.mark.parametrize("case", HINTS)
def test_there_is_a_hint(case: str, told: Any) -> None:
    assert HINTS[case] in told[case]


def test_every_message_is_short(told: Any) -> None:
    assert told["fine"] is None
    for case, text in told.items():
        if case == "fine":
            continue
        assert len(text.splitlines()) <= 6, case
        assert max(map(len, text.splitlines())) < 260, case


def test_in_a_notebook_a_file_is_suggested(tmp_path: Path) -> None:
    cells = """
        import json, sys, threading
        from feeder_client.unpicklable import explain
        class CatsAndDogs:
            def __init__(self, folder): self.folder, self.lock = folder, threading.Lock()
        pets = CatsAndDogs("images")
        print(json.dumps(str(explain(pets, TypeError("cannot pickle")))))
    """
    [head, advice, call, hint] = run(["-"], tmp_path, textwrap.dedent(cells)).splitlines()
    assert head == f"feeder can't send pets to its workers: pets.lock is {LOCK}, which can't be pickled."
    assert advice == "Let the workers make their own: put the class in a file and name it:"
    assert call == '    FeederSequence.local("cats_and_dogs.py:CatsAndDogs", workers=4, args={"folder": "images"})'
    assert hint.startswith("Or do without")


class Sequence:
    def __init__(self, n: int = 3) -> None:
        self.n = n
        self.lock = threading.Lock()


def told_here(_obj: Any, _error: Exception | None = None) -> str:
    error = explain(_obj, _error or picklable(_obj) or TypeError("no"))
    assert isinstance(error, ConfigError)
    return str(error)


def test_a_class_in_a_module_is_named_where_it_is() -> None:
    mine = Sequence(5)
    text = told_here(mine)
    assert text.splitlines()[1:3] == [
        "Let the workers make their own: name the class instead of handing over the object:",
        f'    FeederSequence.local("{__name__}:Sequence", workers=4, args={{"n": 5}})',
    ]


def test_h5py_files_and_data_sets_are_named_as_the_user_knows_them(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        assert ": parts['f'] is an h5py.File, which" in (text := told_here(parts := {"f": file}))
        assert "open it in the worker on first use" in text
        parts = [file.create_dataset("x", (3,))]
        assert "[0] is an h5py.Dataset, which" in told_here(parts)


@pytest.mark.keras
def test_a_tf_data_dataset_is_named_as_the_user_knows_it() -> None:
    tf = pytest.importorskip("tensorflow")
    data = tf.data.Dataset.range(3).batch(2)
    text = told_here([data])
    assert "[0] is a tf.data.Dataset, which" in text
    assert "make it in the worker on first use" in text


class Hostile:
    """Everything that the search may touch raises."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise RuntimeError("not me")

    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no comparison")

    __hash__ = object.__hash__


def test_hostile_objects_are_survived() -> None:
    text = told_here({Hostile(): [Hostile()]})
    assert text.startswith("feeder can't send ")
    assert "not me" in told_here(Hostile())


def test_the_search_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpicklable, "_MAX_CHECKS", 50)
    wide = {"many": [[i] for i in range(500)] + [threading.Lock()]}
    assert "wide['many'] is a list, which" in told_here(wide)
    deep: Any = threading.Lock()
    for _ in range(60):
        deep = [deep]
    started = time.monotonic()
    assert "deep[0][0]" in told_here(deep)
    assert time.monotonic() - started < 5


def test_an_error_that_cannot_be_found_again_is_quoted() -> None:
    fine = [1, 2]
    assert "it is a list, which can't be pickled. (out of luck)" in told_here(fine, ValueError("out of luck\nreally"))
