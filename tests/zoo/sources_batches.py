"""Sources with unusual batches or unusual attributes, as people write them: each batch is (something, which samples these are)."""

import logging
import os
import threading
import time
import uuid

import numpy as np

N, BATCH = 48, 4
IMAGES = (np.arange(N)[:, None, None, None] + np.zeros((N, 16, 16, 3))).astype("uint8")
LABELS = np.arange(N)


class Batches:
    """Images and labels in batches."""

    def __init__(self, x=IMAGES, y=LABELS, batch_size=BATCH):
        self.x, self.y, self.batch_size = x, y, batch_size

    def __len__(self):
        return -(-len(self.x) // self.batch_size)

    def __getitem__(self, idx):
        rows = slice(idx * self.batch_size, (idx + 1) * self.batch_size)
        return self.x[rows], self.y[rows]


class Locked(Batches):
    """A lock, an event, a thread-local and a logger as attributes: none of them can be pickled."""

    def __init__(self):
        super().__init__()
        self.lock = threading.RLock()
        self.ready = threading.Event()
        self.local = threading.local()
        self.log = logging.getLogger("train")
        self.transform = lambda x: x / 255.0

    def __getitem__(self, idx):
        with self.lock:
            self.ready.set()
            x, y = super().__getitem__(idx)
            return self.transform(x).astype("float32"), y


class Constant:
    """One and the same large array for every batch: a dummy for measuring the training alone."""

    def __init__(self):
        self.x = np.ones((8, 64, 64, 3), "float32")
        self.y = np.zeros((8, 10), "float32")

    def __len__(self):
        return 20

    def __getitem__(self, idx):
        return self.x, self.y


class ConstantTarget(Batches):
    """The second output isn't used: the same large array of zeros each time, as losses that sit in layers need it."""

    def __init__(self):
        super().__init__()
        self.dummy = np.zeros((BATCH, 64, 64, 1), "float32")
        self.order = np.arange(N)

    def on_epoch_end(self):
        np.random.shuffle(self.order)

    def __getitem__(self, idx):
        ids = self.order[idx * BATCH : (idx + 1) * BATCH]
        return [self.x[ids] * np.random.rand(), self.dummy], self.y[ids]


class SameBuffer(Batches):
    """Writes every batch into one array that it allocated once, large enough to travel as a block."""

    def __init__(self):
        super().__init__()
        self.out = np.empty((BATCH, 64, 64, 3), "float32")
        self.ids = np.empty(BATCH, int)

    def __getitem__(self, idx):
        for place in range(BATCH):
            k = idx * BATCH + place
            self.out[place] = k + np.random.normal(0, 0.1, (64, 64, 3))
            self.ids[place] = k
        return self.out, self.ids


class Varying:
    """Sequences padded to the longest of their batch, and a last batch that is short."""

    def __init__(self):
        rng = np.random.RandomState(7)
        self.texts = [rng.randint(1, 1000, rng.randint(3, 40)) for _ in range(50)]
        self.order = np.argsort([len(t) for t in self.texts])

    def __len__(self):
        return int(np.ceil(len(self.texts) / 8))

    def on_epoch_end(self):
        self.order = np.random.permutation(len(self.texts))

    def __getitem__(self, i):
        ids = self.order[i * 8 : (i + 1) * 8]
        chunk = [self.texts[k] for k in ids]
        out = np.zeros((len(chunk), max(map(len, chunk))), dtype="int32")
        for row, text in enumerate(chunk):
            out[row, : len(text)] = text
        return out, ids


class Bucketed:
    """Cuts the data anew in each epoch, at places that it draws: no two batches are as long."""

    def __init__(self):
        self.on_epoch_end()

    def on_epoch_end(self):
        cuts = np.sort(np.random.choice(np.arange(1, N), 9, replace=False))
        self.chunks = [c for c in np.split(np.random.permutation(N), cuts) if len(c)]

    def __len__(self):
        return 10

    def __getitem__(self, i):
        return IMAGES[self.chunks[i]], LABELS[self.chunks[i]]


class Empty(Batches):
    """Samples that fail a test are dropped, so that some batches have nothing in them, the first one too."""

    def __getitem__(self, idx):
        x, y = super().__getitem__(idx)
        good = y % 16 >= 4
        return x[good], y[good]


class Accidents(Batches):
    """float64 images, int64 masks and Python numbers, none of them meant."""

    def __getitem__(self, idx):
        x, y = super().__getitem__(idx)
        noisy = x / 255 + np.random.normal(0, 0.05, x.shape)
        masks = (noisy > 0.5) * 1
        return {"image": noisy, "mask": masks, "weight": 1 / (idx + 1)}, y


class Listed(Batches):
    """Lists of arrays and of Python numbers."""

    def __getitem__(self, idx):
        x, y = super().__getitem__(idx)
        return [[x.astype("float32"), x.mean(axis=(1, 2))], [int(k) for k in y]]


class FromTheSystem(Batches):
    """Augments with numbers that the system gives."""

    def __getitem__(self, idx):
        x, y = super().__getitem__(idx)
        mask = np.frombuffer(os.urandom(x.size), "uint8").reshape(x.shape)
        return x ^ mask, {"time": time.time(), "id": uuid.uuid4().hex}, y


class WhoMadeIt(Batches):
    """Logs the process, as one does to see whether there are several."""

    def __getitem__(self, idx):
        return (os.getpid(), *super().__getitem__(idx))


TABLE = [(IMAGES[i : i + BATCH], LABELS[i : i + BATCH]) for i in range(0, N, BATCH)]
