"""The same seed is the same plan, and no step of it is one that can't be done."""

from __future__ import annotations

import itertools

import pytest

from tests.chaos.plan import FAULTS, World, draw_world, plan, possible

SEEDS = range(60)


def steps_of(world: World, kinds: list[str], count: int = 300) -> list[object]:
    return list(itertools.islice(plan(world, kinds), count))


def test_a_seed_is_a_plan() -> None:
    for seed in SEEDS:
        assert draw_world(seed) == draw_world(seed)
        world = draw_world(seed)
        kinds = possible(world, FAULTS, posix=True)
        assert steps_of(world, kinds) == steps_of(world, kinds)
    assert len({str(steps_of(draw_world(seed), ["garbage"], 5)) for seed in SEEDS}) == len(SEEDS)


@pytest.mark.parametrize("posix", [True, False])
def test_every_step_can_be_done(posix: bool) -> None:
    for seed in SEEDS:
        world = draw_world(seed)
        kinds = possible(world, FAULTS, posix=posix)
        absent = set(world.absent)
        for step in itertools.islice(plan(world, kinds), 400):
            assert step.kind in kinds
            assert posix or not FAULTS[step.kind].posix
            assert step.after > 0
            assert 0 <= step.pick < 1
            family = step.kind.partition("-")[0]
            if family == "trainer":
                assert step.target < len(world.trainers)
            elif family == "private":
                assert world.trainers[step.target].kind == "local"
            elif family == "link":
                assert world.trainers[step.target].proxied
            elif step.kind == "node-come":
                assert step.target in absent
                absent.remove(step.target)
            else:
                assert step.target not in absent
            if step.kind == "node-gone":
                absent.add(step.target)
                assert len(absent) < len(world.workers)


def test_every_kind_comes_before_any_comes_by_chance() -> None:
    world = draw_world(1)
    kinds = possible(world, FAULTS, posix=True)
    first = {step.kind for step in itertools.islice(plan(world, kinds), len(kinds) + 1)}
    assert first == set(kinds)


def test_what_a_node_has_of_a_stream_does_not_go_for_good() -> None:
    for seed in SEEDS:
        world = draw_world(seed)
        if any(trainer.source == "sharded" and trainer.kind != "local" for trainer in world.trainers) or len(world.workers) == 1:
            assert not {"node-gone", "node-come"} & set(possible(world, FAULTS, posix=True))
            assert not world.absent


def test_all_kinds_have_a_world() -> None:
    assert set().union(*(possible(draw_world(seed), FAULTS, posix=True) for seed in SEEDS)) == set(FAULTS)
