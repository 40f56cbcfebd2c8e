"""The files that sources of the zoo read: PNG pictures in a folder per class, and an HDF5 file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

PICTURES, ROWS = 24, 32


def make(folder: Path) -> None:
    """Writes them: real files, each picture unlike the others."""
    image = pytest.importorskip("PIL.Image")
    h5py = pytest.importorskip("h5py")
    rng = np.random.RandomState(11)
    for k in range(PICTURES):
        place = folder / "png" / ("cats", "dogs")[k % 2]
        place.mkdir(parents=True, exist_ok=True)
        pixels = rng.randint(0, 256, (8, 8, 3)).repeat(4, 0).repeat(4, 1).astype("uint8")
        image.fromarray(pixels).save(place / f"{k:04}.png")
    with h5py.File(folder / "data.h5", "w") as file:
        file["images"] = rng.randint(0, 256, (ROWS, 12, 12, 3)).astype("uint8")
        file["labels"] = np.arange(ROWS)
