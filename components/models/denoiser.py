"""What objectives and samplers know of a network."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@dataclass(frozen=True)
class Prediction:
    """Raw outputs. No token is suppressed and nothing is carried over from the input: rows at
    visible positions are the network's own opinion, on which correctors live."""

    logits: Tensor
    """[B, L, V], or [N, V] for the N selected positions."""
    heads: dict[str, Tensor] = field(default_factory=dict)
    """[B, L] for each head that was asked for; quality is in [0, 1], larger is better."""
    kept: Tensor | None = None
    """Keys and values [depth, B, 2, H, L, D/H] of every position, where they were asked for."""


@dataclass(frozen=True)
class Past:
    """Keys and values that were kept of whole rows, for a call about a window of each."""

    kept: Tensor
    """[depth, R, 2, H, L, D/H]."""
    row: Tensor
    """[B]: which of the R rows each input is of."""
    start: Tensor
    """[B]: the window's first position."""

    def at(self, size: int) -> Tensor:
        """[B, W]: positions of windows of this size."""
        return self.start[:, None] + torch.arange(size, device=self.start.device)


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
        past: Past | None = None,
        keep: bool = False,
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
            past: the tokens [B, W] are those of a window of each row, which sees the rest of its row by what was kept of it;
                ``select`` counts positions of windows.
            keep: also give keys and values.
        """
