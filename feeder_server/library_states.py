"""The same as states.py for what Keras and TensorFlow draw from: objects of theirs that a source holds, and that hold a seed.

    keras.random.SeedGenerator     in every layer that augments (RandomFlip, GaussianNoise); a seed, and how often it was drawn from
    tf.random.Generator            TensorFlow's own
    the iterators of Keras' ImageDataGenerator (`flow`, `flow_from_directory`, `flow_from_dataframe`), where they were given a seed:
    they count the batches they have made, and set NumPy's global seed to seed + count before each one. So what a batch looks like
    depends on how many this worker has made. Setting the count makes it depend on the batch; the user's seed still counts.

None of these libraries is imported here: a source that has such an object has done so.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

_COUNT = "total_batches_seen"
_KERAS = {"keras", "tf_keras", "keras_preprocessing", "tensorflow"}
# Past what a metaclass of the user's may have put in between.
_MRO, _NAME, _DICT = (type.__dict__[name] for name in ("__mro__", "__name__", "__dict__"))


def library_state_of(thing: object) -> Callable[[Any, bytes], None] | None:
    """Find how to set an object to 256 bits of seed; None where it is none of these. Runs no code of the user's."""
    if not _KERAS & sys.modules.keys():
        return None
    cls = type(thing)
    for base in _MRO.__get__(cls):
        name, module = _NAME.__get__(base), _DICT.__get__(base).get("__module__")
        if type(module) is not str:
            continue
        if name == "SeedGenerator" and module.startswith("keras.src.random"):
            return set_keras
        if name == "Generator" and module.endswith("ops.stateful_random_ops"):
            return set_tensorflow
        if name == "Iterator" and module.partition(".")[0] in _KERAS and counted(thing):
            return set_count
    return None


def counted(thing: object) -> bool:
    """Whether this is an iterator that seeds NumPy from how many batches it has made."""
    try:
        names = object.__getattribute__(thing, "__dict__")
    except AttributeError:
        return False
    return type(names.get(_COUNT)) is int and names.get("seed") is not None


def set_keras(generator: Any, seed: bytes) -> None:
    """Set a keras.random.SeedGenerator; 100 us with TensorFlow."""
    # 31 bits each: what the integers of all of Keras' backends hold.
    generator.state.assign(np.frombuffer(seed[:8], "<u4").astype(np.int64) >> 1)


def set_tensorflow(generator: Any, seed: bytes) -> None:
    """Set a tf.random.Generator."""
    generator.reset_from_seed(int.from_bytes(seed[:8], "little") >> 1)


def set_count(iterator: Any, seed: bytes) -> None:
    """Set how many batches an iterator of Keras takes itself to have made."""
    # 31 bits, so that with the user's seed it stays within the 32 that numpy.random.seed takes.
    object.__setattr__(iterator, _COUNT, int.from_bytes(seed[:4], "little") >> 1)
