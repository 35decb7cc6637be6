"""What objectives and samplers know of a network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class Prediction:
    """Raw outputs. No token is suppressed and nothing is carried over from the input: rows at
    visible positions are the network's own opinion, on which correctors live."""

    logits: Tensor
    """[B, L, V], or [N, V] for the N selected positions."""
    hidden: Tensor
    """[B, L, D], after the last norm."""


class Denoiser(Protocol):
    """A network, or an oracle in its place."""

    def __call__(
        self,
        tokens: Tensor,
        *,
        select: Tensor | None = None,
        label: Tensor | None = None,
        time: Tensor | None = None,
    ) -> Prediction:
        """Predict.

        Args:
            tokens: [B, L] int64, masks included.
            select: flat positions (row * L + position) [N] whose logits are wanted; None wants all.
            label: class of each row [B], ``num_classes`` for none.
            time: [B] in [0, 1]; read by time-conditioned networks only.
        """
