"""The Keras backends and libraries that a test needs: where they are missing it is skipped, but in CI it fails.

In CI everything that `python dev.py test` installs has to be there, or a backend would go untested without a word. Only torch may be
missing, and only after ``dev.py --light``, which says so in the environment.
"""

from __future__ import annotations

import importlib.util
import os

import pytest

BACKENDS = ("tensorflow", "jax", "torch", "tf_keras", "keras")


def may_be_missing(module: str) -> bool:
    """Whether a test that needs this module may be skipped for want of it."""
    return os.environ.get("CI", "").lower() not in ("1", "true") or (module == "torch" and bool(os.environ.get("FEEDER_LIGHT")))


def needs(*modules: str) -> None:
    """Skips the running test, or fails it in CI, if one of the modules is not installed."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            if not may_be_missing(module):
                pytest.fail(f"{module} is not installed: in CI every backend is tested, see dev.py", pytrace=False)
            pytest.skip(f"{module} is not installed")
