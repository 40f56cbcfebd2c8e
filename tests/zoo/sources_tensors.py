"""Sources whose batches are tensors of TensorFlow, torch and JAX, and torch's own classes: (something, which samples these are)."""

import jax
import jax.numpy as jnp
import numpy as np
import tensorflow as tf
import torch

N, BATCH = 24, 4
X = np.random.RandomState(6).rand(N, 8, 8, 3).astype("float32")


class TensorFlow:
    """Augments with TensorFlow's operations, with a seed of nobody's."""

    def __init__(self):
        self.ids = tf.range(N)

    def __len__(self):
        return N // BATCH

    def on_epoch_end(self):
        self.ids = tf.random.shuffle(self.ids)

    def __getitem__(self, i):
        ids = self.ids[i * BATCH : (i + 1) * BATCH]
        x = tf.gather(X, ids) + tf.random.normal((BATCH, 8, 8, 3), stddev=0.1)
        return {"x": tf.image.random_flip_left_right(x), "half": tf.cast(x, tf.bfloat16)}, ids


class Torch(torch.utils.data.Dataset):
    """Augments with torch's global generator and one of its own; some tensors need gradients, some are no plain views."""

    def __init__(self):
        self.generator = torch.Generator()
        self.ids = torch.randperm(N, generator=self.generator)
        self.weight = torch.ones(3, requires_grad=True)

    def __len__(self):
        return N // BATCH

    def on_epoch_end(self):
        self.ids = self.ids[torch.randperm(N)]

    def __getitem__(self, i):
        ids = self.ids[i * BATCH : (i + 1) * BATCH]
        x = torch.from_numpy(X)[ids].permute(0, 3, 1, 2)
        noisy = x + 0.1 * torch.randn(x.shape, generator=self.generator)
        return [noisy * self.weight.view(1, 3, 1, 1), noisy.to(torch.bfloat16)[:, :, ::2]], ids


class Jax:
    """Augments with JAX, under a key that depends on the epoch and the batch, as JAX wants it."""

    def __init__(self):
        self.epoch = 0
        self.ids = jnp.arange(N)

    def __len__(self):
        return N // BATCH

    def on_epoch_end(self):
        self.epoch += 1
        self.ids = jax.random.permutation(jax.random.key(self.epoch), N)

    def __getitem__(self, i):
        key = jax.random.fold_in(jax.random.key(self.epoch), i)
        ids = self.ids[i * BATCH : (i + 1) * BATCH]
        x = jnp.asarray(X)[ids] + jax.random.normal(key, (BATCH, 8, 8, 3))
        return (x, x.astype(jnp.bfloat16)), ids


class SplitKey(Jax):
    """Augments with JAX under a key that it splits again for each batch: a state, of which nobody knows."""

    def __init__(self):
        super().__init__()
        self.key = jax.random.key(0)

    def __getitem__(self, i):
        self.key, key = jax.random.split(self.key)
        ids = self.ids[i * BATCH : (i + 1) * BATCH]
        return jnp.asarray(X)[ids] + jax.random.normal(key, (BATCH, 8, 8, 3)), np.asarray(ids, "int64")


def loader():
    """torch's DataLoader, which shuffles."""
    data = torch.utils.data.TensorDataset(torch.from_numpy(X), torch.arange(N))
    return torch.utils.data.DataLoader(data, batch_size=BATCH, shuffle=True)
