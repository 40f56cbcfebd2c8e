"""The source for validation."""

import numpy as np
from common import MEAN, TRAIN, VALIDATION

SECOND = np.random.rand()


class Validation:
    """Doesn't shuffle; crops at random."""

    def __init__(self):
        assert not set(VALIDATION) & set(TRAIN)

    def __len__(self):
        return 6

    def __getitem__(self, i):
        ids = VALIDATION[i * 4 : (i + 1) * 4]
        return ids[:, None] * MEAN + SECOND + np.random.rand(4, 10), ids
