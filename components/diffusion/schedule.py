"""Noise schedules: alpha(t) is the share of tokens kept; t = 1 is noise and t = 0 is clean.

MDLM (arXiv 2406.07524). The loss weight is ``-alpha'(t) / (1 - alpha(t))``; for the log-linear
schedule it is exactly ``1 / t``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from components.diffusion.config import CosineNoiseConfig, LogLinearConfig


@runtime_checkable
class Schedule(Protocol):
    """What objectives and samplers read of a schedule."""

    def alpha(self, t: Tensor) -> Tensor:
        """Share kept at time t, same shape."""

    def weight(self, t: Tensor) -> Tensor:
        """``-alpha'(t) / (1 - alpha(t))``, same shape, in 1/time."""


@dataclass(frozen=True)
class LogLinear:
    """alpha(t) = 1 - (1 - eps) t, so that the weight is 1/t whatever eps is."""

    eps: float = 1e-3

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - (1 - self.eps) * t

    def weight(self, t: Tensor) -> Tensor:
        return 1 / t


@dataclass(frozen=True)
class Cosine:
    """alpha(t) = 1 - cos(pi (1 - t) / 2), MaskGIT's curve."""

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - torch.cos(math.pi / 2 * (1 - t))

    def weight(self, t: Tensor) -> Tensor:
        return math.pi / 2 * torch.tan(math.pi / 2 * (1 - t))


def log_linear(options: LogLinearConfig) -> Schedule:
    return LogLinear(options.eps)


def cosine(options: CosineNoiseConfig) -> Schedule:
    return Cosine()


def stratified_times(index: Tensor, num_rows: int, jitter: Tensor, t_min: float) -> Tensor:
    """Low-discrepancy times in [t_min, 1]: one per stratum of the global batch.

    MDLM draws an independent jitter per row: ``u_i = (u/n + i/n) mod 1``. The stratum follows the
    row's place in the *global* batch, so any world size and any micro-batch sees the same times.

    Args:
        index: place of each row in the global batch, [B].
        num_rows: size n of the global batch.
        jitter: uniforms [B].
    """
    u = (jitter / num_rows + index.to(jitter.dtype) / num_rows) % 1
    return (1 - t_min) * u + t_min
