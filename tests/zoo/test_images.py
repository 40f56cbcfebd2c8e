"""Sources that read pictures from real files, and augment them with albumentations 2 and OpenCV."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import numpy as np
import pytest

from feeder_client import FeederClient
from tests.serving import Serving
from tests.zoo import files
from tests.zoo.reading import Case, check, read, serve_all

ALL = range(files.PICTURES)
CASES = {
    "pictures": Case("sources_images.py:Pictures", "parallel", ALL),
    "albumentations": Case("sources_images.py:Albumentations", "parallel", ALL),
    "detection": Case("sources_images.py:Detection", "parallel", ALL),
    "opencv": Case("sources_images.py:OpenCV", "parallel", ALL),
    "opencv_noise": Case("sources_images.py:OpenCVNoise", "parallel", ALL),
    "hdf5": Case("sources_images.py:HDF5", "parallel", range(files.ROWS)),
}
OTHERS = {"train": Case("sources_images.py:TrainPictures", "parallel"), "other": Case("sources_images.py:OtherPictures", "parallel")}


@pytest.fixture(scope="module", name="nodes")
def nodes_of_1_and_3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, Serving]]:
    """Nodes that serve all of them, by their number of workers."""
    for library in ("albumentations", "cv2"):
        pytest.importorskip(library)
    folder = tmp_path_factory.mktemp("data")
    files.make(folder)
    with ExitStack() as stack:
        yield serve_all(stack, folder, {**CASES, **OTHERS}, workers=(1, 3), env={"ZOO_DATA": str(folder)})


@pytest.mark.parametrize("name", CASES)
def test_every_sample_once_and_the_bytes_of_one_worker(nodes: dict[int, Serving], name: str) -> None:
    check(name, CASES[name], nodes[1], nodes[3])


def test_files_that_are_split_at_random(nodes: dict[int, Serving]) -> None:
    """Half of the files for training and the other half for validation, for each worker the same ones."""
    with FeederClient(nodes[3].endpoint, "train") as train, FeederClient(nodes[3].endpoint, "other") as other:
        for _ in range(2):
            halves = [read(client).ids for client in (train, other)]
            assert sorted(halves[0] + halves[1]) == list(ALL)


def test_pictures_are_augmented_anew_in_each_epoch(nodes: dict[int, Serving]) -> None:
    """Setting seeds must not make the augmentation a constant."""
    with FeederClient(nodes[3].endpoint, "albumentations") as client:
        seen: dict[int, set[bytes]] = {k: set() for k in ALL}
        for _ in range(3):
            for x, ids in client:
                for pixels, k in zip(x, ids, strict=True):
                    seen[int(k)].add(np.asarray(pixels).tobytes())
    assert all(len(versions) == 3 for versions in seen.values())
