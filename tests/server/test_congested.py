"""A client that doesn't fetch what was made for it gets nothing more made, and one that only asks is not heard any more."""

from __future__ import annotations

from pathlib import Path

import pytest

from feeder_server import gate as gates
from feeder_wire import messages as m
from feeder_wire.arena import ArenaWriter
from tests.server.test_dispatch import Bench, a_client, a_session
from tests.server.test_gate import CLIENT, SESSION, inline, received, talking
from tests.serving import until


@pytest.mark.parametrize("kind", ["indexed", "stream"])
def test_nothing_is_made_for_it_and_others_are_served(kind: str) -> None:
    b = Bench(kind, slots=2)
    for number in range(2):
        b.open(number, client=number)
        b.ask(number, 0, 1, client=number)
    b.d.congested = {a_client(0)}
    assert {session for _, session, _ in b.assigned()} == {a_session(1)}
    b.inline(0)
    b.inline(1)
    assert b.assigned() == []
    b.d.congested = ()
    assert {session for _, session, _ in b.assigned()} == {a_session(0)}


@pytest.fixture
def small_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("feeder_server.config.ServeConfig.memory", 4 << 20)
    monkeypatch.setattr(gates, "LEAST_QUOTA", 4 << 20)


@pytest.mark.usefixtures("small_quota")
def test_small_batches_that_are_not_read() -> None:
    with talking(rcvhwm=1) as (gate, dealer):
        assert gate.congested() == set()
        count = 0
        while not gate.congested():  # the system takes in some MB before
            gate.put(CLIENT, inline(count, m.INLINE_BYTES))
            gate.flush()
            count += 1
            assert count < 2000
        assert gate.congested() == {CLIENT} and not gate.offended
        found, _ = received(dealer, count)
        assert [message.index for message in found] == list(range(count))  # type: ignore[union-attr]
        until(lambda: not gate.congested(), "it has read all")


@pytest.mark.usefixtures("small_quota")
def test_parts_that_are_not_read(tmp_path: Path) -> None:
    """However large a batch is: the line may be slow, and it was asked for."""
    writer = ArenaWriter([str(tmp_path)], 0, 1, 1 << 30)
    block = writer.take(64 << 20)
    with talking(str(tmp_path), rcvhwm=1) as (gate, dealer):
        assert gate.ship(CLIENT, m.Lent(SESSION, 0, 0, b"head", block.name, block.size, 64 << 20, 0.0))
        assert gate.congested() == {CLIENT} and not gate.offended
        for _ in range(256):
            assert dealer.poll(10_000)
            dealer.recv_multipart()
        until(lambda: gate.shipped() or not gate.congested(), "it has read all")
        assert gate.congested() == set()
    writer.close()


@pytest.mark.usefixtures("small_quota")
def test_who_only_asks(caplog: pytest.LogCaptureFixture) -> None:
    with talking(rcvhwm=1) as (gate, _):
        while not gate.offended:
            gate.put(CLIENT, inline(0, m.INLINE_BYTES))
            gate.flush()
            gate.congested()
        assert gate.offended == [CLIENT]
        assert "it asks and asks, and has not read" in caplog.text
