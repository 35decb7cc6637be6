"""Rows computed in tiles, so that a row's bits do not depend on how many rows there are.

A kernel may add up a matrix product in another order where it has fewer rows, so products are of one number of them, a tile, and
what is left is filled up. Large tiles are faster (a third on a CPU) and small ones waste less: larger ones are taken, too, where
they were seen to give the bits of small ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Compute = Callable[[Sequence[Tensor], list[int]], Tensor]
"""Something of rows [N, ...], given that they are to be taken so many at a time: [N, ...]."""
SIZES = {"cpu": (256, 128, 64, 32), "cuda": (1024,)}
"""Rows of a tile, the largest first. A GPU's kernels are chosen by the number of rows."""


class Tiles:
    """What is known of tiles on this machine, for one network."""

    def __init__(self, sizes: Sequence[int]):
        self.larger, self.small = sizes[:-1], sizes[-1]
        self.equal: dict[tuple[str, int, int], bool] = {}
        """Are the bits those in small tiles? By what is computed, in which tiles, and by how many threads."""

    def computed(self, name: str, compute: Compute, rows: Sequence[Tensor]) -> Tensor:
        """``compute`` of rows, one tile after the other."""
        number = len(rows[0])
        filled = [F.pad(x, (0, 0) * (x.dim() - 1) + (0, -number % self.small)) for x in rows]
        left, sizes = len(filled[0]), []
        for size in self.larger:
            if left >= size and self.may_be(size, name, compute, filled):
                sizes += [size] * (left // size)
                left %= size
        return compute(filled, sizes + [self.small] * (left // self.small) or [0])[:number]

    def may_be(self, size: int, name: str, compute: Compute, rows: Sequence[Tensor]) -> bool:
        """Tried with the first rows that would fill a tile of this size, and remembered."""
        key = name, size, torch.get_num_threads()
        if key not in self.equal:
            some = [x[:size] for x in rows]
            self.equal[key] = torch.equal(compute(some, [size]), compute(some, [self.small] * (size // self.small)))
        return self.equal[key]
