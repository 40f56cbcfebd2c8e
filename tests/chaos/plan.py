"""What a chaos run is made of and which faults it gets, drawn from its seed. PURE: no clock, no I/O; the same seed, the same plan.

    world(seed, ...) ─▶ World: nodes, trainers          plan(world) ─▶ Step, Step, ... without end

A step falls due when so many batches have been delivered since the one before it, so it doesn't depend on how fast the machine is.
Whom exactly it hits (which of the worker processes there are then) is a number in 0..1 that the run makes a choice of.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace

MAX_NODES = 3
USUAL, DENSE = (10, 80), (1, 12)
"""Least and most batches between two faults."""
SECONDS_LONG = 18.0  # longer than a lease (15 s), and than a connection without a heartbeat (10 s)


@dataclass(frozen=True, slots=True)
class Fault:
    """A kind of fault: `what` it is, in words; whether it needs signals that Windows doesn't have, or a proxy."""

    what: str
    posix: bool = False
    proxy: bool = False
    weight: int = 2


FAULTS: dict[str, Fault] = {
    "worker-kill": Fault("kill -9 of a worker", weight=4),
    "workers-kill": Fault("kill -9 of all workers of a node at once"),
    "worker-exit": Fault("os._exit in user code, in the middle of a batch", weight=3),
    "worker-segfault": Fault("a segmentation fault in user code"),
    "worker-hang": Fault("user code that waits for ever; --batch-timeout ends it"),
    "worker-stick": Fault("user code that computes for ever and holds the GIL; --batch-timeout ends it", weight=1),
    "worker-stop": Fault("SIGSTOP of a worker for some seconds", posix=True),
    "node-kill": Fault("kill -9 of a node, and its restart on the same port", weight=4),
    "node-term": Fault("SIGTERM (Ctrl-C on Windows) of a node, and its restart on the same port", weight=3),
    "node-stop": Fault("SIGSTOP of a node for some seconds", posix=True),
    "node-gone": Fault("a node goes for good, where others remain"),
    "node-come": Fault("a node comes that was not there"),
    "trainer-kill": Fault("kill -9 of a trainer; a new one goes on at its saved position", weight=4),
    "trainer-stop": Fault("SIGSTOP of a trainer for some seconds", posix=True),
    "private-worker-kill": Fault("kill -9 of a worker of a trainer's own server"),
    "garbage": Fault("bytes on the port that are nobody's protocol"),
    "link-drop": Fault("all connections through a proxy break, once", proxy=True, weight=3),
    "link-cut": Fault("they break, and none can be made for some seconds", proxy=True),
    "link-half-open": Fault("they stand, and nothing goes through any more", proxy=True),
    "link-throttle": Fault("they are slow for some seconds", proxy=True),
    "link-delay": Fault("every byte comes late for some seconds", proxy=True),
    "link-stop-reading": Fault("one side reads nothing for some seconds", proxy=True),
}


@dataclass(frozen=True, slots=True)
class TrainerPlan:
    """One training. `kind`: how it reads ("client", "sequence", "fit"; "local": from a server of its own); `source`: a key of `SERVED`."""

    kind: str
    source: str
    transport: str = "auto"
    proxied: bool = False
    every: int = 7  # batches between two saved positions
    prefetch: int | str = "auto"
    lookahead: bool = True
    shuffle: bool = False
    memory: str = "64MiB"
    share: tuple[int, int] = (0, 1)  # rank and world_size, of an indexed source


@dataclass(frozen=True, slots=True)
class World:
    """Nodes (by their numbers of workers) and trainings."""

    seed: int
    workers: tuple[int, ...]
    trainers: tuple[TrainerPlan, ...]
    absent: tuple[int, ...] = ()  # nodes that aren't there at the beginning
    node_memory: str = "128MiB"
    fixed: bool = False  # whether streams come in a fixed order

    @property
    def elastic(self) -> bool:
        """Whether a node may go for good: what it has of a stream nobody else has."""
        return len(self.workers) > 1 and all(trainer.source != "sharded" or trainer.kind == "local" for trainer in self.trainers)


@dataclass(frozen=True, slots=True)
class Step:
    """One fault, due when `after` batches more have come. `target`: number of a node or trainer; `pick`: see the module."""

    after: int
    kind: str
    target: int
    pick: float
    seconds: float = 0.0  # how long it lasts, or until what was ended is started again
    detail: str = ""

    def __str__(self) -> str:
        lasts = f" for {self.seconds:.1f} s" if self.seconds else ""
        detail = f" ({self.detail})" if self.detail else ""
        return f"after {self.after} batches: {self.kind} {self.target}{lasts}{detail}, pick {self.pick:.3f}"


def possible(world: World, wanted: Collection[str], posix: bool) -> list[str]:
    """The kinds of faults that a run of this world can have on this system."""
    proxied = any(trainer.proxied for trainer in world.trainers)
    return [
        kind
        for kind, fault in FAULTS.items()
        if kind in wanted
        and (posix or not fault.posix)
        and (proxied or not fault.proxy)
        and (kind != "private-worker-kill" or any(trainer.kind == "local" for trainer in world.trainers))
        and (world.elastic or kind not in ("node-gone", "node-come"))
    ]


def draw_world(seed: int, nodes: int | None = None, trainers: int | None = None, fit: bool = True) -> World:
    """Draws the world of a seed. `nodes`, `trainers`: how many; `fit`: whether a real Keras may be among them."""
    rng = random.Random(f"world {seed}")
    workers = tuple(rng.randint(1, 3) if index == 0 else rng.randint(1, 2) for index in range(nodes or rng.randint(1, MAX_NODES)))
    pool = [("client", "shuffled"), ("sequence", "shuffled"), ("client", "large"), ("client", "sharded"), ("client", "flawed")]
    chosen = rng.sample(pool, trainers or rng.randint(2, 4))
    if rng.random() < 0.3 and fit:
        chosen[-1] = ("fit", "shuffled")
    if len(chosen) > 1 and rng.random() < 0.3:
        chosen[1] = ("local", rng.choice(["shuffled", "large", "sharded"]))
    made = []
    ahead: list[int | str] = ["auto", "auto", "auto", 1, 3]
    for kind, source in chosen:
        proxied = rng.random() < 0.5 and kind != "local"
        made.append(
            TrainerPlan(
                kind=kind,
                source=source,
                transport=rng.choice(["auto", "auto", "tcp"]),
                proxied=proxied,
                every=rng.choice([1, 3, 7, 20]),
                prefetch=rng.choice(ahead),
                lookahead=rng.random() < 0.8,
                shuffle=kind == "fit" and rng.random() < 0.5,
                memory=rng.choice(["64MiB", "64MiB", "5MiB"]),
                share=(rng.randrange(2), 2) if rng.random() < 0.25 and source in ("shuffled", "large") and kind != "fit" else (0, 1),
            )
        )
    if not any(trainer.proxied for trainer in made):
        made[0] = replace(made[0], proxied=True)
    world = World(seed, workers, tuple(made), node_memory=rng.choice(["128MiB", "128MiB", "16MiB"]), fixed=rng.random() < 0.4)
    if world.elastic and rng.random() < 0.3:
        world = replace(world, absent=(len(workers) - 1,))
    return world


@dataclass(slots=True)
class _Nodes:
    """Which nodes are meant to be there, as far as the plan has come."""

    count: int
    absent: set[int] = field(default_factory=set)

    @property
    def present(self) -> list[int]:
        return [number for number in range(self.count) if number not in self.absent]


def plan(world: World, kinds: Collection[str], gap: tuple[int, int] = USUAL) -> Iterator[Step]:
    """The faults, one after the other, without end. Each kind comes once before any comes by chance.

    Args:
        world: who there is.
        kinds: of faults, see `possible`.
        gap: least and most batches between two of them.
    """
    rng = random.Random(f"plan {world.seed}")
    nodes = _Nodes(len(world.workers), set(world.absent))
    proxied = [number for number, trainer in enumerate(world.trainers) if trainer.proxied]
    owed = sorted(kinds)
    rng.shuffle(owed)
    while True:
        fitting = [kind for kind in kinds if _fits(kind, nodes)]
        first = next((kind for kind in owed if kind in fitting), None)
        kind = first or rng.choices(fitting, [FAULTS[kind].weight for kind in fitting])[0]
        if first:
            owed.remove(first)
        yield _step(kind, rng, nodes, world, proxied, gap)


def _fits(kind: str, nodes: _Nodes) -> bool:
    if kind == "node-gone":
        return len(nodes.present) > 1
    return bool(nodes.absent) if kind == "node-come" else True


def _step(kind: str, rng: random.Random, nodes: _Nodes, world: World, proxied: list[int], gap: tuple[int, int]) -> Step:
    # Every step draws as many numbers, so that leaving out a kind changes the others as little as can be.
    after, pick, chance = rng.randint(*gap), rng.random(), rng.random()
    short, long = 0.2 + 4.8 * rng.random(), rng.random() < 0.15
    target = int(pick * len(nodes.present))
    node = nodes.present[target]
    local = [number for number, trainer in enumerate(world.trainers) if trainer.kind == "local"]
    where = {
        "trainer": int(pick * len(world.trainers)),
        "private": local[0] if local else 0,
        "link": proxied[int(pick * len(proxied))] if proxied else 0,
    }
    family = kind.partition("-")[0]
    seconds, detail = 0.0, ""
    if kind in ("worker-stop", "node-stop", "trainer-stop"):
        seconds = SECONDS_LONG if long else short
    elif kind in ("node-kill", "node-term", "trainer-kill"):
        seconds = 0.0 if chance < 0.4 else short
    elif family == "link" and kind != "link-drop":
        seconds = SECONDS_LONG if long and kind != "link-throttle" else short
        detail = ("up", "down", "both")[int(chance * 3)]
    elif kind == "link-drop":
        detail = "now" if chance < 0.4 else str(int(1 + chance * 3_000_000))
    elif kind == "garbage":
        detail = ("bytes", "greeting", "frames")[int(chance * 3)]
    elif kind == "node-gone":
        nodes.absent.add(node)
        detail = "kill" if chance < 0.5 else "term"
    elif kind == "node-come":
        node = sorted(nodes.absent)[int(pick * len(nodes.absent))]
        nodes.absent.discard(node)
    return Step(after, kind, where.get(family, node), round(pick, 6), round(seconds, 1), detail)
