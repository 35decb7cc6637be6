"""Products of matrices in 8 bits, for sampling and scoring on a CPU.

Weights by output and activations by position, both symmetrical and rounded to the nearest (the vector-wise quantization of
LLM.int8, arXiv 2208.07339, equation 7, without its outliers). With s the largest number of a position over 127, t that of an output's weights:

    y[n, o] = s[n] t[o] sum_i round(x[n, i] / s[n]) round(W[o, i] / t[o])

Sums of whole numbers are exact, so that a position's bits cannot depend on how many others are computed beside it. N positions,
D inputs, O outputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LARGEST = 127
"""Of the whole numbers; the other end is -127, so that zero lies in the middle."""
SMALLEST = 1e-30
"""What the largest number of a position is taken for where it is less, so that nothing is divided by zero."""


@dataclass(frozen=True)
class Int8:
    """A matrix [O, D] in 8 bits."""

    whole: Tensor
    """[O, D] int8."""
    scale: Tensor
    """[O]: what one is worth."""

    @classmethod
    def of(cls, weight: Tensor) -> Int8:
        """The nearest to a matrix [O, D]."""
        matrix = weight.detach().float()
        scale = matrix.abs().amax(-1).clamp_min(SMALLEST) / LARGEST
        return cls((matrix / scale[:, None]).round().to(torch.int8), scale)

    def __call__(self, x: Tensor) -> Tensor:
        """Features [..., D] times the transposed matrix: [..., O], in float32."""
        rows = x.reshape(-1, x.shape[-1])
        scale = rows.abs().amax(-1, keepdim=True).clamp_min(SMALLEST) / LARGEST
        sums = torch._int_mm((rows / scale).round().to(torch.int8), self.whole.t())
        return (sums.float() * scale * self.scale).view(*x.shape[:-1], len(self.scale))
