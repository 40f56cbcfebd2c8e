"""Does what a step of the plan says. What lasts some seconds is undone later: `inject` returns what to do then."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Literal

import zmq

from tests.chaos.cast import Node, Trainer, pause
from tests.chaos.plan import Step
from tests.chaos.sources import ORDERS
from tests.proxy import Proxy
from tests.serving import ON_WINDOWS, kill

Later = Callable[[], None]
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01NULL" + bytes(48)


def can(step: Step, nodes: list[Node], trainers: list[Trainer]) -> bool:
    """Whether who is to be hit is there."""
    family = step.kind.partition("-")[0]
    if step.kind == "private-worker-kill":
        return trainers[step.target].up and bool(trainers[step.target].private_workers())
    if family in ("trainer", "link"):
        return trainers[step.target].up
    if step.kind == "node-come":
        return not nodes[step.target].wanted
    if step.kind == "worker-kill" or step.kind == "worker-stop":
        return nodes[step.target].up and bool(nodes[step.target].victims())
    return nodes[step.target].up


def inject(step: Step, nodes: list[Node], trainers: list[Trainer]) -> Later | None:
    """Does it; returns what to do after `step.seconds`, if there is something."""
    family, _, what = step.kind.partition("-")
    if family == "trainer":
        return _hit_trainer(what, trainers[step.target])
    if family == "private":
        pids = trainers[step.target].private_workers()
        with suppress(IndexError, ProcessLookupError):  # they have ended by themselves meanwhile
            kill(pids[int(step.pick * len(pids))])
        return None
    if family == "link":
        proxies = trainers[step.target].proxies
        return _hit_link(what, step, proxies[int(step.pick * len(proxies))])
    node = nodes[step.target]
    if family == "node":
        return _hit_node(what, step, node)
    if step.kind == "garbage":
        _send_garbage(step, node)
        return None
    return _hit_workers(step, node)


def _hit_workers(step: Step, node: Node) -> Later | None:
    what = step.kind.partition("-")[2]
    if what in ORDERS:
        node.order(what)
        return None
    pids = node.victims()
    if step.kind == "workers-kill":
        for pid in pids:
            with suppress(ProcessLookupError):  # it has ended by itself meanwhile; as the next ones
                kill(pid)
        return None
    if not pids:
        return None
    victim = pids[int(step.pick * len(pids))]
    with suppress(ProcessLookupError):
        if what == "kill":
            kill(victim)
            return None
        pause(victim, True)

    def go_on() -> None:
        with suppress(ProcessLookupError):  # the node has killed it
            pause(victim, False)

    return go_on


def _hit_node(what: str, step: Step, node: Node) -> Later | None:
    if what == "come":
        node.start()
        return None
    if what == "stop":
        node.pause(True)
        running = node.running

        def go_on() -> None:
            if node.running is running and node.stopped:
                node.pause(False)

        return go_on
    in_order = what == "term" or step.detail == "term"
    node.end(("SIGINT" if ON_WINDOWS else "SIGTERM") if in_order else "SIGKILL")
    node.swept = in_order
    return None if what == "gone" else node.start


def _hit_trainer(what: str, trainer: Trainer) -> Later:
    if what == "kill":
        trainer.kill()
        return trainer.start
    trainer.pause(True)

    def go_on() -> None:
        if trainer.stopped:
            trainer.pause(False)

    return go_on


def _hit_link(what: str, step: Step, proxy: Proxy) -> Later | None:
    direction: Literal["up", "down", "both"] = step.detail if step.detail in ("up", "down", "both") else "both"  # type: ignore[assignment]
    if what == "drop":
        if step.detail == "now":
            proxy.drop(reset=step.pick < 0.5)
        else:
            proxy.drop_after(int(step.detail))
        return None
    if what == "cut":
        proxy.cut(reset=step.pick < 0.5)
    elif what == "half-open":
        proxy.half_open(direction)
    elif what == "throttle":
        proxy.throttle(300_000, direction)
        proxy.chop(1000, direction)
    elif what == "delay":
        proxy.delay(0.3, 0.2, direction)
    elif what == "stop-reading":
        proxy.stop_reading(direction)
    return proxy.restore


def _send_garbage(step: Step, node: Node) -> None:
    rng = random.Random(step.pick)
    host, _, port = node.endpoint.removeprefix("tcp://").rpartition(":")
    if step.detail == "frames":
        with zmq.Context() as context, context.socket(zmq.DEALER) as peer:
            peer.linger = 500
            peer.connect(node.endpoint)
            for _ in range(5):
                peer.send(rng.randbytes(rng.randrange(200)))
        return
    with suppress(OSError), socket.create_connection((host, int(port)), timeout=5) as s:
        s.sendall((GREETING if step.detail == "greeting" else b"") + rng.randbytes(5000))
