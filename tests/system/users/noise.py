"""Draws when it is imported, too, and has a generator for everybody."""

import random

import numpy as np

LEVEL = random.random()
RNG = np.random.default_rng()
OFFSETS = RNG.normal(size=8)


def add(x):
    """Adds noise."""
    return x + LEVEL * RNG.normal(size=x.shape).astype("float32") + OFFSETS.sum()
