"""Sources with a length, of all the kinds that people write: every sample once in each pass, and the bytes of one worker, with three.

The sources are in the files beside this one. They know nothing of feeder, and are served as they would be by their users.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from feeder_client import FeederClient
from tests.serving import Serving, serve, until
from tests.zoo.reading import HERE, Case, check, outcome_of, read, serve_all

ALL = range(60)
X = np.random.RandomState(0).rand(60, 6, 6, 3).astype("float32")  # the pictures of sources_order.py
CASES = {
    "numpy_shuffle": Case("sources_order.py:NumpyShuffle", "parallel", ALL),
    "anew_each_epoch": Case("sources_order.py:AnewEachEpoch", "parallel", ALL),
    "random_shuffle": Case("sources_order.py:RandomShuffle", "parallel", ALL),
    "in_unison": Case("sources_order.py:InUnison", "parallel", ALL),
    "lazy_permutation": Case("sources_order.py:LazyPermutation", "warmed", ALL),
    "rolling_permutation": Case("sources_order.py:RollingPermutation", "warmed", ALL),
    "private_order": Case("sources_order.py:PrivateOrder", "parallel", ALL),
    "private_random": Case("sources_order.py:PrivateRandom", "parallel", ALL),
    "private_augment": Case("sources_order.py:PrivateAugment", "parallel", ALL),
    "made_on_demand": Case("sources_order.py:MadeOnDemand", "parallel", ALL),
    "state42": Case("sources_order.py:State42", "parallel", ALL),
    "same42": Case("sources_order.py:Same42", "parallel", ALL),
    "seeded_by_hand": Case("sources_order.py:SeededByHand", "parallel", ALL),
    "in_step": Case("sources_order.py:InStep", "parallel", ALL),
    "from_module": Case("sources_order.py:FromModule", "parallel", ALL),
    "cursor": Case("sources_order.py:Cursor", "single", ALL),
    "its_own_iterator": Case("sources_order.py:ItsOwnIterator", "single", ALL),
    "locked": Case("sources_batches.py:Locked", "parallel", range(48)),
    "constant_target": Case("sources_batches.py:ConstantTarget", "parallel", range(48)),
    "same_buffer": Case("sources_batches.py:SameBuffer", "parallel", range(48)),
    "varying": Case("sources_batches.py:Varying", "parallel", range(50)),
    "bucketed": Case("sources_batches.py:Bucketed", "parallel", range(48)),
    "empty": Case("sources_batches.py:Empty", "parallel", [k for k in range(48) if k % 16 >= 4]),
    "accidents": Case("sources_batches.py:Accidents", "parallel", range(48)),
    "listed": Case("sources_batches.py:Listed", "parallel", range(48)),
    "table": Case("sources_batches.py:TABLE", "parallel", range(48)),
}
OTHERS = {
    "constant": Case("sources_batches.py:Constant", "parallel"),
    "train": Case("sources_order.py:Train", "parallel"),
    "validation": Case("sources_order.py:Validation", "parallel"),
    "from_the_system": Case("sources_batches.py:FromTheSystem", "not reproducible"),
    "who": Case("sources_batches.py:WhoMadeIt", "not reproducible"),
}


@pytest.fixture(scope="module", name="nodes")
def nodes_of_1_and_3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, Serving]]:
    """Nodes that serve all of them, by their number of workers."""
    with ExitStack() as stack:
        yield serve_all(stack, tmp_path_factory.mktemp("node"), {**CASES, **OTHERS}, workers=(1, 3))


@pytest.mark.parametrize("name", CASES)
def test_every_sample_once_and_the_bytes_of_one_worker(nodes: dict[int, Serving], name: str) -> None:
    check(name, CASES[name], nodes[1], nodes[3])


SHUFFLED = [
    "numpy_shuffle",
    "anew_each_epoch",
    "random_shuffle",
    "lazy_permutation",
    "private_order",
    "private_random",
    "state42",
    "same42",
]


@pytest.mark.parametrize("name", SHUFFLED)
def test_another_order_in_each_epoch(nodes: dict[int, Serving], name: str) -> None:
    """Equal seeds everywhere must not make all epochs equal."""
    with FeederClient(nodes[3].endpoint, name) as client:
        orders = [tuple(read(client).ids) for _ in range(3)]
    assert len(set(orders)) == 3


def test_other_numbers_for_each_batch(nodes: dict[int, Serving]) -> None:
    """Nor may they augment all batches alike."""
    with FeederClient(nodes[3].endpoint, "same_buffer") as client:
        noise = {round(float(x.mean()) - y.mean(), 6) for _ in range(2) for x, y in client}
    assert len(noise) == 24


def test_generators_that_were_seeded_alike_stay_in_step(nodes: dict[int, Serving]) -> None:
    """Masks have to be turned as their pictures are, each time in another way."""
    with FeederClient(nodes[3].endpoint, "in_step") as client:
        turned = 0
        for x, mask, y in client:
            np.testing.assert_array_equal(mask, x > 0.5)
            turned += sum(not np.array_equal(image, X[k]) for image, k in zip(x, y, strict=True))
    assert 60 * 0.5 < turned < 60


def test_the_same_array_each_time(nodes: dict[int, Serving]) -> None:
    """There is nothing in it to tell one batch from another, and nothing that could be wrong."""
    for workers in (1, 3):
        with FeederClient(nodes[workers].endpoint, "constant") as client:
            for _ in range(2):
                assert {(float(x.min()), float(x.max()), x.shape, y.shape) for x, y in client} == {(1.0, 1.0, (8, 64, 64, 3), (8, 10))}
            assert client.stats().batches == 40
            assert outcome_of(client, nodes[workers]) == ("parallel" if workers > 1 else "one worker")


def test_a_split_is_the_same_for_training_and_validation(nodes: dict[int, Serving]) -> None:
    """No sample of one is in the other, whichever worker made the batch, and in each session."""
    seen = []
    for workers in (1, 3, 3):
        with FeederClient(nodes[workers].endpoint, "train") as train, FeederClient(nodes[workers].endpoint, "validation") as validation:
            seen.append([[read(client) for _ in range(2)] for client in (train, validation)])
    assert seen[0] == seen[1] == seen[2]
    train_ids, validation_ids = ([set(p.ids) for p in passes] for passes in seen[0])
    assert train_ids[0] == train_ids[1] and validation_ids[0] == validation_ids[1]
    assert len(train_ids[0]) == 48 and train_ids[0] | validation_ids[0] == set(ALL) and not train_ids[0] & validation_ids[0]


@pytest.mark.parametrize("name", ["numpy_shuffle", "lazy_permutation", "rolling_permutation", "cursor"])
def test_a_second_trainer_gets_the_same_while_the_first_is_reading(nodes: dict[int, Serving], name: str) -> None:
    """Epochs belong to the trainer, also where one worker makes everything."""
    with FeederClient(nodes[3].endpoint, name) as first:
        want = [read(first) for _ in range(2)]
        batches = iter(first)
        next(batches)
        with FeederClient(nodes[3].endpoint, name) as second:
            assert [read(second) for _ in range(2)] == want


def test_what_nobody_can_seed(nodes: dict[int, Serving]) -> None:
    """Every sample once; the rest differs, and the word for it says so."""
    for _ in range(2):
        with FeederClient(nodes[3].endpoint, "from_the_system") as client:
            got = [read(client) for _ in range(2)]
            assert outcome_of(client, nodes[3]) == "not reproducible"
        assert [p.ids for p in got] == [list(range(48))] * 2


def test_all_workers_make_some(nodes: dict[int, Serving]) -> None:
    """Or the tests above would compare one worker with itself."""
    with FeederClient(nodes[3].endpoint, "who") as client:
        assert outcome_of(client, nodes[3]) == "not reproducible"
    with FeederClient(nodes[3].endpoint, "who") as client:
        assert len({pid for pid, _, _ in client}) == 3


def test_these_tests_see_a_source_whose_copies_disagree(tmp_path: Path) -> None:
    """Let all workers serve what only one may: samples come twice, others never."""
    target = f"{HERE / 'sources_order.py'}:Cursor"
    with serve(tmp_path, target, "--on-divergence", "parallel", workers=3) as node:
        with FeederClient(node.endpoint) as client:
            assert outcome_of(client, node) == "divergent"
        with FeederClient(node.endpoint) as client:
            until(lambda: sorted(read(client).ids) != list(ALL), "a pass that isn't whole")
