"""FeederSequence with every Keras there is, and the datasets for TensorFlow and torch; real servers, each in a process of its own.

What is missing where these run is skipped, but not in CI: see `needs`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pytest

from tests.backends import BACKENDS, needs
from tests.serving import Running

pytestmark = [pytest.mark.slow, pytest.mark.keras, pytest.mark.timeout(300)]  # a minute or two, where nothing else runs

HERE = Path(__file__).parent
ROOT = str(HERE.parents[1])


def run_checks(cwd: Path, script: str, *arguments: str, backend: str = "tensorflow", seconds: float = 290) -> None:
    """Runs all checks of a script; fails with those that failed."""
    env = {
        "KERAS_BACKEND": backend,
        "KERAS_HOME": str(cwd),  # not the user's settings
        "PYTHONPATH": os.pathsep.join(filter(None, [ROOT, os.environ.get("PYTHONPATH", "")])),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "-1",
        "JAX_PLATFORMS": "cpu",
        "OMP_NUM_THREADS": "1",
    }
    start = time.monotonic()
    with Running([sys.executable, str(HERE / script), *arguments], cwd, env) as process:
        process.wait(seconds)
    lines = process.stdout.splitlines()
    found = [json.loads(line) for line in lines if line.startswith("{")]
    errors = [f"{one['check']}:\n{one['error']}" for one in found if one["error"]]
    assert not errors, "\n".join(errors)
    assert lines[-1:] == ["DONE"], process.output
    print(f"{script} {backend}: {time.monotonic() - start:.1f} s,", ", ".join(f"{one['check']} {one['seconds']}" for one in found))


@pytest.mark.parametrize("module", BACKENDS)
def test_is_there(module: str) -> None:
    needs(module)


@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_keras_3(tmp_path: Path, backend: str) -> None:
    needs("keras", backend)
    run_checks(tmp_path, "training.py", "keras", backend=backend)


def test_keras_2(tmp_path: Path) -> None:
    needs("tf_keras", "tensorflow")
    run_checks(tmp_path, "training.py", "tf_keras")


def test_as_tf_dataset(tmp_path: Path) -> None:
    needs("keras", "tensorflow")
    run_checks(tmp_path, "tf_checks.py")


def test_as_torch_dataset(tmp_path: Path) -> None:
    needs("torch")
    run_checks(tmp_path, "torch_checks.py")


def test_tensors_on_torch(tmp_path: Path) -> None:
    needs("keras", "torch")
    run_checks(tmp_path, "tensor_checks.py", backend="torch")
