"""Which block is lent to whom: every block goes back exactly once, to a worker that lives, from the reader that has it."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import given, settings
from hypothesis import strategies as st

from feeder_server.ledger import Ledger, Settled, owner

SETTINGS = settings(deadline=None, database=None, max_examples=300)
ANN, BOB = b"ann", b"bob"


def block(slot: int, generation: int, number: int) -> str:
    return f"0-{slot}-{generation}-{number}"


def plain(settled: Settled) -> tuple[dict[int, list[str]], dict[int, list[str]], list[str]]:
    return dict(settled.free), dict(settled.retire), settled.remove


def ledger_with(*lent: tuple[str, int, bytes]) -> Ledger:
    ledger = Ledger()
    ledger.started(0, 4)
    ledger.started(1, 7)
    for name, size, reader in lent:
        ledger.lend(name, size, reader)
    return ledger


def test_a_block_s_owner_is_in_its_name() -> None:
    assert owner("1-12-345-6789") == (12, 345)


def test_released_blocks_go_back_to_their_workers() -> None:
    a, b, c = block(0, 4, 1), block(0, 4, 2), block(1, 7, 1)
    ledger = ledger_with((a, 10, ANN), (b, 20, ANN), (c, 30, ANN))
    assert (len(ledger), ledger.held_bytes) == (3, 60)
    assert plain(ledger.settle([a, c, b], ANN)) == ({0: [a, b], 1: [c]}, {}, [])
    assert (len(ledger), ledger.held_bytes) == (0, 0)
    assert plain(ledger.settle([a, c, b], ANN)) == ({}, {}, []), "once"


def test_what_a_lost_reader_had_is_never_written_again() -> None:
    a = block(0, 4, 1)
    ledger = ledger_with((a, 10, ANN))
    assert plain(ledger.settle([a], ANN, seen=False)) == ({}, {0: [a]}, [])


def test_blocks_of_a_dead_worker_are_removed_when_their_reader_is_done() -> None:
    a, b = block(0, 4, 1), block(0, 4, 2)
    ledger = ledger_with((a, 10, ANN), (b, 10, BOB))
    ledger.gone(0)
    assert sorted(ledger.names_of(0, 4)) == [a, b]
    assert plain(ledger.settle([a], ANN)) == ({}, {}, [a])
    ledger.started(0, 5)  # another worker in its place doesn't get them
    assert plain(ledger.settle([b], BOB, seen=False)) == ({}, {}, [b])
    assert ledger.held_bytes == 0


def test_only_who_has_a_block_can_give_it_back() -> None:
    a = block(0, 4, 1)
    ledger = ledger_with((a, 10, ANN))
    assert plain(ledger.settle([a, block(0, 4, 9)], BOB)) == ({}, {}, [])
    assert ledger.held_by(ANN) == [a]
    assert ledger.held_by(BOB) == []
    assert plain(ledger.settle([a], None)) == ({0: [a]}, {}, [])


def test_a_block_has_one_reader() -> None:
    a = block(0, 4, 1)
    ledger = ledger_with((a, 10, ANN), (a, 10, BOB))
    assert (len(ledger), ledger.held_bytes) == (1, 10)
    assert ledger.held_by(BOB) == []


slots = st.integers(0, 2)
readers = st.sampled_from([ANN, BOB])
names = st.builds(block, slots, st.integers(0, 2), st.integers(0, 3))
events = st.one_of(
    st.tuples(st.just("lend"), names, st.integers(0, 100), readers),
    st.tuples(st.just("settle"), st.lists(names, max_size=4), st.none() | readers, st.booleans()),
    st.tuples(st.just("started"), slots, st.integers(0, 2)),
    st.tuples(st.just("gone"), slots),
)


@SETTINGS
@given(st.lists(events, max_size=40))
def test_any_history(history: list[tuple[object, ...]]) -> None:
    ledger = Ledger()
    held: dict[str, tuple[int, bytes]] = {}
    lives: dict[int, int] = {}
    for event in history:
        match event:
            case ("lend", str(name), int(size), bytes(reader)):
                ledger.lend(name, size, reader)
                held.setdefault(name, (size, reader))
            case ("settle", list(some), reader, bool(seen)):
                check_settled(ledger.settle(some, reader, seen=seen), give_back(held, some, reader), lives, seen)
            case ("started", int(slot), int(generation)):
                ledger.started(slot, generation)
                lives[slot] = generation
            case ("gone", int(slot)):
                ledger.gone(slot)
                lives.pop(slot, None)
        assert len(ledger) == len(held)
        assert ledger.held_bytes == sum(size for size, _ in held.values())
        for reader in (ANN, BOB):
            assert sorted(ledger.held_by(reader)) == sorted(n for n, (_, who) in held.items() if who == reader)


def give_back(held: dict[str, tuple[int, bytes]], some: Iterable[str], reader: object) -> set[str]:
    mine = {n for n in some if n in held and reader in (None, held[n][1])}
    for name in mine:
        del held[name]
    return mine


def check_settled(settled: Settled, expected: set[str], lives: dict[int, int], seen: bool) -> None:
    freed = [(slot, name) for slot, names in settled.free.items() for name in names]
    retired = [(slot, name) for slot, names in settled.retire.items() for name in names]
    everything = [name for _, name in freed + retired] + settled.remove
    assert sorted(everything) == sorted(expected), "each once"
    assert not (retired if seen else freed)
    for slot, name in freed + retired:
        assert (slot, lives.get(slot)) == owner(name)
    for name in settled.remove:
        slot, generation = owner(name)
        assert lives.get(slot) != generation
