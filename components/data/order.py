"""The order of training rows as a function, not a state.

Row ``i`` of the shuffled, endless stream is computed, so resuming is a number and every world size
sees the same global batches. A permutation is a keyed Feistel network over the next even power of
two, walked until it lands inside; a mixture gives each corpus its exact share in every block.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
_ROUNDS = 6
BLOCK = 1024
STRETCH, STRETCHES = 4 * BLOCK, 4
"""Places whose rows are computed at once, since a few take as long as thousands, and how many such stretches are kept."""


def permute(index: Ints, size: int, key: int) -> Ints:
    """Position ``index`` [n] of a keyed permutation of range(size)."""
    half = max(1, (max(size - 1, 1).bit_length() + 1) // 2)
    value = index.astype(np.uint64)
    outside = np.ones(len(value), dtype=bool)
    while outside.any():
        value[outside] = _feistel(value[outside], half, key)
        outside = value >= size
    return value.astype(np.int64)


def _feistel(value: NDArray[np.uint64], half: int, key: int) -> NDArray[np.uint64]:
    mask = np.uint64((1 << half) - 1)
    left, right = value >> np.uint64(half), value & mask
    for number in range(_ROUNDS):
        left, right = right, left ^ (_mix(right, key, number) & mask)
    return (left << np.uint64(half)) | right


def _mix(x: NDArray[np.uint64], key: int, number: int) -> NDArray[np.uint64]:
    """SplitMix64's finaliser over (x, key, round)."""
    salt = (key * 0x9E3779B97F4A7C15 + number * 0xD1B54A32D192ED03 + 0x8CB92BA72F3D8DD7) % 2**64
    z = x + np.uint64(salt)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


class Mixture:
    """Which corpus and which of its rows stands at any place of the stream.

    Each block of 1,024 places gives corpus c its share of places, by largest remainder and in a
    shuffled order; the k-th use of a corpus takes row ``permute(k mod size)`` of epoch ``k // size``.
    """

    def __init__(self, sizes: list[int], weights: list[float], seed: int):
        self.sizes = sizes
        self.seed = seed
        share = np.array(weights, dtype=np.float64)
        exact = share / share.sum() * BLOCK
        quota = np.floor(exact).astype(np.int64)
        for c in np.argsort(quota - exact, kind="stable")[: BLOCK - quota.sum()]:
            quota[c] += 1
        self.quota = quota
        # Corpus of each place of a block, and how often it was used in the block before that place.
        self.slots = np.repeat(np.arange(len(sizes)), quota)[permute(np.arange(BLOCK), BLOCK, seed ^ 0x5107)]
        self.rank = np.zeros(BLOCK, dtype=np.int64)
        for c, q in enumerate(quota):
            self.rank[self.slots == c] = np.arange(q)
        self._stretch = lru_cache(STRETCHES)(self._compute_stretch)

    def pick(self, stream: Ints) -> tuple[Ints, Ints]:
        """(corpus [n], row in it [n]) of places [n] of the stream."""
        number, place = np.divmod(np.asarray(stream, dtype=np.int64), STRETCH)
        corpus, row = np.zeros((2, *place.shape), dtype=np.int64)
        for one in np.unique(number).tolist():
            here = number == one
            corpora, rows = self._stretch(one)
            corpus[here], row[here] = corpora[place[here]], rows[place[here]]
        return corpus, row

    def _compute_stretch(self, number: int) -> tuple[Ints, Ints]:
        """What ``pick`` gives for the places of a stretch."""
        stream = np.arange(number * STRETCH, (number + 1) * STRETCH)
        if len(self.sizes) == 1:
            corpus, use = np.zeros_like(stream), stream
        else:
            block, place = np.divmod(stream, BLOCK)
            corpus = self.slots[place]
            use = block * self.quota[corpus] + self.rank[place]
        row = np.zeros_like(stream)
        for c, size in enumerate(self.sizes):
            for epoch in np.unique(use[corpus == c] // size):
                here = (corpus == c) & (use // size == epoch)
                row[here] = permute(use[here] % size, size, (self.seed * 1009 + c) * 100_003 + int(epoch))
        return corpus, row
