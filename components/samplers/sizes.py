"""Forwards of fewer inputs that give the same bits.

A kernel may add up a matrix product in another order where there are fewer rows, so forwards that are not full are filled
up (see ``components.samplers.forward``), and a single row costs as much as all lanes. Most of a CPU's kernels take each row's sums
in one order, however many rows there are, and then nothing needs filling up. That is tried and not assumed: the first time
that fewer inputs would do, some are computed in both ways, and forwards of that size are made from then on if no bit differs.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping

import torch
from torch import Tensor

PLACES = 32
"""Positions of an input whose logits are compared; each of them has seen all others by attention."""


class Sizes:
    """Numbers of inputs that were tried for one network, on this machine and with its threads."""

    def __init__(self) -> None:
        self.equal: dict[tuple[Hashable, int, int, int], bool] = {}
        """By what is asked, inputs of a full forward, of this one, and threads."""

    def of(self, asked: Hashable, needed: int, lanes: int, try_it: Callable[[int], bool]) -> int:
        """The least power of two that ``needed`` inputs fit into and whose forwards have the bits of full ones, which have
        ``lanes`` inputs; ``asked`` tells forwards apart that compute other things."""
        size = 1 << (needed - 1).bit_length()
        while size < lanes:
            key = asked, lanes, size, torch.get_num_threads()
            if key not in self.equal:
                self.equal[key] = try_it(size)
            if self.equal[key]:
                return size
            size *= 2
        return lanes


def places_of(span: int, device: torch.device) -> Tensor:
    """Positions [P] of an input that are compared, spread over it."""
    return torch.linspace(0, span - 1, min(span, PLACES), device=device).long()


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """To the bit, what is no number included?"""
    return all(torch.equal(bits(one[name]), bits(other[name])) for name in one)


def bits(x: Tensor) -> Tensor:
    return x.contiguous().view(torch.uint8)
