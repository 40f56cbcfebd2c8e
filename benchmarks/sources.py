"""The work that is measured, the same for feeder and for its peers. Needs NumPy only, so that a worker starts without frameworks."""

from __future__ import annotations

import sys
import time

import numpy as np
import numpy.typing as npt

Arrays = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]

FRAMEWORKS = ("keras", "tf_keras", "tensorflow", "torch", "jax")


class Ready:
    """Batches that are ready in memory, so that what is measured is the way from the producer to the consumer."""

    shape: tuple[int, ...]

    def __init__(self, length: int) -> None:
        self._length = length
        self._x = np.random.default_rng(0).random(self.shape, np.float32)
        self._y = np.arange(self.shape[0], dtype=np.int64)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Arrays:
        return self._x, self._y


class Big(Ready):
    """x: float32, shape (64, 224, 224, 3), values 0..1; y: int64, shape (64,). 38.5 MB."""

    shape = (64, 224, 224, 3)


class Stacked(Big):
    """The same size, put together from 64 pictures, as most sources do it."""

    def __getitem__(self, index: int) -> Arrays:
        return np.stack(list(self._x)), self._y


class Inplace(Big):
    """The same, put together where it has to be in the end."""

    def __getitem__(self, index: int) -> Arrays:
        import feeder_server

        x = feeder_server.empty(self.shape, np.float32)
        np.stack(list(self._x), out=x)
        return x, self._y


class Mid(Ready):
    """x: float32, shape (32, 104, 104, 3), values 0..1; y: int64, shape (32,). 4.2 MB."""

    shape = (32, 104, 104, 3)


class Small(Ready):
    """x: float32, shape (32, 26, 3), values 0..1; y: int64, shape (32,). 10 kB."""

    shape = (32, 26, 3)


class Cpu:
    """`loops` turns of pure Python for each batch; x: float32, shape (32, 64, 64, 3), 1.5 MB; y: int64, shape (32,)."""

    def __init__(self, length: int, loops: int) -> None:
        self._length, self._loops = length, loops

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Arrays:
        total = spin(self._loops)
        return np.full((32, 64, 64, 3), total % 256, np.float32), np.full(32, index, np.int64)


class Augmented:
    """Pictures that are flipped, shifted and scaled one by one, and `loops` turns of pure Python besides: what holds a training up.

    x: float32, shape (batch, size, size, 3), values 0..1; y: float32, shape (batch, 1), values 0 or 1.
    """

    def __init__(self, length: int, loops: int, batch: int, size: int) -> None:
        self._length, self._loops, self._batch = length, loops, batch
        self._pictures = np.random.default_rng(0).integers(0, 256, (16, size, size, 3), np.uint8)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        rng = np.random.default_rng(index)
        x = np.empty((self._batch, *self._pictures.shape[1:]), np.float32)
        for picture in x:
            source = self._pictures[rng.integers(len(self._pictures))]
            shifted = np.roll(source, int(rng.integers(len(source))), axis=0)
            np.multiply(shifted[:, ::-1] if rng.random() < 0.5 else shifted, np.float32(1 / 255), out=picture)
        spin(self._loops)
        return x, (x[:, 0, 0, :1] > 0.5).astype(np.float32)


class Sleep:
    """Batches that wait for `seconds`; x: float32, shape (32, 26, 3); y: int64, shape (32,). 10 kB."""

    def __init__(self, length: int, seconds: float) -> None:
        self._length, self._seconds = length, seconds

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Arrays:
        time.sleep(self._seconds)
        return np.full((32, 26, 3), index % 256, np.float32), np.full(32, index, np.int64)


class Rows:
    """Batches out of one large array of float32, `megabytes` MiB; `shared`: computed once for all workers.

    x: shape (32, 1024); y: shape (32,), of all rows together: so that each worker has looked at every page.
    """

    def __init__(self, length: int, megabytes: int, shared: bool) -> None:
        import feeder_server

        self._length = length
        self._rows = feeder_server.shared(rows, megabytes) if shared else rows(megabytes)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        start = index * 32 % (len(self._rows) - 32)
        return self._rows[start : start + 32].copy(), np.full(32, self._rows[:, 0].sum(), np.float32)


def rows(megabytes: int) -> npt.NDArray[np.float32]:
    """float32, shape (256 * megabytes, 1024): a row is one page of memory."""
    return np.full((256 * megabytes, 1024), 0.5, np.float32)


class WithKeras(Small):
    """The same as `Small`, of people who build their pipeline with Keras."""

    def __init__(self, length: int) -> None:
        import keras

        super().__init__(length)
        self.version = keras.__version__


class Loaded:
    """Item i names the frameworks that the process it is made in has loaded."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, str]:
        return {"frameworks": ",".join(name for name in FRAMEWORKS if name in sys.modules)}


def spin(loops: int) -> int:
    """Work that holds the GIL."""
    total = 0
    for i in range(loops):
        total += i * i & 255
    return total


def loops_for(seconds: float) -> int:
    """How many turns of `spin` take so long on this machine."""
    loops = 50_000
    took = []
    for _ in range(50):  # the fastest is the one that nobody disturbed
        started = time.perf_counter()
        spin(loops)
        took.append(time.perf_counter() - started)
    return max(1, round(loops * seconds / min(took)))
