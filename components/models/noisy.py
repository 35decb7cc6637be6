"""The encoder of noisy embeddings."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from components.models.config import ModelConfig


class NoisyEncoder(nn.Module):
    """DSL's input (arXiv 2602.16169): a posterior over the vocabulary from a noisy unit-norm embedding z,
    and the expected token embedding under it.

        P = softmax(z K^T / sqrt(d) + b),  K unit-norm rows, the mask's row 0;  input = P E

    With unit norms z alone decides, whatever its signal-to-noise ratio is. At z = 0 the mask has
    99% of the posterior: b_mask = log(99 (V - 1)).
    """

    def __init__(self, config: ModelConfig, vocab_size: int):
        super().__init__()
        self.gamma_max, self.mask_id = config.gamma_max, config.mask_id
        self.directions_embed = nn.Parameter(torch.randn(vocab_size, config.noise_dim))

    def table(self) -> Tensor:
        """[V, d]: unit rows, the mask's zero."""
        table = nn.functional.normalize(self.directions_embed, dim=-1)
        return table.masked_fill(self.is_mask()[:, None], 0)

    def is_mask(self) -> Tensor:
        return torch.arange(len(self.directions_embed), device=self.directions_embed.device) == self.mask_id

    def written(self, tokens: Tensor) -> Tensor:
        """z [B, L, d] of tokens at the largest ratio, of masks at 0."""
        return self.gamma_max * self.table()[tokens]

    def noisy(self, tokens: Tensor, gamma: Tensor, eps: Tensor) -> Tensor:
        """z = gamma e + sqrt(gamma) eps [B, L, d]; gamma [B, L]."""
        scale = gamma[..., None].to(eps)
        return scale * self.table()[tokens] + scale.sqrt() * eps

    def forward(
        self, tokens: Tensor, dense: Tensor | None = None, evidence: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """P [B, L, V], of written tokens, or of given z, or of noisy embeddings of the tokens."""
        if evidence is not None:
            dense = self.noisy(tokens, *evidence)
        z = self.written(tokens) if dense is None else dense
        size, width = self.directions_embed.shape
        bias = self.is_mask() * math.log(99 * (size - 1))
        logits = z.float() @ self.table().float().T / math.sqrt(width) + bias
        return torch.softmax(logits, dim=-1)
