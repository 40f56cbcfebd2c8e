"""Seeds: where every random number of a source comes from.

All copies of a source, in all workers on all machines, have to draw the same numbers for the same item, or training sees some
samples twice and others never. So nothing is drawn from where the generator happens to stand: before the build, before each epoch
and before each item the global generators are set from a value that depends on the server's seed and on *what* is made, never on
who makes it or when.

    import_seed(seed)                 module level of the user's code
    build_seed(seed)                  one for all sources: files split at random in __init__ split alike for train and val
    epoch_seed(seed, epoch)           before on_epoch_end / set_epoch
    item_seed(seed, epoch, index)     before item `index`
    stream_seed(seed, ...)            before each batch of a stream
"""

from __future__ import annotations

import hashlib
import random
import sys
from collections.abc import Callable
from typing import Any

from feeder_server.light_imports import is_stand_in

_LOW = 0xFFFFFFFF

_current: int | None = None
_followers: list[Callable[[int], None]] = []


def derive(seed: int, *path: int | str) -> int:
    """Mix a seed with a path into 64 bits.

    The same on every platform, Python version and hash seed. Each part is written with its kind and length, so that two different
    paths never are the same text.

    Args:
        seed: any integer.
        path: what the value is for, for example ``"item", 3, 17``.

    Returns:
        A value in 0 .. 2**64 - 1.
    """
    text = f"i{int(seed)};" + "".join(f"s{len(part)}:{part};" if isinstance(part, str) else f"i{int(part)};" for part in path)
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def import_seed(seed: int) -> int:
    """Seed for importing a user's module."""
    return derive(seed, "import")


def build_seed(seed: int) -> int:
    """Seed for building a source; the same for all sources of a server."""
    return derive(seed, "build")


def epoch_seed(seed: int, epoch: int) -> int:
    """Seed for advancing a source to `epoch`."""
    return derive(seed, "epoch", epoch)


def item_seed(seed: int, epoch: int, index: int) -> int:
    """Seed for item `index` of `epoch`."""
    return derive(seed, "item", epoch, index)


def stream_seed(seed: int, run: int, count: int, slot: int | None, incarnation: int = 0) -> int:
    """Seed for batch `count` of a run of a stream.

    Args:
        seed: the server's seed.
        run: how often the stream was started before.
        count: batches that this slot has made in this run; -1 for its beginning.
        slot: which of the workers; None where all of them have to draw alike (the start of a sharded stream).
        incarnation: tells a slot that was restarted from the one before it.
    """
    if slot is None:
        return derive(seed, "stream", run, count)
    return derive(seed, "stream", run, count, slot, incarnation)


def seed_globals(value: int) -> None:
    """Seed the global generators that code in this process may draw from.

    `random` and NumPy's legacy generator always; torch, TensorFlow, Keras and OpenCV where the user's code has imported them. Measured
    on one core of the build machine: 11 us with NumPy, 1 us more with torch or OpenCV, 5 us more with TensorFlow, and then up to 1 ms in
    the first *random* op of TensorFlow or Keras, which has to make its kernel or generator anew; who draws none there pays nothing.

    Args:
        value: 0 .. 2**64 - 1.
    """
    global _current
    _current = value
    modules = sys.modules
    random.seed(value)
    numpy = modules.get("numpy")
    if numpy is not None:
        _seed_numpy(numpy, value)
    seed_frameworks(value, frameworks())
    for follower in _followers:
        follower(value)


def frameworks() -> list[str]:
    """Name those of the libraries with global generators of their own that this process has loaded."""
    return [name for name in _FRAMEWORKS if name in sys.modules and not is_stand_in(sys.modules[name])]


def seed_frameworks(value: int, names: list[str]) -> None:
    """Seed the global generators of these libraries."""
    for name in names:
        _FRAMEWORKS[name](value)


def now(value: int) -> None:
    """Say what `current` gives, where generators are set by other means."""
    global _current
    _current = value


def current() -> int | None:
    """Give the seed that was set last; None where none ever was, so in a process that isn't a worker."""
    return _current


def follow(follower: Callable[[int], None]) -> None:
    """Let a generator of feeder's own be set with the global ones: at once, and by each `seed_globals` from now on."""
    _followers.append(follower)
    if _current is not None:
        follower(_current)


def _seed_numpy(numpy: Any, value: int) -> None:
    try:
        # A list keeps all 64 bits: with 32, two of 65,000 items would as likely as not be augmented alike.
        numpy.random.seed([value & _LOW, value >> 32])
    except TypeError:  # the user has put another bit generator in with set_bit_generator, which is theirs to seed
        return


def _seed_torch(value: int) -> None:
    torch = sys.modules["torch"]
    generator = getattr(torch, "default_generator", None)
    if generator is None:  # half imported
        return
    # torch.manual_seed takes 100 us because it looks for every accelerator there might be.
    generator.manual_seed(value)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(value)


def _seed_tensorflow(value: int) -> None:
    set_seed = getattr(getattr(sys.modules["tensorflow"], "random", None), "set_seed", None)
    if set_seed is not None:
        set_seed(value & 0x7FFFFFFFFFFFFFFF)


def _seed_keras(_: int) -> None:
    # What keras.utils.set_random_seed does besides: forget the global SeedGenerator, which is then made from `random` again.
    state = sys.modules.get("keras.src.backend.common.global_state")
    if state is not None:
        state.set_global_attribute("global_seed_generator", None)


def _seed_opencv(value: int) -> None:
    # Behind cv2.randu, cv2.randn and cv2.randShuffle; each thread has one, and this is the one that makes items.
    set_seed = getattr(sys.modules["cv2"], "setRNGSeed", None)
    if set_seed is not None:
        set_seed(value & 0x7FFFFFFF)


_FRAMEWORKS: dict[str, Callable[[int], None]] = {
    "torch": _seed_torch,
    "tensorflow": _seed_tensorflow,
    "keras": _seed_keras,
    "cv2": _seed_opencv,
}
