"""Trainings that are killed and started again, with every Keras there is. Processes are forked: not on Windows.

In Keras 3 a restarted training has the epochs that it would have had. Keras 2 can't do with a shorter epoch: there the batches come in the
same sequence, but its epochs begin where it was started again.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.backends import needs
from tests.keras.test_backends import run_checks
from tests.serving import Serving, posix_signals, serve

pytestmark = [pytest.mark.slow, pytest.mark.keras, pytest.mark.timeout(240), posix_signals]

SOURCE = f"{Path(__file__).with_name('sources.py')}:Samples"


@pytest.fixture(scope="module", name="node")
def node_for_all(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serve(tmp_path_factory.mktemp("node"), f"n8={SOURCE}", f"n5={SOURCE}", "-a", "n5.n=5", workers=2) as node:
        yield node


@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_keras_3(node: Serving, tmp_path: Path, backend: str) -> None:
    needs("keras", backend)
    run_checks(tmp_path, "resuming.py", "keras", node.endpoint, backend=backend, seconds=220)


def test_keras_2(node: Serving, tmp_path: Path) -> None:
    needs("tf_keras", "tensorflow")
    run_checks(tmp_path, "resuming.py", "tf_keras", node.endpoint, seconds=220)
