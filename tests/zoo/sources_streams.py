"""Generators and iterators, as people write them: each batch is (something, which samples these are)."""

import functools
import itertools
import random
import threading

import numpy as np

N, BATCH = 24, 2
X = np.random.RandomState(3).rand(N, 8, 8).astype("float32")
Y = np.arange(N)


def endless(batch_size=BATCH):
    """The one from every tutorial: shuffles, and begins again for ever."""
    while True:
        order = np.random.permutation(N)
        for i in range(0, N, batch_size):
            ids = order[i : i + batch_size]
            yield X[ids] + np.random.normal(0, 0.1, (len(ids), 8, 8)), Y[ids]


def one_pass():
    """A pass over the data in an order of its own, with private generators."""
    rng = np.random.default_rng()
    order = list(range(N))
    random.Random().shuffle(order)
    for i in range(0, N, BATCH):
        yield rng.random((BATCH, 8, 8)), Y[order[i : i + BATCH]]


def sharded(shard_index=0, num_shards=1):
    """Takes its part of a list that all workers shuffle alike."""
    batches = [slice(i, i + BATCH) for i in range(0, N, BATCH)]
    random.shuffle(batches)
    for rows in batches[shard_index::num_shards]:
        yield X[rows], Y[rows]


def shard_pair(files=12, shard=None):
    """The same, told in one argument, and the order is that of NumPy's."""
    order = np.random.permutation(files)
    index, count = shard if shard is not None else (0, 1)
    for k in order[index::count]:
        yield {"x": np.full((300, 100), k, "float32")}, np.array([2 * k, 2 * k + 1])


def same_array(shard_index=0, num_shards=1):
    """Yields one array again and again, with new contents, large enough to travel as a block."""
    x, y = np.zeros((BATCH, 100, 100), "float32"), np.zeros(BATCH, int)
    for k in range(shard_index, N // BATCH, num_shards):
        y[:] = (2 * k, 2 * k + 1)
        x[:] = y[:, None, None]
        yield x, y


class ThreadSafe:
    """The wrapper that everybody copies, to call a generator from Keras' threads."""

    def __init__(self, it):
        self.it = it
        self.lock = threading.Lock()

    def __iter__(self):
        return self

    def __next__(self):
        with self.lock:
            return self.it.__next__()


def thread_safe(f):
    """Its decorator."""

    @functools.wraps(f)
    def g(*a, **kw):
        return ThreadSafe(f(*a, **kw))

    return g


@thread_safe
def wrapped():
    """A generator in the wrapper."""
    rng = np.random.default_rng()
    for i in rng.permutation(N // BATCH):
        yield rng.normal(size=(BATCH, 4)), Y[i * BATCH : (i + 1) * BATCH]


wrapped_object = ThreadSafe(one_pass())


class Callable:
    """An object with `__call__`, as tf.data.Dataset.from_generator takes it."""

    def __init__(self, n=N):
        self.n = n
        self.rng = np.random.RandomState()

    def __call__(self):
        for i in self.rng.permutation(self.n // BATCH):
            yield self.rng.rand(BATCH, 5), Y[i * BATCH : (i + 1) * BATCH]


called = Callable()


class Iterable:
    """An iterable whose `__iter__` is a generator, with a state that lives on."""

    def __init__(self):
        self.order = np.arange(N)

    def __iter__(self):
        np.random.shuffle(self.order)
        for i in range(0, N, BATCH):
            ids = self.order[i : i + BATCH]
            yield X[ids] * np.random.rand(), Y[ids]


class HandWritten:
    """An iterator with a cursor that says when it is over, and begins again when it is asked to."""

    def __init__(self):
        self.n = 0
        self.rng = np.random.default_rng()

    def __iter__(self):
        self.n = 0
        return self

    def __next__(self):
        if self.n >= N:
            raise StopIteration
        ids = Y[self.n : self.n + BATCH]
        self.n += BATCH
        return X[ids] + self.rng.random((BATCH, 8, 8)), ids


class Loader:
    """An iterable that knows its length, as torch's DataLoader and tf.data.Dataset do."""

    def __init__(self, ids=Y):
        self.ids = ids

    def __len__(self):
        return -(-len(self.ids) // BATCH)

    def __iter__(self):
        order = np.random.permutation(self.ids)
        for i in range(0, len(order), BATCH):
            ids = order[i : i + BATCH]
            yield X[ids] + np.random.rand(), ids


def loader_of_part(shard_index=0, num_shards=1):
    """The same over a part of the data; not all parts are of one length."""
    return Loader(np.random.permutation(N - 1)[shard_index::num_shards])


def _images():
    order = np.random.RandomState(1).permutation(N)
    for k in order:
        yield X[k] + np.random.rand()


def _masks():
    order = np.random.RandomState(1).permutation(N)
    for k in order:
        yield X[k] > 0.5, k


def zipped():
    """Two generators that have to go in step."""
    return zip(_images(), _masks())


def _turned(pictures, seed):
    rng = np.random.RandomState(seed)
    for picture in pictures:
        yield np.rot90(picture, rng.randint(4))


def _numbered(pictures):
    return zip(pictures, range(N))


def zipped_twins():
    """Pictures and masks by two generators of one seed, which have to draw alike."""
    images, masks = _turned(X, 1), _turned(X > 0.5, 1)
    return zip(images, _numbered(masks))


def chained():
    """itertools all the way down."""
    pairs = zip(X, Y.tolist())
    return map(lambda pair: (pair[0] * random.random(), pair[1]), itertools.islice(pairs, 20))


def with_gaps():
    """Batches of other lengths each time, some of them empty."""
    left = list(range(N))
    while left:
        take = random.randint(0, 4)
        ids, left = left[:take], left[take:]
        yield X[ids], np.array(ids, int)
