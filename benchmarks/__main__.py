"""``python -m benchmarks PROGRAM [options]``: see README.md in this folder, and ``python -m benchmarks PROGRAM --help``."""

from __future__ import annotations

import importlib
import sys

PROGRAMS = {
    "everything": "all those from compare to recover, their tables in a folder, and the goals in README.md",
    "compare": "batches per second and CPU time of feeder and its peers, on five kinds of work",
    "fit": "Keras' fit on TensorFlow, torch and JAX: what feeder adds to the step itself",
    "gpu": "a training whose augmentation is the bottleneck: for how much of the time the GPU computes; needs one",
    "start": "until the first batch: cold server, warm server, restarted trainer",
    "scale": "many workers, many servers: what a batch costs the server and the client",
    "memory": "memory of worker, server and client",
    "recover": "kill -9 of a worker and of a server: how long the stall is",
    "quick": "the first claims, in a minute per round",
    "seeding": "what seeding and comparing the copies cost",
    "stragglers": "slow workers and slow servers, with hedging and without",
}


def main() -> None:
    """Entry point."""
    chosen = sys.argv[1] if len(sys.argv) > 1 else ""
    if chosen not in PROGRAMS:
        print("python -m benchmarks PROGRAM [options]\n", *(f"  {name:13}{text}" for name, text in PROGRAMS.items()), sep="\n")
        sys.exit(0 if chosen in ("-h", "--help") else 2)
    importlib.import_module(f"benchmarks.{chosen}").main(sys.argv[2:])


if __name__ == "__main__":
    main()
