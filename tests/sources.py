"""Sources that the tests serve: small, and with contents that a test can foresee.

Where a test has to catch a worker in the middle of a batch, the source says so by a file and waits for another one, so that nothing
depends on speed: see `hold`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def hold(folder: str, what: object) -> None:
    """Says in `folder` that this process has come to `what`, and waits there until there is a file ``go``."""
    place = Path(folder)
    (place / f"at-{what}-{os.getpid()}").touch()
    while not (place / "go").exists():
        time.sleep(0.01)


class Numbers:
    """Batch i is i, eight times, and its label. No state."""

    def __init__(self, n: int = 20, size: int = 8) -> None:
        self.n, self.size = n, size

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> tuple[Array, Array]:
        return np.full((4, self.size), i, np.float32), np.full((4, 1), i, np.int64)


class Pids(Numbers):
    """Who made it: (i, process id of the worker), and a text by which copies agree."""

    def __getitem__(self, i: int) -> Any:
        return i, os.getpid(), f"sample {i:08}"


class Epochs:
    """With state: item i is (epoch, place in that epoch's own order, object's own number of epochs)."""

    def __init__(self, n: int = 12) -> None:
        self.n, self.epoch, self.order = n, 0, np.arange(n)

    def __len__(self) -> int:
        return self.n

    def on_epoch_end(self) -> None:
        self.epoch += 1
        np.random.shuffle(self.order)

    def __getitem__(self, i: int) -> Any:
        return self.epoch, int(self.order[i])


def pattern(i: int, nbytes: int) -> Array:
    """Bytes that differ from batch to batch and from place to place."""
    return (np.arange(nbytes, dtype=np.uint32) * 2654435761 + i * 40503 >> 13).astype(np.uint8)


def lies_in(array: Array) -> str:
    """The file that is mapped where `array` lies; empty where only Linux could tell."""
    address = array.__array_interface__["data"][0]
    if sys.platform == "linux":
        with open("/proc/self/maps") as maps:
            for line in maps:
                span, *_, path = line.rstrip("\n").split(" ")
                first, last = (int(edge, 16) for edge in span.split("-"))
                if first <= address < last:
                    return path
    return ""


class Blocks:
    """Batch i is `pattern(i, kilobytes * 1024)`: large enough for a block."""

    def __init__(self, n: int = 300, kilobytes: int = 64) -> None:
        self.n, self.nbytes = n, kilobytes * 1024

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> Array:
        return pattern(i, self.nbytes)


def leaf(dtype: str) -> Array:
    """An array of `dtype` in which no two elements are alike, as far as the dtype goes."""
    made = np.dtype(dtype)
    if made.kind in "mM":
        return np.arange(12, dtype=np.int64).astype(made).reshape(3, 4)
    if made.kind == "U":
        return np.array([f"{i} é" for i in range(6)], made)
    if made.kind == "S":
        return np.array([b"a", b"bcd", b"\x00z"], made)
    if made.kind == "V":
        out = np.zeros(5, made)
        out["a"], out["b"] = np.arange(5), np.arange(5) / 4
        return out
    return (np.arange(60) % 100).astype(made).reshape(3, 4, 5)


DTYPES = [
    *("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"),
    *("float16", "float32", "float64", "complex64", "complex128", ">f4", ">i8", "M8[ns]", "m8[s]", "S5", "U7"),
]
STRUCTURED = [("a", "i4"), ("b", "f8")]


def rich_batch(i: int) -> Any:
    """Everything that a batch may hold, in every kind of nest."""
    image = np.arange(2 * 5 * 7 * 3, dtype=np.uint8).reshape(2, 5, 7, 3) + np.uint8(i)
    return (
        {
            "image": image,
            "nested": [np.float32([1.5, i]), (None, {"deep": np.arange(i + 1)}, [])],
            7: "a key that is no text",
            "dtypes": {name: leaf(name) for name in DTYPES},
            "structured": np.array([(1, 0.5), (2, 0.25)], STRUCTURED),
        },
        [np.asfortranarray(np.arange(12.0).reshape(3, 4)), np.arange(20)[::-2], image[:, ::2, 1:]],
        [np.array(3.25), np.empty((0, 3), np.int16)],
        (i, float(i) / 3, True, "text \N{BLACK HEART SUIT}", b"\x00\xff", 2**70 + i, None, complex(1, i)),
        (),
        np.float64(i) / 7,
        np.full((40, 1000), i, np.float32),  # so that the whole is too large for a message
    )


class Rich:
    """`rich_batch`."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, i: int) -> Any:
        return rich_batch(i)


SHAPES = [
    *(None, (), [], {}, "text", 5, (None,), [[]], {"x": ()}),
    *((np.zeros(3),), [np.zeros(3)], {"x": np.zeros(3)}, np.zeros(3), (np.zeros(3), None), [(1, [2, (3, {"a": [4]})])]),
]


class Shapes:
    """The forms of `SHAPES`, one a batch; with `padded` each is in a tuple beside something too large for a message."""

    def __init__(self, padded: bool = False) -> None:
        self.padded = padded

    def __len__(self) -> int:
        return len(SHAPES)

    def __getitem__(self, i: int) -> Any:
        return (SHAPES[i], np.zeros(50_000)) if self.padded else SHAPES[i]


class Broken(Numbers):
    """Raises ValueError at batch `at`, from two calls down."""

    def __init__(self, n: int = 10, at: int = 4, size: int = 8) -> None:
        super().__init__(n, size)
        self.at = at

    def __getitem__(self, i: int) -> Any:
        if i == self.at:
            self.read(i)
        return super().__getitem__(i)

    def read(self, i: int) -> None:
        raise ValueError(f"picture {i} is broken")


class Objects(Numbers):
    """An array of objects in batch 2."""

    def __getitem__(self, i: int) -> Any:
        return {"x": [np.zeros(3), np.array([{}, None], object) if i == 2 else np.ones(2)]}


class Odd(Exception):
    """Needs more than a message."""

    def __init__(self, code: int, place: str) -> None:
        super().__init__(code, place)


class Oddly(Numbers):
    """Raises what is no ordinary error: at 1 an exception of its own, at 2 SystemExit, at 3 KeyboardInterrupt, at 4 StopIteration."""

    def __getitem__(self, i: int) -> Any:
        if i in (1, 2, 3, 4):
            raise (Odd(7, "cellar"), SystemExit(3), KeyboardInterrupt(), StopIteration())[i - 1]
        return i


class Exits(Numbers):
    """Ends its process at batch `at`: always, or with a `folder` only the first time anybody comes to it."""

    def __init__(self, n: int = 12, at: int = 5, folder: str = "") -> None:
        super().__init__(n)
        self.at, self.folder = at, folder

    def __getitem__(self, i: int) -> Any:
        if i == self.at and not (self.folder and (Path(self.folder) / "been").exists()):
            if self.folder:
                (Path(self.folder) / "been").touch()
            print("going down", flush=True)
            os._exit(7)
        return i


class Poisoned(Numbers):
    """Ends its process at each of the batches `bad`."""

    def __init__(self, n: int = 12, bad: tuple[int, ...] = ()) -> None:
        super().__init__(n)
        self.bad = bad

    def __getitem__(self, i: int) -> Any:
        if i in self.bad:
            os._exit(7)
        return i


def stick(gil: bool) -> None:
    """Never comes back: from C code that holds the GIL all the time, so that no other thread of the process runs, or from a wait."""
    while True:
        if gil:
            re.match(r"(a+)+$", "a" * 60 + "b")  # takes some 2 ** 60 steps
        else:
            time.sleep(1)


def first_here(folder: str) -> bool:
    """Whether nobody was here before, in any process."""
    try:
        (Path(folder) / "been").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


class Sticks(Numbers):
    """Never comes back from batch `at`: always, or with a `folder` only the first time anybody comes to it."""

    def __init__(self, n: int = 12, at: int = 5, folder: str = "", gil: bool = True) -> None:
        super().__init__(n)
        self.at, self.folder, self.gil = at, folder, gil

    def __getitem__(self, i: int) -> Any:
        if i == self.at and (not self.folder or first_here(self.folder)):
            stick(self.gil)
        return i


def stream_that_sticks(folder: str, n: int = 20, at: int = 7, shard_index: int = 0, num_shards: int = 1) -> Iterator[Any]:
    """A sharded stream that doesn't come back from item `at`, once."""
    for i in range(shard_index, n, num_shards):
        if i == at and first_here(folder):
            stick(gil=True)
        yield i


class SlowToLoad(Epochs):
    """Takes `seconds` to be built, and half of that for each epoch."""

    def __init__(self, n: int = 4, seconds: float = 1.0) -> None:
        super().__init__(n)
        self.seconds = seconds
        time.sleep(seconds)

    def on_epoch_end(self) -> None:
        super().on_epoch_end()
        time.sleep(self.seconds / 2)


class Holds(Numbers):
    """Waits at batch `at`, see `hold`; batches are small, or blocks of `kilobytes`."""

    def __init__(self, folder: str, n: int = 30, at: int = 10, kilobytes: int = 0) -> None:
        super().__init__(n)
        self.folder, self.at, self.kilobytes = folder, at, kilobytes

    def __getitem__(self, i: int) -> Any:
        if i == self.at:
            hold(self.folder, i)
        return pattern(i, self.kilobytes * 1024) if self.kilobytes else i


class Hangs(Numbers):
    """Hangs at batch 1, with a child of its own that holds on to the worker's output."""

    def __init__(self, folder: str, child: bool = False) -> None:
        super().__init__(4)
        self.folder, self.child = folder, child

    def __getitem__(self, i: int) -> Any:
        if i == 1:
            if self.child:
                code = f"import time, os\nwhile not os.path.exists({self.folder + '/go'!r}): time.sleep(0.05)"
                subprocess.Popen([sys.executable, "-c", code])
            hold(self.folder, i)
        return i


class Sleepy(Numbers):
    """Each batch takes `seconds`; it tells who made it, and has a text by which nodes agree."""

    def __init__(self, n: int = 60, seconds: float = 0.0, name: str = "") -> None:
        super().__init__(n)
        self.seconds, self.name = seconds, name

    def __getitem__(self, i: int) -> Any:
        time.sleep(self.seconds)
        return i, self.name, f"sample {i:08}"


class Prints(Numbers):
    """Prints to both outputs."""

    def __getitem__(self, i: int) -> Any:
        print(f"looking at {i} \N{CHECK MARK}")
        print(f"complaining about {i}", file=sys.stderr)
        return i


def counted(n: int = 5) -> Iterator[Any]:
    """A finite stream."""
    yield from range(n)


def sharded(n: int = 20, shard_index: int = 0, num_shards: int = 1, size: int = 0) -> Iterator[Any]:
    """A finite stream of which each worker makes its part."""
    for i in range(shard_index, n, num_shards):
        yield (i, np.full(size, i, np.float32)) if size else i


def endless() -> Iterator[Any]:
    """A stream without end."""
    i = 0
    while True:
        yield i
        i += 1


def reused(n: int = 50, size: int = 20_000) -> Iterator[Any]:
    """A stream that yields one and the same array, with other contents each time."""
    out = np.empty(size, np.float32)
    for i in range(n):
        out[:] = i
        yield out


def empty() -> Iterator[Any]:
    """A stream with nothing in it."""
    return
    yield


def broken_stream(n: int = 6, at: int = 3) -> Iterator[Any]:
    """Raises at item `at`."""
    for i in range(n):
        if i == at:
            raise ValueError(f"item {i} is broken")
        yield i


def stream_that_exits(folder: str, n: int = 20, at: int = 7, shard_index: int = 0, num_shards: int = 1) -> Iterator[Any]:
    """A sharded stream whose worker ends at item `at`, once."""
    for i in range(shard_index, n, num_shards):
        if i == at and not (Path(folder) / "been").exists():
            (Path(folder) / "been").touch()
            os._exit(9)
        yield i


class Samples:
    """For Keras: y = 2 x - 1 for x in 0..1, `n` samples in batches of `size`."""

    def __init__(self, n: int = 64, size: int = 8) -> None:
        self.x = np.linspace(0, 1, n, dtype=np.float32)[:, None]
        self.size = size

    def __len__(self) -> int:
        return len(self.x) // self.size

    def __getitem__(self, i: int) -> tuple[Array, Array]:
        x = self.x[i * self.size : (i + 1) * self.size]
        return x, 2 * x - 1
