"""Sources made with Keras and TensorFlow: each batch is (something, which samples these are)."""

import os

import keras
import numpy as np
import tensorflow as tf
from keras.src.legacy.preprocessing.image import ImageDataGenerator

FOLDER = os.environ["ZOO_DATA"]
N, BATCH = 24, 4
X = np.random.RandomState(5).randint(0, 255, (N, 20, 20, 3)).astype("float32")
Y = np.arange(N)

augmentation = dict(
    rotation_range=20, width_shift_range=0.1, height_shift_range=0.1, zoom_range=0.2, horizontal_flip=True, fill_mode="nearest"
)


class Dataset(keras.utils.PyDataset):
    """A PyDataset that shuffles, with a layer of Keras that draws random numbers."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.ids = np.arange(N)
        self.flip = keras.layers.RandomFlip("horizontal")
        self.noise = keras.layers.GaussianNoise(0.5)

    def __len__(self):
        return N // BATCH

    def on_epoch_end(self):
        np.random.shuffle(self.ids)

    def __getitem__(self, idx):
        ids = self.ids[idx * BATCH : (idx + 1) * BATCH]
        x = self.noise(self.flip(X[ids], training=True), training=True)
        return keras.ops.convert_to_numpy(x), Y[ids]


class Plain(keras.utils.Sequence):
    """Without a state: what Keras inherits to it does nothing."""

    def __len__(self):
        return N // BATCH

    def __getitem__(self, idx):
        ids = np.arange(idx * BATCH, (idx + 1) * BATCH)
        return tf.image.random_brightness(X[ids], 50).numpy(), Y[ids]


def flow(seed=None, shuffle=True):
    """ImageDataGenerator from arrays."""
    return ImageDataGenerator(**augmentation).flow(X, Y, batch_size=BATCH, shuffle=shuffle, seed=seed)


def flow_seeded():
    """The same, seeded: it counts its batches, and sets NumPy's seed from the count."""
    return flow(seed=7)


def folder(subset=None, seed=None):
    """ImageDataGenerator from a folder of PNG files, one class to a folder."""
    generator = ImageDataGenerator(**augmentation, rescale=1 / 255, validation_split=0.25)
    path = os.path.join(FOLDER, "png")
    return generator.flow_from_directory(path, target_size=(28, 28), batch_size=BATCH, class_mode="sparse", subset=subset, seed=seed)


class Named:
    """The folder's iterator in an object that also gives the names of the files."""

    def __init__(self):
        self.flow = folder(seed=3)

    def __len__(self):
        return len(self.flow)

    def on_epoch_end(self):
        self.flow.on_epoch_end()

    def __getitem__(self, idx):
        x, _ = self.flow[idx]
        ids = self.flow.index_array[idx * BATCH : (idx + 1) * BATCH]
        return x, np.array([int(os.path.basename(self.flow.filenames[k])[:4]) for k in ids])


class Pair(keras.utils.PyDataset):
    """Segmentation with two iterators that are seeded alike."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        generator = ImageDataGenerator(rotation_range=30, horizontal_flip=True, fill_mode="constant")
        self.images = generator.flow(X, Y, batch_size=BATCH, seed=1, shuffle=False)
        self.masks = generator.flow(X, Y, batch_size=BATCH, seed=1, shuffle=False)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        (x, y), (mask, _) = self.images[i], self.masks[i]
        return x, mask, y


class Layers(keras.utils.PyDataset):
    """Segmentation with two layers of Keras that are seeded alike."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.image_layer = keras.layers.RandomRotation(0.2, seed=1)
        self.mask_layer = keras.layers.RandomRotation(0.2, seed=1)

    def __len__(self):
        return N // BATCH

    def __getitem__(self, i):
        ids = np.arange(i * BATCH, (i + 1) * BATCH)
        return self.image_layer(X[ids], training=True), self.mask_layer(X[ids], training=True), Y[ids]


def images_and_masks():
    """Segmentation: pictures and their masks by two iterators that have to draw alike."""
    seed = 1
    images = ImageDataGenerator(**augmentation).flow(X, batch_size=BATCH, seed=seed)
    masks = ImageDataGenerator(**augmentation).flow(X, batch_size=BATCH, seed=seed)
    return zip(images, masks)


def tf_data():
    """A tf.data.Dataset with a map, batches and a prefetch."""
    ds = tf.data.Dataset.from_tensor_slices((X, Y))
    ds = ds.map(lambda x, y: (x / 255.0, y), num_parallel_calls=tf.data.AUTOTUNE)
    return ds.batch(BATCH).prefetch(tf.data.AUTOTUNE)


def tf_data_sharded(shard_index=0, num_shards=1):
    """Shuffled, then shared out."""
    ds = tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(N).shard(num_shards, shard_index)
    return ds.map(lambda x, y: (tf.image.random_flip_left_right(x), y)).batch(2)
