"""Rows computed in tiles, so that a row's bits do not depend on how many rows there are.

A kernel may add up a matrix product in another order where it has fewer rows, so products are of one number of them, a tile, and
what is left is filled up. Large tiles are faster (a third on a CPU) and small ones waste less: both are taken, too, where they
were seen to give the bits of usual ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Compute = Callable[[Sequence[Tensor], list[int]], Tensor]
"""Something of rows [N, ...], given that they are to be taken so many at a time: [N, ...]."""
SIZES = {"cpu": (32, (256, 128, 64), (8, 16)), "cuda": (1024, (), ())}
"""Rows of usual, of larger and of smaller tiles. A GPU's kernels are chosen by the number of rows."""


class Tiles:
    """What is known of tiles on this machine, for one network."""

    def __init__(self, usual: int, larger: Sequence[int] = (), smaller: Sequence[int] = ()):
        """``larger``: multiples of the usual size, the largest first. ``smaller``: parts of it, the smallest first."""
        self.usual, self.larger, self.smaller = usual, larger, smaller
        self.equal: dict[tuple[str, int, int], bool] = {}
        """Are the bits those in usual tiles? By what is computed, in which tiles, and by how many threads."""

    def computed(self, name: str, compute: Compute, rows: Sequence[Tensor]) -> Tensor:
        """``compute`` of rows, one tile after the other."""
        number = left = len(rows[0])
        filled = [F.pad(x, (0, 0) * (x.dim() - 1) + (0, -number % self.usual)) for x in rows]
        sizes: list[int] = []
        for size in (*self.larger, self.usual):
            if left >= size and self.may_be(size, name, compute, filled):
                sizes += [size] * (left // size)
                left %= size
        if left:
            fitting = (s for s in (*self.smaller, self.usual) if s >= left and self.may_be(s, name, compute, filled))
            sizes.append(next(fitting))
        return compute([x[: sum(sizes)] for x in filled], sizes or [0])[:number]

    def may_be(self, size: int, name: str, compute: Compute, rows: Sequence[Tensor]) -> bool:
        """Tried with the first rows that would be in a tile of this size, and remembered."""
        key = name, size, torch.get_num_threads()
        if size != self.usual and key not in self.equal:
            some = [x[: max(size, self.usual)] for x in rows]
            ways = ([n] * (len(some[0]) // n) for n in (size, self.usual))
            self.equal[key] = torch.equal(*(compute(some, sizes) for sizes in ways))
        return size == self.usual or self.equal[key]
