"""A permutation of any length, element by element. PURE."""

from __future__ import annotations

_MASK = (1 << 64) - 1


def mix(value: int) -> int:
    """Scramble 64 bits (the finalizer of SplitMix64: Steele, Lea, Flood 2014)."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def permuted(k: int, n: int, seed: int) -> int:
    """Element `k` of a permutation of ``range(n)``, without making the others: `n` may be 2**63-1.

    A Feistel network over the next power of four, walked until it lands below `n` (Black and Rogaway 2002).
    """
    half = max(1, ((n - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    while True:
        left, right = k >> half, k & mask
        for turn in range(6):
            left, right = right, left ^ (mix(right ^ mix(seed + turn)) & mask)
        k = left << half | right
        if k < n:
            return k
