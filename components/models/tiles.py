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
        sizes: list[int] = []
        for size in (*self.larger, self.usual):
            if left >= size and self.may_be(size, name, compute, rows):
                sizes += [size] * (left // size)
                left %= size
        if left:
            fitting = (s for s in (*self.smaller, self.usual) if s >= left and self.may_be(s, name, compute, rows))
            sizes.append(next(fitting))
        if more := sum(sizes) - number:
            rows = [F.pad(x, (0, 0) * (x.dim() - 1) + (0, more)) for x in rows]
        return compute(rows, sizes or [0])[:number]

    def may_be(self, size: int, name: str, compute: Compute, rows: Sequence[Tensor]) -> bool:
        """Tried with random rows like these, and remembered."""
        key = name, size, torch.get_num_threads()
        if size != self.usual and key not in self.equal:
            number = max(size, self.usual)
            some = [random_rows(number, x) for x in rows]
            one, other = (compute(some, [n] * (number // n)).contiguous() for n in (size, self.usual))
            self.equal[key] = torch.equal(one.view(torch.uint8), other.view(torch.uint8))
        return size == self.usual or self.equal[key]


def random_rows(number: int, like: Tensor) -> Tensor:
    """So many rows of features as in ``like``, no two of them equal; of whole numbers zeros."""
    if not like.is_floating_point():
        return like.new_zeros(number, *like.shape[1:])
    generator = torch.Generator(like.device).manual_seed(0)
    return torch.randn(number, *like.shape[1:], generator=generator, device=like.device, dtype=like.dtype)
