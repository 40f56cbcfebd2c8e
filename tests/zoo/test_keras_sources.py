"""Sources made with Keras, TensorFlow, torch and JAX: legacy image iterators, PyDataset, tf.data, and tensors as leaves.

Importing these libraries in four workers takes most of the time. So all of it is one test: when tests are spread over processes, each
that got one of several would start its own.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from feeder_client import FeederClient
from tests.backends import needs
from tests.serving import Serving
from tests.zoo import files
from tests.zoo.reading import Case, check, digest, outcome_of, read, serve_all

pytestmark = [pytest.mark.keras, pytest.mark.timeout(400)]

ALL = range(24)
Nodes = dict[int, Serving]  # by their number of workers
CASES = {
    "plain": Case("sources_keras.py:Plain", "parallel", ALL),
    "dataset": Case("sources_keras.py:Dataset", "parallel", ALL),
    "flow": Case("sources_keras.py:flow", "warmed", ALL),
    "flow_seeded": Case("sources_keras.py:flow_seeded", "warmed", ALL),
    "folder": Case("sources_keras.py:Named", "warmed", ALL),
    "pair": Case("sources_keras.py:Pair", "parallel", ALL),
    "layers": Case("sources_keras.py:Layers", "parallel", ALL),
    "tensorflow": Case("sources_tensors.py:TensorFlow", "parallel", ALL),
    "torch": Case("sources_tensors.py:Torch", "parallel", ALL),
    "jax": Case("sources_tensors.py:Jax", "parallel", ALL),
}
STREAMS = {
    "tf_data": Case("sources_keras.py:tf_data", "stream"),
    "tf_data_sharded": Case("sources_keras.py:tf_data_sharded", "stream"),
    "segmentation": Case("sources_keras.py:images_and_masks", "stream"),
    "loader": Case("sources_tensors.py:loader", "stream"),
}
OTHERS = {"split_key": Case("sources_tensors.py:SplitKey", "not reproducible")}


def test_keras_tensorflow_torch_and_jax(tmp_path: Path) -> None:
    """Runs everything below, and names all that failed."""
    needs("torch", "jax")
    files.make(tmp_path)
    checks: dict[str, Callable[[Nodes], None]] = {
        **{name: lambda nodes, name=name: check(name, CASES[name], nodes[1], nodes[3]) for name in CASES},  # type: ignore[misc]
        **{f"{name} in step": lambda nodes, name=name: stays_in_step(nodes, name) for name in ("pair", "layers")},  # type: ignore[misc]
        **{f"{name} in each": lambda nodes, name=name: is_given_by_each(nodes, name) for name in ("tf_data", "loader")},  # type: ignore[misc]
        **{f.__name__: f for f in (leaves_are_numpy, a_split_key_is_noticed, tf_data_is_shared_out, zipped_iterators_stay_in_step)},
    }
    failed = []
    with ExitStack() as stack:
        # What three workers give, which load these libraries when they are touched, is compared with one that loads them at once.
        cases, of_one = {**CASES, **STREAMS, **OTHERS}, ["--no-light-imports"]
        nodes = serve_all(stack, tmp_path, cases, workers=(1, 3), of_one=of_one, env={"ZOO_DATA": str(tmp_path)})
        for name, run in checks.items():
            try:
                run(nodes)
            except Exception:
                failed.append(f"{name}: {traceback.format_exc()}")
    assert not failed, "\n".join(failed)


def stays_in_step(nodes: Nodes, name: str) -> None:
    """Masks are turned as their pictures are, and each batch in a way of its own."""
    with FeederClient(nodes[3].endpoint, name) as client:
        for _ in range(2):
            for x, mask, _ in client:
                np.testing.assert_array_equal(x, mask)


def leaves_are_numpy(nodes: Nodes) -> None:
    """Tensors are made arrays in the worker, with their dtypes: this process has none of these libraries from feeder."""
    with FeederClient(nodes[3].endpoint, "tensorflow") as client:
        x, ids = client[0]
        assert (type(x["x"]), x["x"].dtype, x["half"].dtype.name, ids.dtype) == (np.ndarray, np.float32, "bfloat16", np.int32)
    with FeederClient(nodes[3].endpoint, "torch") as client:
        (x, half), ids = client[0]
        assert (type(x), x.shape, x.dtype, half.dtype.name, ids.dtype) == (np.ndarray, (4, 3, 8, 8), np.float32, "bfloat16", np.int64)
        assert half.shape == (4, 3, 4, 8)
    with FeederClient(nodes[3].endpoint, "jax") as client:
        (x, half), ids = client[0]
        assert (type(x), x.dtype, half.dtype.name, ids.dtype) == (np.ndarray, np.float32, "bfloat16", np.int32)


def a_split_key_is_noticed(nodes: Nodes) -> None:
    """What it draws depends on how many batches this worker has made, which is found out and said; the samples are right all the same."""
    with FeederClient(nodes[3].endpoint, "split_key") as client:
        assert outcome_of(client, nodes[3]) == "not reproducible"
        assert [sorted(read(client).ids) for _ in range(2)] == [list(ALL)] * 2


def is_given_by_each(nodes: Nodes, name: str) -> None:
    """Each worker gives the data once."""
    for n in (1, 3):
        with FeederClient(nodes[n].endpoint, name) as client:
            for _ in range(2):
                assert Counter(read(client).ids) == Counter({k: n for k in ALL})


def tf_data_is_shared_out(nodes: Nodes) -> None:
    """Shuffled before it is cut in shards, which fit together only if all workers shuffle alike, in each pass."""
    orders = []
    for n in (1, 3):
        with FeederClient(nodes[n].endpoint, "tf_data_sharded") as client:
            got = [read(client).ids for _ in range(3)]
        assert [sorted(ids) for ids in got] == [list(ALL)] * 3
        orders.append({tuple(ids) for ids in got})
    assert len(orders[0]) == 3


def zipped_iterators_stay_in_step(nodes: Nodes) -> None:
    """In step in each batch."""
    for n in (1, 3):
        with FeederClient(nodes[n].endpoint, "segmentation", steps=12) as client:
            seen = set()
            for _ in range(2):
                for x, mask in client:
                    np.testing.assert_array_equal(x, mask)
                    seen.add(digest(x))
            assert len(seen) == 24
