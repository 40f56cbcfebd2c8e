"""Sources made with Keras, TensorFlow, torch and JAX: legacy image iterators, PyDataset, tf.data, and tensors as leaves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import numpy as np
import pytest

from feeder_client import FeederClient
from tests.backends import may_be_missing
from tests.serving import Serving
from tests.zoo import files
from tests.zoo.reading import Case, check, digest, outcome_of, read, serve_all

pytestmark = [pytest.mark.keras, pytest.mark.timeout(300)]

ALL = range(24)
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


@pytest.fixture(scope="module", name="nodes")
def nodes_of_1_and_3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, Serving]]:
    """Nodes that serve all of them, by their number of workers: importing these libraries takes most of the time."""
    for library in ("torch", "jax"):
        if may_be_missing(library):
            pytest.importorskip(library)
    folder = tmp_path_factory.mktemp("data")
    files.make(folder)
    with ExitStack() as stack:
        yield serve_all(stack, folder, {**CASES, **STREAMS, **OTHERS}, workers=(1, 3), env={"ZOO_DATA": str(folder)})


@pytest.mark.parametrize("name", CASES)
def test_every_sample_once_and_the_bytes_of_one_worker(nodes: dict[int, Serving], name: str) -> None:
    check(name, CASES[name], nodes[1], nodes[3])


@pytest.mark.parametrize("name", ["pair", "layers"])
def test_what_was_seeded_alike_stays_in_step(nodes: dict[int, Serving], name: str) -> None:
    """Masks are turned as their pictures are, and each batch in a way of its own."""
    with FeederClient(nodes[3].endpoint, name) as client:
        for _ in range(2):
            for x, mask, _ in client:
                np.testing.assert_array_equal(x, mask)


def test_leaves_are_numpy(nodes: dict[int, Serving]) -> None:
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


def test_a_key_that_is_split_for_each_batch(nodes: dict[int, Serving]) -> None:
    """What it draws depends on how many batches this worker has made, which is found out and said; the samples are right all the same."""
    with FeederClient(nodes[3].endpoint, "split_key") as client:
        assert outcome_of(client, nodes[3]) == "not reproducible"
        assert [sorted(read(client).ids) for _ in range(2)] == [list(ALL)] * 2


@pytest.mark.parametrize("name", ["tf_data", "loader"])
def test_streams_that_are_not_shared_out(nodes: dict[int, Serving], name: str) -> None:
    """Each worker gives the data once."""
    for n in (1, 3):
        with FeederClient(nodes[n].endpoint, name) as client:
            for _ in range(2):
                assert Counter(read(client).ids) == Counter({k: n for k in ALL})


def test_a_tf_data_pipeline_that_is_shared_out(nodes: dict[int, Serving]) -> None:
    """Shuffled before it is cut in shards, which fit together only if all workers shuffle alike, in each pass."""
    orders = []
    for n in (1, 3):
        with FeederClient(nodes[n].endpoint, "tf_data_sharded") as client:
            got = [read(client).ids for _ in range(3)]
        assert [sorted(ids) for ids in got] == [list(ALL)] * 3
        orders.append({tuple(ids) for ids in got})
    assert len(orders[0]) == 3


def test_pictures_and_masks_of_two_zipped_iterators(nodes: dict[int, Serving]) -> None:
    """In step in each batch."""
    for n in (1, 3):
        with FeederClient(nodes[n].endpoint, "segmentation", steps=12) as client:
            seen = set()
            for _ in range(2):
                for x, mask in client:
                    np.testing.assert_array_equal(x, mask)
                    seen.add(digest(x))
            assert len(seen) == 24
