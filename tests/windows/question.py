"""`python dev.py test-windows --keras`: the question that feeder answers, asked of a Keras in a Windows python.exe under Wine.

A script of a user's (`question.txt`) trains with one worker, with threads, with `use_multiprocessing`, and with feeder in place of
that line. What comes out is checked; how long it takes is shown, as a table of ratios. Not part of the suite: it takes a while.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.windows.question_data import BATCHES
from tests.windows.stacks import STACKS, Stack, set_up_stack
from tests.windows.wine import TIMED_OUT, Wine, windows_path

HERE = Path(__file__).parent
EPOCHS = 6
FROZEN_SECONDS, SECONDS = 180.0, 900.0  # until it is called frozen; for what has to come to its end
# Of one batch: seconds that it waits, and thousands of rounds of arithmetic, about a tenth of a second.
KINDS: dict[str, float] = {"waiting": 0.5, "computing": 1500}


@dataclass(frozen=True)
class Way:
    """How the batches get to `fit`.

    Attributes:
        title: in the table.
        line: of the script.
        ends: whether it has to come to its end, with the right batches.
        kinds: what it is measured with.
    """

    title: str
    line: str
    ends: bool = True
    kinds: tuple[str, ...] = tuple(KINDS)


KERAS_2 = (
    Way("`fit(sequence)`", "fit(Slow(kind, amount))"),
    Way("`workers=4`: threads", "fit(Slow(kind, amount), workers=4)"),
    Way(
        "`workers=4, use_multiprocessing=True`, a `Sequence`",
        "fit(Slow(kind, amount), workers=4, use_multiprocessing=True)",
        False,
        ("waiting",),
    ),
    Way(
        "`workers=4, use_multiprocessing=True`, a generator",
        "fit(generator(kind, amount), steps_per_epoch=BATCHES, workers=4, use_multiprocessing=True)",
        False,
        ("waiting",),
    ),
)
KERAS_3 = (
    Way("`fit(dataset)`", "fit(Slow(kind, amount))"),
    Way("`workers=4`: threads", "fit(Slow(kind, amount, workers=4))"),
    Way(
        "`workers=4, use_multiprocessing=True`",
        "fit(Slow(kind, amount, workers=4, use_multiprocessing=True))",
        False,
        ("waiting",),
    ),
)
FEEDER = (
    Way(
        "feeder, a generator function in a file",
        'with FeederSequence.local("question_data.py:generator", workers=4, steps=BATCHES, '
        'args={"kind": kind, "amount": amount}) as train: fit(train)',
    ),
    Way(
        "feeder, a class with a lock and a lambda in a file",
        'with FeederSequence.local("question_data.py:Locked", workers=4, '
        'args={"kind": kind, "amount": amount}) as train: fit(train); judge(train)',
    ),
    Way(
        "feeder, a `Sequence` of the script",
        "with FeederSequence.local(Slow(kind, amount), workers=4) as train: fit(train); judge(train)",
    ),
)


@dataclass
class Outcome:
    """What became of it.

    Attributes:
        seconds: of one of the last three epochs, by kind: by then all workers run.
        first: of the first epoch.
        wrong: what isn't as it has to be; empty: all is.
        end: how it ended, in words, where it didn't train.
        printed: all that it printed.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    first: dict[str, float] = field(default_factory=dict)
    wrong: str = ""
    end: str = ""
    printed: str = ""


def script(way: Way, keras_2: bool) -> str:
    """Returns the user's script."""
    text = (HERE / "question.txt").read_text(encoding="utf-8")
    return text.replace("\nIMPORT\n", "\nfrom tensorflow import keras\n" if keras_2 else "\nimport keras\n").replace(
        "\n    LINE\n", f"\n    {way.line}\n"
    )


def outcome(way: Way, code: int, printed: str) -> Outcome:
    """Judges what a script has printed."""
    found = Outcome(printed=printed)
    for line in printed.splitlines():
        word, _, rest = line.partition(" ")
        if word == "FITTED":
            kind, first, seconds, seen = json.loads(rest)
            found.first[kind], found.seconds[kind] = first, seconds
            if way in FEEDER:  # Keras' own affair: on JAX its threads repeat a batch in the first epoch and leave one out
                found.wrong = found.wrong or wrong_batches(way, seen)
        elif word == "JUDGED" and rest != "true":
            found.wrong = found.wrong or "evaluate or predict gave something else"
    if tuple(found.seconds) != way.kinds or code or "\nENDED\n" not in f"\n{printed}":
        errors = [line.strip() for line in printed.splitlines() if "Error: " in line]
        # What froze has an error first, and others that follow from it; what ended has the one that ended it last.
        error = errors[0 if code == TIMED_OUT else -1] if errors else ""
        end = "freezes" if code == TIMED_OUT else f"ends with exit code {code}"
        found.end = f"{error}; {end}" if error else end
        if way.ends:
            found.wrong = found.wrong or end
    return found


def wrong_batches(way: Way, seen: Sequence[int]) -> str:
    """What is wrong with the batches that a fit was given, in words; empty if nothing is."""
    if "generator" in way.line:  # four copies of it, so each number comes any number of times
        right = len(seen) == EPOCHS * BATCHES and set(seen) <= set(range(BATCHES)) and len(set(seen)) > 1
    else:
        epochs = [seen[i : i + BATCHES] for i in range(0, len(seen), BATCHES)]
        right = len(epochs) == EPOCHS and all(Counter(epoch) == Counter(range(BATCHES)) for epoch in epochs)
    return "" if right else f"fit was given other batches: {list(seen)}"


def ask(wine: Wine, stack: Stack, backend: str, way: Way, folder: Path) -> Outcome:
    """Runs the script with one way."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "train.py").write_text(script(way, not backend), encoding="utf-8")
    shutil.copy(HERE / "question_data.py", folder)
    kinds = json.dumps([(kind, KINDS[kind]) for kind in way.kinds])
    env = {**dict(stack.env), **({"KERAS_BACKEND": backend} if backend else {})}
    with wine.serving():  # each for itself: what has frozen ends with it
        code, printed = wine.run("-u", "train.py", kinds, seconds=SECONDS if way.ends else FROZEN_SECONDS, cwd=folder, env=env)
    return outcome(way, code, printed)


def table(title: str, rows: Sequence[tuple[Way, Outcome]]) -> str:
    """Returns the table, in Markdown: how many times the epochs of the first row fit into one."""
    unit = rows[0][1].seconds
    lines = [f"| {title} | batches that wait | batches of pure Python |", "| --- | --- | --- |"]
    for way, found in rows:
        ratios = [f" {unit[kind] / found.seconds[kind]:.1f} x |" if kind in found.seconds and kind in unit else " |" for kind in KINDS]
        lines.append(f"| {way.title} |" + (f" {found.end} | |" if found.end else "".join(ratios)))
    return "\n".join(lines)


def demo(wine: Wine, stack: Stack, backend: str, say: Callable[[str], None]) -> str:
    """Runs `feeder-server demo` there. Returns what is wrong."""
    env = {**dict(stack.env), **({"KERAS_BACKEND": backend} if backend else {})}
    with wine.serving():
        code, printed = wine.run("-m", "feeder_server.cli", "demo", "--quick", seconds=SECONDS, env=env)
    say(f"feeder-server demo --quick: exit code {code}\n{printed}")
    return "" if code == 0 and "speed-up" in printed else f"feeder-server demo ended with exit code {code}"


def ask_all(home: Path, wheel: Path, names: Sequence[str], temporary: Path, say: Callable[[str], None]) -> int:
    """Asks each of these stacks, or all. Returns 0 if feeder's answers are right, else 1."""
    failed = []
    for stack in STACKS:
        if names and stack.name not in names:
            continue
        wine = set_up_stack(home, stack, say)
        with wine.serving():
            say(f"installing {wheel.name} for {stack.name}")
            wine.pip("install", "--no-deps", "--no-index", "--force-reinstall", windows_path(wheel))
        for backend in stack.backends:
            rows = []
            title = f"{stack.title}{f', {backend}' if backend else ''}"
            for way in (*(KERAS_3 if backend else KERAS_2), *FEEDER):
                found = ask(wine, stack, backend, way, temporary / "question")
                rows.append((way, found))
                figures = ", ".join(
                    f"{kind} {found.seconds[kind]:.2f} s per epoch, the first {found.first[kind]:.2f} s" for kind in found.seconds
                )
                say(f"{title}: {way.title}: {'; '.join(filter(None, (figures, found.end, found.wrong))) or 'nothing'}")
                if found.end:
                    say(f"it printed:\n{found.printed[-4000:]}")
                if found.wrong:
                    failed.append(f"{title}: {way.title}")
                if len(rows) == 1 and found.end:
                    break  # Keras itself doesn't run there
            if wrong := demo(wine, stack, backend, say):
                failed.append(f"{title}: {wrong}")
            print(table(f"{title} (Windows CPython under Wine)", rows), flush=True)
    for one in failed:
        say(f"FAILED: {one}")
    return int(bool(failed))
