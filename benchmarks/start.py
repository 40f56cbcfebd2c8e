"""Until the first batch: ``python -m benchmarks start [--rounds N]``. A cold local server, a warm server, a trainer that was restarted.

Held against one bare ``python -c "import numpy, zmq"``: what the machine needs for one worker that does nothing. Servers and clients that
are warm are held against the time of one batch, which sleeps 50 ms.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence

from benchmarks.job import SLEEP_SECONDS
from benchmarks.measuring import BASE_CLASS, SOURCES, measure, served
from benchmarks.program import Found, Measurement, Program, Row
from benchmarks.report import Claim, Table, quotients

WORKERS = (1, 4, 16)


def bare_python(quick: bool = False) -> dict[str, float]:
    """Seconds that a Python takes to import NumPy and pyzmq, and to end."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import numpy, zmq"], check=True)
    return {"seconds": time.perf_counter() - started}


def bare_keras(quick: bool = False) -> dict[str, float]:
    """Seconds that a Python takes to import Keras as a worker does, and to end."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import keras"], check=True, stderr=subprocess.DEVNULL)
    return {"seconds": time.perf_counter() - started}


def cold(workers: int, target: str = f"{SOURCES}:Small", light: bool = True, quick: bool = False) -> dict[str, float]:
    """Seconds from ``FeederClient.local(...)`` to its first batch. `light`: with stand-ins for Keras, as is the default."""
    from feeder_client import FeederClient

    started = time.perf_counter()
    with FeederClient.local(target, workers=workers, args={"length": 100}, server={"light_imports": light}) as client:
        next(iter(client))
        return {"seconds": time.perf_counter() - started}


def warm(quick: bool = False) -> dict[str, float]:
    """Seconds to a first batch from a server that has served a trainer: a new one in this process, a second pass, a new process."""
    from feeder_client import FeederClient

    with served(f"{SOURCES}:Sleep", "-a", "length=20", "-a", f"seconds={SLEEP_SECONDS}", workers=4) as endpoint:
        with FeederClient(endpoint) as client:
            list(client)
            started = time.perf_counter()
            next(iter(client))
            again = time.perf_counter() - started
        started = time.perf_counter()
        with FeederClient(endpoint) as client:
            next(iter(client))
            second = time.perf_counter() - started
        restarted = measure("benchmarks.start:trainer", {"endpoint": endpoint}, 60.0)
        if restarted.why:
            raise RuntimeError(f"the second trainer: {restarted.why}")
    return {"again": again, "second": second, "restarted": restarted.figures["seconds"]}


def trainer(endpoint: str) -> dict[str, float]:
    """Seconds to the first batch in a process of its own, which has imported what it needs."""
    from feeder_client import FeederClient

    started = time.perf_counter()
    with FeederClient(endpoint) as client:
        next(iter(client))
        return {"seconds": time.perf_counter() - started}


def claims(found: Found) -> list[Claim]:
    """Goal 5."""
    allowed = [1.5 * bare + 0.5 if bare else None for bare in found.of("python", "seconds")]
    batch = [SLEEP_SECONDS] * len(found.of("warm", "again"))
    return [
        Claim(
            "5. first batch, 4 workers / (1.5 x bare Python + 0.5 s)", quotients(found.of("cold-4", "seconds"), allowed), 1.0, at_most=True
        ),
        Claim("5. a second client, warm server: first batch / one batch", quotients(found.of("warm", "second"), batch), 3.0, at_most=True),
        Claim("5. a restarted trainer: first batch / one batch", quotients(found.of("warm", "restarted"), batch), 3.0, at_most=True),
        Claim("5. a second pass: first batch / one batch", quotients(found.of("warm", "again"), batch), 3.0, at_most=True),
        *(
            Claim(f"first batch, {n} worker{'s' * (n > 1)} / bare Python", quotients(found.of(f"cold-{n}", "seconds"), bare))
            for bare in [found.of("python", "seconds")]
            for n in WORKERS
        ),
        Claim(
            "first batch, 4 workers that import Keras / bare Keras", quotients(found.of("keras-4", "seconds"), found.of("keras", "seconds"))
        ),
        Claim(
            "first batch, Keras for a base class: it is loaded / stand-ins",
            quotients(found.of("base-loaded", "seconds"), found.of("base-light", "seconds")),
        ),
    ]


MEASUREMENTS = {
    "python": Measurement('python -c "import numpy, zmq"', "benchmarks.start:bare_python"),
    **{f"cold-{n}": Measurement(f"fresh local server, {n} workers", "benchmarks.start:cold", {"workers": n}) for n in WORKERS},
    "warm": Measurement("warm server, 4 workers", "benchmarks.start:warm"),
    "keras": Measurement('python -c "import keras"', "benchmarks.start:bare_keras"),
    "keras-4": Measurement("source that uses Keras, 4 workers", "benchmarks.start:cold", {"workers": 4, "target": f"{SOURCES}:WithKeras"}),
    "base-light": Measurement(
        "Keras for a base class, stand-ins, 4 workers", "benchmarks.start:cold", {"workers": 4, "target": BASE_CLASS}
    ),
    "base-loaded": Measurement(
        "Keras for a base class, it is loaded, 4 workers", "benchmarks.start:cold", {"workers": 4, "target": BASE_CLASS, "light": False}
    ),
}
ROWS = [
    Row('`python -c "import numpy, zmq"`', "python", "seconds", "s"),
    *(Row(f"first batch of a fresh local server, {n} worker{'s' * (n > 1)}", f"cold-{n}", "seconds", "s") for n in WORKERS),
    Row("first batch of a second pass, warm server", "warm", "again", "s"),
    Row("first batch of a second client, warm server", "warm", "second", "s"),
    Row("first batch of a restarted trainer, warm server", "warm", "restarted", "s"),
    Row('`python -c "import keras"`', "keras", "seconds", "s"),
    Row("first batch of a fresh local server, 4 workers, source uses Keras", "keras-4", "seconds", "s"),
    Row("the same, source imports Keras for a base class only", "base-light", "seconds", "s"),
    Row("the same with `light_imports=False`", "base-loaded", "seconds", "s"),
]
PROGRAM = Program("start", __doc__ or "", MEASUREMENTS, ROWS, claims)


def main(arguments: Sequence[str] | None = None) -> list[Table]:
    """Entry point; see the module. Returns what it shows, the goals first."""
    return PROGRAM.main(arguments)


if __name__ == "__main__":
    main()
