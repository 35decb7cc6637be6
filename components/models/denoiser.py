"""What objectives and samplers know of a network."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from torch import Tensor


@dataclass(frozen=True)
class Prediction:
    """Raw outputs. No token is suppressed and nothing is carried over from the input: rows at
    visible positions are the network's own opinion, on which correctors live."""

    logits: Tensor
    """[B, L, V], or [N, V] for the N selected positions."""
    heads: dict[str, Tensor] = field(default_factory=dict)
    """[B, L] for each head that was asked for; quality is in [0, 1], larger is better."""


@runtime_checkable
class Denoiser(Protocol):
    """A network, or an oracle in its place."""

    def __call__(
        self,
        tokens: Tensor,
        *,
        select: Tensor | None = None,
        label: Tensor | None = None,
        time: Tensor | None = None,
        soft: tuple[Tensor, Tensor] | None = None,
        dense: Tensor | None = None,
        heads: tuple[str, ...] = (),
    ) -> Prediction:
        """Predict.

        Args:
            tokens: [B, L] int64, masks included.
            select: flat positions (row * L + position) [N] whose logits are wanted; None wants all.
            label: class of each row, or value of its property, [B] float; NaN for none.
            time: [B] in [0, 1]; read by time-conditioned networks only.
            soft: (ids [B, L, K], weights [B, L, K]): mixtures of embeddings seen instead of the tokens.
            dense: [B, L, D]: noisy embeddings seen instead, for networks with an encoder for them.
            heads: names of the heads whose outputs are wanted.
        """
