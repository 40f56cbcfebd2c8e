"""What training and validation have in common: a split that is drawn when this is imported, from NumPy's global generator."""

import noise
import numpy as np

N = 72
IDS = np.random.permutation(N)
TRAIN, VALIDATION = IDS[:48], IDS[48:]
MEAN = np.random.rand() + noise.LEVEL
