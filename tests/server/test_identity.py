"""Which calls are the same, and that the answer is the same in another process."""

from __future__ import annotations

import collections
import datetime
import enum
import functools
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from feeder_server.identity import CanNotTellError, identity_of, name_of

SETTING: dict[str, object] = {"folder": "a"}
COUNT = 0


def load(folder: str = "a", size: int = 1) -> object:
    return folder, size


def with_a_setting() -> object:
    return SETTING["folder"]


def counting() -> int:
    global COUNT
    COUNT += 1
    return COUNT


def through_another() -> object:
    return with_a_setting()


class Color(enum.Enum):
    RED = 1
    BLUE = 2


@dataclass
class Options:
    size: int = 1


class Slotted:
    __slots__ = ("a", "empty")

    def __init__(self, a: object) -> None:
        self.a = a


class Named(dict[str, int]):
    pass


class Train:
    def __init__(self, split: str = "train", **more: object) -> None:
        self.split = split
        self.rng = np.random.default_rng()
        self.__dict__.update(more)

    def load(self) -> object:
        return self.split


def closure(value: object) -> Callable[[], object]:
    return lambda: value


def identity(function: Any, *args: object, key: object = None, **kwargs: object) -> str:
    return identity_of(function, args, kwargs, key)


@pytest.mark.parametrize(
    "make",
    [
        lambda: (load,),
        lambda: (load, "a", 3),
        lambda: (functools.partial(load, "a", size=3),),
        lambda: (functools.lru_cache(load), [1, 2.5, None, {"a": b"x"}]),
        lambda: (closure(np.arange(5)),),
        lambda: (closure(closure({"x", "y", "z"})),),
        lambda: (Train("val").load,),
        lambda: (load, Options(3), Slotted([1]), Named(a=1), Color.BLUE, Path("a"), collections.deque([1], 3)),
        lambda: (np.load, "x.npy"),
        lambda: (np.concatenate, [np.zeros(3)]),
        lambda: (load, np.float32, np.dtype("f4"), np.float32(3), datetime.date(2026, 1, 2), os.path.join, len, "x".join, Color),
        lambda: (load, np.array(["a", None], object)),
        lambda: (load, np.ma.masked_array([1, 2], [True, False])),
    ],
)
def test_the_same_call_made_twice(make: Callable[[], Any]) -> None:
    assert identity(*make()) == identity(*make())


def around(itself: list[object]) -> list[object]:
    itself.append(itself)
    return itself


OTHERS: list[Callable[[], Any]] = [
    lambda: (load,),
    lambda: (closure(1),),
    lambda: (closure(2),),
    lambda: (closure("1"),),
    lambda: (load, 1),
    lambda: (load, 1, 2),
    lambda: (load, (1, 2)),
    lambda: (load, [1, 2]),
    lambda: (load, [1, "2"]),
    lambda: (load, [[1], 2]),
    lambda: (load, {1: 2}),
    lambda: (load, {2: 1}),
    lambda: (load, {1, 2}),
    lambda: (load, b"1"),
    lambda: (load, True),
    lambda: (load, 1.0),
    lambda: (load, np.zeros(3)),
    lambda: (load, np.zeros(3, "f4")),
    lambda: (load, np.zeros((3, 1))),
    lambda: (load, np.ones(3)),
    lambda: (load, np.zeros(4)[:3].reshape(1, 3)),
    lambda: (load, np.ma.masked_array([1, 2], [True, False])),
    lambda: (load, np.ma.masked_array([1, 2], [False, False])),
    lambda: (load, Options(1)),
    lambda: (load, Options(2)),
    lambda: (load, Slotted(1)),
    lambda: (load, Slotted(2)),
    lambda: (load, Named(a=1)),
    lambda: (load, Color.RED),
    lambda: (load, Color.BLUE),
    lambda: (load, Path("a")),
    lambda: (load, around([1])),
    lambda: (load, around([2])),
    lambda: (Train("val").load,),
    lambda: (Train("train").load,),
    lambda: (Train("train", scale=2).load,),
    lambda: (functools.partial(load, size=2),),
    lambda: (functools.partial(load, size=3),),
    lambda: (functools.partial(load, "a"),),
    lambda: (np.load, "x.npy"),
    lambda: (np.load, "y.npy"),
    lambda: (np.loadtxt, "x.npy"),
    lambda: (lambda: 1,),
    lambda: (lambda: 2,),
    lambda: (lambda: 1 in {1, 2},),
    lambda: (lambda x=1: x,),
    lambda: (lambda x=2: x,),
]


def test_other_code_or_arguments_are_another_call() -> None:
    found: dict[str, int] = {}
    for place, make in enumerate(OTHERS):
        assert found.setdefault(identity(*make()), place) == place, place
    assert identity(load, size=2) != identity(load, size=3)


def test_the_order_of_named_arguments_is_no_matter() -> None:
    assert identity(load, size=2, folder="b") == identity(load, folder="b", size=2)


def test_what_a_function_reads_of_its_module_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two sources of one file may set it in turn, and both call the same function."""
    before = identity(with_a_setting), identity(through_another), identity(load)
    monkeypatch.setitem(SETTING, "folder", "b")
    assert identity(with_a_setting) != before[0]
    assert identity(through_another) != before[1]
    assert identity(load) == before[2]
    monkeypatch.setitem(SETTING, "folder", threading.Lock())  # can't be told, and is no reason to give up
    assert identity(with_a_setting) != before[0]


def test_what_it_writes_there_does_not() -> None:
    before = identity(counting)
    counting()
    assert identity(counting) == before


def test_an_array_in_a_file_counts_by_its_name(tmp_path: Path) -> None:
    """It may be larger than memory; a part of it counts by what is in it."""
    for name in ("a.npy", "b.npy"):
        np.save(tmp_path / name, np.arange(100))
    a, b = (np.load(tmp_path / name, mmap_mode="r") for name in ("a.npy", "b.npy"))
    assert identity(load, a) != identity(load, b)
    assert identity(load, a) == identity(load, np.load(tmp_path / "a.npy", mmap_mode="r"))
    assert identity(load, a[10:20]) == identity(load, b[10:20])


@pytest.mark.parametrize(
    ("make", "where"),
    [
        (threading.Lock, r"args\[0\] is a _thread.lock"),
        (threading.RLock, r"args\[0\] is a _thread.RLock"),
        (lambda: iter([1]), r"args\[0\] is a builtins.list_iterator"),
        (object, r"args\[0\] is a builtins.object"),
        (lambda: Slotted({"x": threading.Lock()}), r"args\[0\].a\['x'\] is a _thread.lock"),
        (lambda: memoryview(b"x"), r"args\[0\] is a builtins.memoryview"),
    ],
)
def test_what_can_not_be_told(make: Callable[[], object], where: str) -> None:
    with pytest.raises(CanNotTellError, match=f"^{where}$"):
        identity(load, make())


def test_a_key_in_place_of_what_can_not_be_told() -> None:
    one, other = Train(lock=threading.Lock()), Train("val", lock=threading.Lock())
    assert identity(one.load, key="a") == identity(other.load, key="a") != identity(one.load, key="b")
    assert identity(one.load, key=("a", 1)) != identity(lambda: 1, key=("a", 1)) != identity(lambda: 2, key=("a", 1))
    with pytest.raises(CanNotTellError, match=r"^key is a"):
        identity(load, key=threading.Lock())


def test_names() -> None:
    assert name_of(load) == name_of(functools.partial(functools.lru_cache(load), 3)) == f"{__name__}.load"
    assert name_of(Train().load) == f"{__name__}.Train.load"
    assert name_of(len) == "builtins.len"


def test_the_same_in_another_process(tmp_path: Path) -> None:
    """Hash seeds differ, and so does where things lie."""
    (tmp_path / "code.py").write_text(
        textwrap.dedent("""
            import sys
            sys.path.append(sys.argv[1])
            import numpy as np
            from feeder_server.identity import identity_of
            LIMITS = {"a", "b", "c"}
            def load(x, y={"d", "e"}):
                return x in {"f", "g", "h"} or x in LIMITS
            print(identity_of(load, (np.arange(9), {"i", "j"}, object.__subclasses__), {"k": lambda: {"l", "m"}}))
        """),
        encoding="utf-8",
    )
    root = str(Path(__file__).resolve().parents[2])
    found = {
        subprocess.run(
            [sys.executable, str(tmp_path / "code.py"), root],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(found) == 1
