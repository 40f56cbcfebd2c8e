"""Pictures from files, augmented with the libraries that people use: each batch is (pixels, which samples these are)."""

import glob
import os
import random

import albumentations as A
import cv2
import h5py
import numpy as np
from PIL import Image

HERE = os.path.dirname(os.path.abspath(__file__))
FOLDER = os.environ.get("ZOO_DATA", HERE)
BATCH = 4


class Pictures:
    """PNG files, read with Pillow."""

    def __init__(self, files=None):
        self.files = files or sorted(glob.glob(os.path.join(FOLDER, "png", "*", "*.png")))

    def __len__(self):
        return len(self.files) // BATCH

    def on_epoch_end(self):
        random.shuffle(self.files)

    def read(self, path):
        return np.array(Image.open(path).convert("RGB"))

    def augment(self, image):
        return image

    def __getitem__(self, idx):
        paths = self.files[idx * BATCH : (idx + 1) * BATCH]
        x = np.stack([self.augment(self.read(path)) for path in paths])
        return x, np.array([int(os.path.basename(path)[:4]) for path in paths])


def split_files():
    """A random split, as it is done in the constructors of two objects."""
    files = glob.glob(os.path.join(FOLDER, "png", "*", "*.png"))
    files.sort()
    random.shuffle(files)
    return files[: len(files) // 2], files[len(files) // 2 :]


class TrainPictures(Pictures):
    """One half."""

    def __init__(self):
        super().__init__(split_files()[0])


class OtherPictures(Pictures):
    """The other half."""

    def __init__(self):
        super().__init__(split_files()[1])


class Albumentations(Pictures):
    """A pipeline of albumentations 2, which holds unseeded generators of its own."""

    def __init__(self):
        super().__init__()
        self.transform = A.Compose(
            [
                A.RandomResizedCrop(size=(24, 24), scale=(0.5, 1.0)),
                A.HorizontalFlip(p=0.5),
                A.OneOf([A.GaussNoise(p=1), A.GaussianBlur(p=1), A.RandomGamma(p=1)], p=0.8),
                A.ColorJitter(p=0.7),
                A.CoarseDropout(num_holes_range=(1, 3), p=0.5),
                A.Affine(rotate=(-20, 20), shear=(-5, 5), p=0.5),
                A.ElasticTransform(p=0.3),
            ]
        )

    def augment(self, image):
        return self.transform(image=image)["image"]


class Detection(Albumentations):
    """The same with boxes, as many as there are in a picture."""

    def __init__(self):
        super().__init__()
        self.transform = A.Compose(
            [A.RandomBrightnessContrast(p=0.5), A.HorizontalFlip(p=0.5), A.Rotate(limit=10, p=0.5)],
            bbox_params=A.BboxParams(format="pascal_voc", label_fields=["labels"], min_visibility=0.1),
        )

    def __getitem__(self, idx):
        images, boxes, ids = [], [], []
        for path in self.files[idx * BATCH : (idx + 1) * BATCH]:
            k = int(os.path.basename(path)[:4])
            given = [[2, 3, 14, 20 + j] for j in range(k % 3)]
            out = self.transform(image=self.read(path), bboxes=given, labels=[k] * len(given))
            images.append(out["image"])
            boxes.append(np.array(out["bboxes"], "float32").reshape(-1, 4))
            ids.append(k)
        return {"images": np.stack(images), "boxes": boxes}, np.array(ids)


class OpenCV(Pictures):
    """By hand with OpenCV and the global generators, and with cv2's own."""

    def read(self, path):
        return cv2.cvtColor(cv2.imread(path), cv2.COLOR_BGR2RGB)

    def augment(self, image):
        h, w = image.shape[:2]
        m = cv2.getRotationMatrix2D((w / 2, h / 2), random.uniform(-25, 25), np.random.uniform(0.8, 1.2))
        out = cv2.warpAffine(image, m, (w, h), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        hsv = cv2.cvtColor(out, cv2.COLOR_RGB2HSV)
        hsv[..., 1] = cv2.multiply(hsv[..., 1], np.random.uniform(0.7, 1.3))
        return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


class OpenCVNoise(OpenCV):
    """cv2.randn draws from a generator in C++."""

    def augment(self, image):
        noise = np.empty(image.shape, "int16")
        cv2.randn(noise, 0, 12)
        return np.clip(super().augment(image) + noise, 0, 255).astype("uint8")


class HDF5:
    """An HDF5 file, open as an attribute for as long as the object lives."""

    def __init__(self, path=None):
        self.file = h5py.File(path or os.path.join(FOLDER, "data.h5"), "r")
        self.x, self.y = self.file["images"], self.file["labels"]
        self.order = np.arange(len(self.x))

    def __len__(self):
        return len(self.order) // BATCH

    def on_epoch_end(self):
        np.random.shuffle(self.order)

    def __getitem__(self, idx):
        rows = np.sort(self.order[idx * BATCH : (idx + 1) * BATCH])
        x = self.x[rows].astype("float32") / 255
        return x + np.random.normal(0, 0.01, x.shape).astype("float32"), self.y[rows]
