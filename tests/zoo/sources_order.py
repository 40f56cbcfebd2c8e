"""Sources that shuffle, as people write them: each batch is (pixels, which samples these are)."""

import random

import numpy as np

N, BATCH = 60, 4
X = np.random.RandomState(0).rand(N, 6, 6, 3).astype("float32")
Y = np.arange(N)


class NumpyShuffle:
    """The one from every tutorial: a list of indices, shuffled again after each epoch."""

    def __init__(self, batch_size=BATCH, shuffle=True):
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.indexes = np.arange(N)
        self.on_epoch_end()

    def __len__(self):
        return int(np.floor(N / self.batch_size))

    def __getitem__(self, index):
        indexes = self.indexes[index * self.batch_size : (index + 1) * self.batch_size]
        return self.data_generation(indexes)

    def on_epoch_end(self):
        if self.shuffle:
            np.random.shuffle(self.indexes)

    def data_generation(self, indexes):
        x = np.empty((len(indexes), 6, 6, 3), dtype="float32")
        y = np.empty(len(indexes), dtype=int)
        for i, k in enumerate(indexes):
            x[i], y[i] = X[k], Y[k]
        return x, y


class AnewEachEpoch(NumpyShuffle):
    """The other half of the tutorials: the list is made anew, then shuffled."""

    def on_epoch_end(self):
        self.indexes = np.arange(N)
        np.random.shuffle(self.indexes)


class RandomShuffle(NumpyShuffle):
    """The same with the standard library, and pairs of which the order is cumulative."""

    def __init__(self):
        self.pairs = list(zip(X, Y.tolist()))
        self.batch_size = BATCH

    def on_epoch_end(self):
        random.shuffle(self.pairs)

    def __getitem__(self, index):
        chunk = self.pairs[index * BATCH : (index + 1) * BATCH]
        x = np.stack([np.flipud(image) if random.random() < 0.5 else image for image, _ in chunk])
        return x, np.array([label for _, label in chunk])


class InUnison(NumpyShuffle):
    """Shuffles the arrays themselves, in step, by setting the state of the generator back."""

    def __init__(self):
        self.x, self.y = X.copy(), Y.copy()

    def __len__(self):
        return N // BATCH

    def on_epoch_end(self):
        state = np.random.get_state()
        np.random.shuffle(self.x)
        np.random.set_state(state)
        np.random.shuffle(self.y)

    def __getitem__(self, index):
        return self.x[index * BATCH : (index + 1) * BATCH], self.y[index * BATCH : (index + 1) * BATCH]


class LazyPermutation(NumpyShuffle):
    """Draws the permutation of an epoch when the first batch of it is asked for."""

    def __init__(self):
        self.perm = None

    def __len__(self):
        return N // BATCH

    def on_epoch_end(self):
        self.perm = None

    def __getitem__(self, index):
        if self.perm is None:
            self.perm = np.random.permutation(N)
        return self.data_generation(self.perm[index * BATCH : (index + 1) * BATCH])


class RollingPermutation(NumpyShuffle):
    """Draws a permutation per round over the data, and keeps those that were drawn: pixels of several rounds make one epoch."""

    def __init__(self, steps=15):
        self.steps = steps
        self.index_map = {}

    def __len__(self):
        return self.steps

    def batch(self, i):
        pos = i * BATCH
        first, last = pos // N, (pos + BATCH - 1) // N
        for k in range(first, last + 1):
            if k not in self.index_map:
                self.index_map[k] = np.random.permutation(N)
        order = np.concatenate([self.index_map[k] for k in range(first, last + 1)])
        return order[pos - first * N : pos - first * N + BATCH]

    def on_epoch_end(self):
        pass

    def __getitem__(self, i):
        return self.data_generation(self.batch(i))


class PrivateOrder(NumpyShuffle):
    """The order comes from a generator of its own that nobody has seeded."""

    def __init__(self):
        self.rng = np.random.default_rng()
        super().__init__()

    def on_epoch_end(self):
        self.rng.shuffle(self.indexes)


class PrivateRandom(RandomShuffle):
    """The same with the standard library."""

    def __init__(self):
        super().__init__()
        self.random = random.Random()
        self.random.shuffle(self.pairs)

    def on_epoch_end(self):
        self.random.shuffle(self.pairs)


class PrivateAugment(NumpyShuffle):
    """A generator of its own is used for the augmentation only, two objects down."""

    class Noise:
        def __init__(self, sigma):
            self.sigma = sigma
            self.rng = np.random.default_rng()

        def __call__(self, x):
            return (x + self.rng.normal(0, self.sigma, x.shape)).astype("float32")

    def __init__(self):
        super().__init__()
        self.augmentations = [self.Noise(0.1), lambda x: x[:, ::-1], self.Noise(0.2)]

    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        for augment in self.augmentations:
            x = augment(x)
        return x, y


class MadeOnDemand(NumpyShuffle):
    """Makes its generator when it first needs one, as code does that has to be pickled."""

    def __init__(self):
        super().__init__()
        self._rng = None

    @property
    def rng(self):
        if self._rng is None:
            self._rng = np.random.default_rng()
        return self._rng

    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return x * self.rng.uniform(0.5, 1.5), y


class State42(NumpyShuffle):
    """Seeded by hand, and shuffled again each epoch."""

    def __init__(self):
        self.rs = np.random.RandomState(42)
        super().__init__()

    def on_epoch_end(self):
        self.rs.shuffle(self.indexes)


class Same42(NumpyShuffle):
    """Seeded by hand again at each epoch, of an order that is cumulative."""

    def on_epoch_end(self):
        np.random.RandomState(42).shuffle(self.indexes)


class SeededByHand(NumpyShuffle):
    """Sets the global seed itself, in __init__ only."""

    def __init__(self, seed=1337):
        np.random.seed(seed)
        random.seed(seed)
        super().__init__()


class InStep(NumpyShuffle):
    """Two generators seeded alike, so that pictures and masks are turned alike: the usual way for segmentation."""

    def __init__(self):
        super().__init__()
        self.image_rng, self.mask_rng = np.random.RandomState(1), np.random.RandomState(1)

    @staticmethod
    def turn(x, rng):
        return np.stack([np.rot90(image, rng.randint(4)) for image in x])

    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return self.turn(x, self.image_rng), self.turn(x > 0.5, self.mask_rng), y


RNG = np.random.default_rng(42)


class FromModule(NumpyShuffle):
    """Everything comes from one generator of the module: the first order too."""

    def __init__(self):
        self.indexes = RNG.permutation(N)

    def __len__(self):
        return N // BATCH

    def on_epoch_end(self):
        RNG.shuffle(self.indexes)

    def __getitem__(self, index):
        x, y = self.data_generation(self.indexes[index * BATCH : (index + 1) * BATCH])
        return x + RNG.normal(size=x.shape), y


class Cursor(NumpyShuffle):
    """Ignores the index, and counts for itself."""

    def __init__(self):
        super().__init__()
        self.i = 0

    def __getitem__(self, index):
        if self.i * BATCH >= N:
            self.i = 0
        batch = super().__getitem__(self.i)
        self.i += 1
        return batch


class ItsOwnIterator(NumpyShuffle):
    """A live generator as an attribute, which gives the batches whatever the index."""

    def __init__(self):
        super().__init__()
        self.batches = self.endless()

    def endless(self):
        while True:
            for i in range(len(self)):
                yield super().__getitem__(i)

    def __getitem__(self, index):
        return next(self.batches)


def split(part, fraction=0.8):
    """Splits at random, once for training and once for validation."""
    indexes = list(range(N))
    random.shuffle(indexes)
    cut = int(fraction * N)
    return indexes[:cut] if part == "train" else indexes[cut:]


class Train(NumpyShuffle):
    """What was split off for training."""

    def __init__(self):
        self.ids = np.array(split("train"))

    def __len__(self):
        return len(self.ids) // BATCH

    def on_epoch_end(self):
        np.random.shuffle(self.ids)

    def __getitem__(self, index):
        return self.data_generation(self.ids[index * BATCH : (index + 1) * BATCH])


class Validation(Train):
    """The rest."""

    def __init__(self):
        self.ids = np.array(split("val"))

    def on_epoch_end(self):
        pass
