"""Keras' own tests of datasets, as they ship in its wheel, with each dataset fed from a server with real workers."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from tests.serving import Running

pytestmark = [pytest.mark.slow, pytest.mark.keras]

HERE = Path(__file__).parent
ROOT = str(HERE.parents[1])
TESTS = "src/trainers/data_adapters/py_dataset_adapter_test.py"

CANNOT = {
    "test_iterate_infinite_with_no_len": "its items are Python generators, which can't leave their process, and it has no length at all",
}


def test_keras_own_tests(tmp_path: Path) -> None:
    for module in ("keras", "tensorflow", "torch", "absl"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    keras = importlib.util.find_spec("keras")
    assert keras is not None
    assert keras.submodule_search_locations is not None
    source = Path(keras.submodule_search_locations[0]) / TESTS
    if not source.exists():
        pytest.skip("this Keras ships without its tests")
    shutil.copy(source, tmp_path / "test_of_keras.py")
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = -p no:cacheprovider\n", encoding="utf-8")
    env = {
        "KERAS_BACKEND": "tensorflow",
        "KERAS_HOME": str(tmp_path),
        "PYTHONPATH": os.pathsep.join(filter(None, [ROOT, str(HERE), os.environ.get("PYTHONPATH", "")])),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "-1",
        "JAX_PLATFORMS": "cpu",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "conformance_plugin", "test_of_keras.py"]
    with Running(command, tmp_path, env) as process:
        process.wait(110)
    found = dict((name, outcome) for outcome, name in re.findall(r"^RESULT (\w+) (\S+)$", process.stdout, re.MULTILINE))
    failed = {name for name, outcome in found.items() if outcome in ("failed", "error")}
    assert failed == set(CANNOT), process.output
    assert sum(outcome == "passed" for outcome in found.values()) >= 30, process.output
