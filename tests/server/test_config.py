"""A node's configuration refuses what can't work, and finds out what the machine has."""

from __future__ import annotations

import os
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest

from feeder_server import config
from feeder_server.config import DEFAULT_MEMORY, MAX_WORKERS, MOST_SECONDS, ServeConfig, SourceEntry, default_memory
from feeder_server.cores import usable_cores
from feeder_server.target import parse_target
from feeder_wire.errors import ConfigError
from feeder_wire.security import KeyPair

SOURCE = SourceEntry("default", target=parse_target("augment.py:train"))
PAIR = KeyPair.fresh()


def serve(**options: Any) -> ServeConfig:
    return ServeConfig(**{"sources": (SOURCE,), **options})


def test_the_defaults_are_safe() -> None:
    made = serve()
    assert (made.bind, made.workers, made.seed, made.max_retries, made.threads) == ("tcp://127.0.0.1:5555", 1, 0, 2, 1)
    assert not (made.gpu)
    assert not (made.single)
    assert not (made.insecure)
    assert not (made.keys)
    assert not (made.authorized)


def test_it_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        serve().workers = 2  # type: ignore[misc]


def test_a_source_is_one_thing() -> None:
    SourceEntry("a", parcel="{}")
    for both in ({}, {"target": SOURCE.target, "parcel": "{}"}):
        with pytest.raises(ConfigError, match="source 'a' is a target or a parcel"):
            SourceEntry("a", **both)  # type: ignore[arg-type]


def test_something_has_to_be_served() -> None:
    with pytest.raises(ConfigError, match=r"nothing to serve: name at least one source, for example augment\.py:train"):
        serve(sources=())


def test_names_are_unique() -> None:
    with pytest.raises(ConfigError, match="two sources have the same name: default, default"):
        serve(sources=(SOURCE, SOURCE))


@pytest.mark.parametrize("bind", ["", "5555", "tcp://127.0.0.1", "ipc:///tmp/x", "tcp://127.0.0.1:99999"])
def test_bind_is_an_endpoint(bind: str) -> None:
    with pytest.raises(ConfigError, match="is not an endpoint"):
        serve(bind=bind)


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("workers", (1, MAX_WORKERS), (0, -1, MAX_WORKERS + 1)),
        ("seed", (0, (1 << 64) - 1), (-1, 1 << 64)),
        ("max_retries", (0, 1000), (-1, 1001)),
        ("threads", (1, 4096), (0, 4097)),
        ("memory_bytes", (0, 1 << 20, 1 << 40), (-1, 1 << 61)),
    ],
)
def test_numbers_have_bounds_and_are_whole(name: str, good: tuple[int, ...], bad: tuple[int, ...]) -> None:
    for value in good:
        assert getattr(serve(**{name: value}), name) == value
    for wrong in (*bad, 2.5, True, "4", None):  # a training script's `server=` may hold anything
        with pytest.raises(ConfigError, match="a whole number from"):
            serve(**{name: wrong})


def test_the_message_names_the_option_and_its_bounds() -> None:
    with pytest.raises(ConfigError) as caught:
        serve(max_retries=-1)
    assert str(caught.value) == "--max-retries -1: a whole number from 0 to 1000 is needed"


def test_seconds_are_above_zero() -> None:
    for good in (None, 0.001, 5, 2.5, MOST_SECONDS):
        assert serve(batch_timeout=good).batch_timeout == good
    for wrong in (0, 0.0, -1, float("nan"), float("inf"), 2 * MOST_SECONDS, True, "5"):
        with pytest.raises(ConfigError, match=r"--batch-timeout .*: a number of seconds above 0 is needed, at most 2592000"):
            serve(batch_timeout=wrong)


def test_compression_needs_a_library_if_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "available", lambda: ("lz4",))
    assert serve().methods == serve(compression="lz4").methods == ("lz4",)
    assert serve(compression="off").methods == ()
    with pytest.raises(ConfigError, match=r'--compression zstd needs its library: pip install "keras-feeder\[compression\]"'):
        serve(compression="zstd")
    with pytest.raises(ConfigError, match="--compression 'gzip': one of auto, off, lz4, zstd is needed"):
        serve(compression="gzip")


class TestKeys:
    def test_both_or_none(self) -> None:
        with pytest.raises(ConfigError, match="--keys without --authorized-clients: name the folder"):
            serve(keys=PAIR)
        with pytest.raises(ConfigError, match="--authorized-clients without --keys: name the folder"):
            serve(authorized=frozenset({PAIR.public}))
        serve(keys=PAIR, authorized=frozenset({PAIR.public}), bind="tcp://0.0.0.0:5555")

    @pytest.mark.parametrize("bind", ["tcp://0.0.0.0:5555", "tcp://*:0", "tcp://gpu-box:5555", "tcp://[::]:5555"])
    def test_others_need_keys_or_a_word_of_the_user(self, bind: str) -> None:
        with pytest.raises(ConfigError, match=r"without keys anyone there could connect.*keygen.*--insecure"):
            serve(bind=bind)
        serve(bind=bind, insecure=True)

    @pytest.mark.parametrize("bind", ["tcp://127.0.0.1:0", "tcp://localhost:5555", "tcp://[::1]:5555"])
    def test_loopback_needs_none(self, bind: str) -> None:
        serve(bind=bind)

    def test_a_secret_is_not_shown(self) -> None:
        assert PAIR.secret.decode() not in repr(serve(keys=PAIR, authorized=frozenset({PAIR.public})))


class TestMemory:
    @pytest.mark.parametrize(
        ("free", "expected"), [(1 << 40, DEFAULT_MEMORY), (2 << 30, 1 << 30), (64 << 20, 32 << 20), (0, 1 << 20), (1000, 1 << 20)]
    )
    def test_the_default_is_a_gibibyte_or_half_of_what_is_free(self, monkeypatch: pytest.MonkeyPatch, free: int, expected: int) -> None:
        monkeypatch.setattr(config, "free_bytes", lambda folder: free)
        assert default_memory() == expected == serve().memory

    def test_what_was_asked_for_is_used(self) -> None:
        assert serve(memory_bytes=5 << 20).memory == 5 << 20


class TestCores:
    @pytest.fixture
    def eight(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A machine with eight cores, on any Python and system."""
        monkeypatch.setattr(os, "process_cpu_count", lambda: 8, raising=False)

    @pytest.mark.parametrize(
        ("quota", "cores"),
        [("max 100000", 8), ("200000 100000", 2), ("150000 100000", 2), ("20000 100000", 1), ("1600000 100000", 8), ("what\n", 8), ("", 8)],
    )
    @pytest.mark.usefixtures("eight")
    def test_a_containers_quota_counts(self, monkeypatch: pytest.MonkeyPatch, quota: str, cores: int) -> None:
        monkeypatch.setattr(Path, "read_text", lambda path, *rest: quota)
        assert usable_cores() == cores

    @pytest.mark.usefixtures("eight")
    def test_no_cgroup_no_quota(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def missing(path: Path, *rest: object) -> str:
            raise FileNotFoundError

        monkeypatch.setattr(Path, "read_text", missing)
        assert usable_cores() == 8

    def test_there_is_always_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "process_cpu_count", lambda: None, raising=False)
        assert usable_cores() == 1

    def test_older_pythons_go_by_affinity_or_count(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr(os, "process_cpu_count", raising=False)
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2}, raising=False)
        monkeypatch.setattr(os, "cpu_count", lambda: 3)
        monkeypatch.setattr(Path, "read_text", lambda path, *rest: "max 100000")
        assert usable_cores() == 3
