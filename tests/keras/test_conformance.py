"""Keras' own tests of datasets and generators, as they ship in its wheel, each fed from a server with real workers, on every backend."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from tests.backends import needs
from tests.serving import Running

pytestmark = [pytest.mark.slow, pytest.mark.keras, pytest.mark.timeout(300)]  # a minute or two, where nothing else runs

HERE = Path(__file__).parent
ROOT = str(HERE.parents[1])
ADAPTERS = "src/trainers/data_adapters"
# The tests of each file that have to pass; the rest is in CANNOT, or skipped by Keras itself on that backend.
FEWEST = {
    ("py_dataset", "tensorflow"): 31,
    ("py_dataset", "jax"): 26,
    ("py_dataset", "torch"): 31,
    ("generator", "tensorflow"): 11,
    ("generator", "jax"): 8,
    ("generator", "torch"): 10,
}

_JAX = "it wants a jax.Array back where the source gave one: batches are NumPy arrays"
_SPARSE = "sparse and ragged tensors are no arrays, and a batch holds arrays"
_ITEMS = "its items are Python generators, which can't leave their process, and it has no length at all"

# File and backend: the tests that fail there, each with the reason.
CANNOT: dict[tuple[str, str], dict[str, str]] = {
    ("py_dataset", "tensorflow"): {"test_iterate_infinite_with_no_len": _ITEMS},
    ("py_dataset", "jax"): {
        "test_iterate_infinite_with_no_len": _ITEMS,
        "test_basic_flow_single_jax_false_false": _JAX,
        "test_basic_flow_single_jax_false_true": _JAX,
        "test_basic_flow_single_jax_true_false": _JAX,
        "test_basic_flow_single_jax_true_true": _JAX,
    },
    ("py_dataset", "torch"): {"test_iterate_infinite_with_no_len": _ITEMS},
    ("generator", "tensorflow"): {
        "test_ragged_tensors": _SPARSE,
        "test_sparse_tensors_jax": _SPARSE,
        "test_sparse_tensors_scipy": _SPARSE,
        "test_sparse_tensors_tf": _SPARSE,
    },
    ("generator", "jax"): {
        "test_basic_flow_no_weight_jax": _JAX,
        "test_basic_flow_use_weight_jax": _JAX,
        "test_sparse_tensors_jax": _SPARSE,
        "test_sparse_tensors_scipy": _SPARSE,
        "test_sparse_tensors_tf": _SPARSE,
    },
    ("generator", "torch"): {},
}


@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
@pytest.mark.parametrize("tests", ["py_dataset", "generator"])
def test_keras_own_tests(tmp_path: Path, tests: str, backend: str) -> None:
    needs("keras", "tensorflow", "torch", "jax", "absl", "scipy")
    keras = importlib.util.find_spec("keras")
    assert keras is not None
    assert keras.submodule_search_locations is not None
    suffix = "adapter_test.py" if tests == "py_dataset" else "data_adapter_test.py"
    source = Path(keras.submodule_search_locations[0], ADAPTERS, f"{tests}_{suffix}")
    if not source.exists():
        pytest.skip("this Keras ships without its tests")
    shutil.copy(source, tmp_path / "test_of_keras.py")
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = -p no:cacheprovider\n", encoding="utf-8")
    env = {
        "KERAS_BACKEND": backend,
        "KERAS_HOME": str(tmp_path),
        "PYTHONPATH": os.pathsep.join(filter(None, [ROOT, str(HERE), os.environ.get("PYTHONPATH", "")])),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "-1",
        "JAX_PLATFORMS": "cpu",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "conformance_plugin", "test_of_keras.py"]
    with Running(command, tmp_path, env) as process:
        process.wait(290)
    found = dict((name, outcome) for outcome, name in re.findall(r"^RESULT (\w+) (\S+)$", process.stdout, re.MULTILINE))
    failed = {name for name, outcome in found.items() if outcome in ("failed", "error")}
    assert failed == set(CANNOT[tests, backend]), process.output
    assert sum(outcome == "passed" for outcome in found.values()) >= FEWEST[tests, backend], process.output
