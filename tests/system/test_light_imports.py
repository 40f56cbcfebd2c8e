"""Workers that load Keras and TensorFlow when they are needed give the bytes of those that load them at once."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from feeder_client import FeederClient
from tests.serving import ANY_PORT, Script, Serving

SOURCES = Path(__file__).with_name("light_sources.py")
LOADING_SECONDS = 100.0

pytestmark = [pytest.mark.keras, pytest.mark.timeout(300)]


def flat(value: Any) -> list[Any]:
    """Bytes and types, without the word on what was loaded."""
    if isinstance(value, dict):
        return [(name, flat(part)) for name, part in value.items() if name != "real"]
    if isinstance(value, (list, tuple)):
        return [type(value).__name__, *map(flat, value)]
    return [str(getattr(value, "dtype", type(value))), np.shape(value), np.asarray(value).tobytes()]


def read(endpoint: str, source: str, passes: int) -> tuple[list[Any], list[bool]]:
    with FeederClient(endpoint, source) as client:
        got = [batch for _ in range(passes) for batch in client]
    return [flat(batch) for batch in got], [batch["real"] for batch in got]


def test_the_same_bytes_with_and_without(tmp_path: Path) -> None:
    """A server that loads at once, with a limit of time for a batch that a library takes longer to load than; three that don't."""
    with ExitStack() as stack:
        every = [f"{name}={SOURCES}:{name}" for name in ("Base", "Late", "Early")]
        at_once = stack.enter_context(Serving(tmp_path, *every, "--no-light-imports", "--workers", "1", "--bind", ANY_PORT))
        base, late, early = (
            stack.enter_context(Serving(tmp_path, one, "--workers", "1", "--bind", ANY_PORT, "--batch-timeout", "1.5")) for one in every
        )
        at_once.says("feeder-server ready at", LOADING_SECONDS)
        for node, name in ((base, "Base"), (late, "Late"), (early, "Early")):
            node.says("feeder-server ready at", LOADING_SECONDS)
            (got, light), (expected, real) = read(node.endpoint, name, 2), read(at_once.endpoint, name, 2)
            assert got == expected, name
            assert len(got) == 12 and all(real)
            assert "killed" not in node.stderr
            assert light == [name != "Base"] * 12, "what was to be loaded was, and nothing else"


def test_an_object_of_a_class_of_keras_is_handed_over_without_loading_it(tmp_path: Path) -> None:
    """Pickle names the base by the module in which Keras has it."""
    code = f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).resolve().parents[2])!r})
        import keras
        import numpy as np
        from feeder_client import FeederSequence

        class Mine(keras.utils.PyDataset):
            def __init__(self):
                super().__init__(workers=1)
            def __len__(self):
                return 3
            def __getitem__(self, i):
                flags = ["tensorflow.python" in sys.modules, isinstance(self, keras.utils.PyDataset)]
                return keras.utils.to_categorical([i], 3), np.array(flags)

        for light in (True, False):
            with FeederSequence.local(Mine(), workers=1, server={{"light_imports": light}}) as train:
                print(light, [(x.tolist(), flags.tolist()) for x, flags in train])
    """
    with Script(tmp_path, code) as script:
        assert script.wait(LOADING_SECONDS) == 0, script.output
        rows = [[[1.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]], [[0.0, 0.0, 1.0]]]
        assert script.stdout.splitlines() == [f"{light} {[(row, [not light, True]) for row in rows]}" for light in (True, False)]
