"""What can be checked of `question.py` without Wine: its scripts, and that it judges what they print."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from tests.windows import packages, question, question_data, stacks, wine

RIGHT = list(range(question_data.BATCHES)) * question.EPOCHS
NAMED, WITHIN = question.FEEDER[1], question.KERAS_2[2]
assert "Locked" in NAMED.line and not WITHIN.ends


def printed(seen: list[int], judged: str = "true") -> str:
    lines = [
        f"FITTED {json.dumps([kind, 3.0, seconds, seen])}\nJUDGED {judged}" for kind, seconds in (("waiting", 0.5), ("computing", 2.0))
    ]
    return "STARTED []\n" + "\n".join([*lines, "ENDED", ""])


class TestScripts:
    @pytest.mark.parametrize("keras_2", [True, False])
    def test_each_is_one_in_which_the_line_stands(self, keras_2: bool) -> None:
        for way in (*question.KERAS_2, *question.KERAS_3, *question.FEEDER):
            text = question.script(way, keras_2)
            ast.parse(text)
            assert way.line in text and "LINE\n" not in text and "IMPORT\n" not in text
            assert ("from tensorflow import keras" in text) is keras_2
            assert "__main__" not in text

    def test_they_and_this_agree_on_the_epochs(self) -> None:
        assert f"\nEPOCHS = {question.EPOCHS}\n" in question.script(NAMED, True)


class TestJudging:
    def test_all_well(self) -> None:
        found = question.outcome(NAMED, 0, printed(RIGHT[::-1]))
        assert (found.wrong, found.end) == ("", "")
        assert found.seconds == {"waiting": 0.5, "computing": 2.0}

    @pytest.mark.parametrize(
        ("code", "text", "wrong"),
        [
            (0, printed([1, *RIGHT[1:]]), "fit was given other batches"),
            (0, printed(RIGHT[:-1]), "fit was given other batches"),
            (0, printed(RIGHT, judged="false"), "evaluate or predict"),
            (1, printed(RIGHT), "ends with exit code 1"),
            (0, printed(RIGHT).replace("ENDED", ""), "ends with exit code 0"),
            (wine.TIMED_OUT, "STARTED []\n", "freezes"),
        ],
    )
    def test_what_is_wrong_is_said(self, code: int, text: str, wrong: str) -> None:
        assert wrong in question.outcome(NAMED, code, text).wrong

    def test_what_need_not_end_may_freeze(self) -> None:
        said = "STARTED []\nTraceback ...\nTypeError: cannot pickle 'generator' object\nOSError: [WinError 6]\n"
        found = question.outcome(WITHIN, wine.TIMED_OUT, said)
        assert found.wrong == ""
        assert found.end == "TypeError: cannot pickle 'generator' object; freezes"

    def test_a_stream_may_bring_each_number_any_number_of_times(self) -> None:
        stream = question.FEEDER[0]
        assert question.wrong_batches(stream, [*RIGHT[1:], 3]) == ""
        assert question.wrong_batches(stream, [0] * len(RIGHT)) and question.wrong_batches(stream, RIGHT[:-1])


def test_the_table_shows_ratios() -> None:
    rows = [
        (question.KERAS_2[0], question.Outcome({"waiting": 2.0, "computing": 1.0})),
        (WITHIN, question.Outcome(end="freezes")),
        (NAMED, question.Outcome({"waiting": 0.5, "computing": 0.5})),
    ]
    assert question.table("Windows", rows).splitlines()[2:] == [
        "| `fit(sequence)` | 1.0 x | 1.0 x |",
        "| `workers=4, use_multiprocessing=True`, a `Sequence` | freezes | |",
        "| feeder, a class with a lock and a lambda in a file | 4.0 x | 2.0 x |",
    ]


def test_every_package_of_a_stack_has_one_version() -> None:
    for stack in stacks.STACKS:
        wheels = stack.wheels
        assert all("==" in wheel for wheel in wheels)
        assert len({wheel.partition("==")[0] for wheel in wheels}) == len(wheels)
        assert set(stacks.FEEDER_NEEDS) | {"numpy"} <= {wheel.partition("==")[0] for wheel in wheels}


def test_the_stack_with_the_current_python_has_that_of_the_tests() -> None:
    assert stacks.KERAS_3.python is packages.PYTHON and Path(stacks.KERAS_3.folder).name == "cp313"
