"""Heads: the logits or their loss, token quality, and what to unmask."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.diffusion.categorical import room
from components.models import lean
from components.models.config import ModelConfig
from components.models.judging import Judge, judge_features
from components.models.layers import Block, Linear, Norm, TimeEmbedding, keep_bits, rotary_table
from components.models.segments import Segments, segments_of

CACHED = 1 << 20
"""Weights of a part of the vocabulary."""


class Head(Linear):
    """Logits [..., V] of features [..., D]; or, in the same one call, what a judge asks of features [N, D]."""

    def __init__(self, dim: int, vocab_size: int):
        super().__init__(dim, vocab_size, bias=False)

    def forward(self, x: Tensor, judge: Judge | None = None) -> Tensor | tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        if judge is None:
            return super().forward(x)
        return judge_features(x, self.weight.detach() if self.frozen else self.weight, judge)

    @torch.no_grad()
    def in_tiles(self, rows: Sequence[Tensor], sizes: list[int]) -> Tensor:
        """Logits [N, V] of features [N, D], see ``components.models.tiles``: each tile's are written where they belong, and none is
        copied but in a cache."""
        (wanted,) = rows
        if self.in8 is not None:  # whose bits are the same in any tile
            return self.in8(wanted)
        logits = room(wanted, len(wanted), len(self.weight), torch.promote_types(wanted.dtype, torch.float32))
        # On a CPU a part of the vocabulary stays in the caches while all tiles are multiplied by it.
        words = len(self.weight) if wanted.is_cuda else max(1, CACHED // wanted.shape[1])
        for weight, some in zip(self.weight.split(words), logits.split(words, dim=1), strict=True):
            for features, place in zip(wanted.split(sizes), some.split(sizes), strict=True):
                lean.write_product(place, features, weight.T)
        return logits


class QualityHead(nn.Module):
    """How likely each token of the row is to be right, given the others (PRISM, arXiv 2510.01384): blocks, then
    a line to one logit. It starts at 1/2 everywhere."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.blocks = nn.ModuleList(Block(config, conditioned=False) for _ in range(config.quality_layers))
        self.norm = Norm(config.dim, eps=config.norm_eps)
        self.modulation = Linear(config.dim, 1)  # named so that it starts at zero

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], visible: Tensor | Segments | None = None) -> Tensor:
        """Logits [B, L], of the trunk's last features [B, L, D], whose positions see what ``visible`` [1, L, L] says."""
        for block in self.blocks:
            x = block(x, rope, None, visible)
        logits: Tensor = self.modulation(self.norm(x))[..., 0]
        return logits


class PolicyNet(nn.Module):
    """What to unmask (arXiv 2512.09106): confidence, mask and time of every position in, one logit a position out.

    One block of width 128 over (confidence, mask) features, conditioned on the time, and an output bias of -2:
    it starts by revealing a masked position with probability sigmoid(-2 / tau). About 0.3M parameters.
    Departure: the time's sinusoids have usual frequencies; the released ones are degenerate (max_period = 1).
    """

    def __init__(self, dim: int = 128, heads: int = 2, start_bias: float = -2.0):
        super().__init__()
        self.config = ModelConfig(dim=dim, depth=1, heads=heads, mlp_dim=4 * dim).resolved()
        self.features = Linear(2, dim)
        self.time_embed = TimeEmbedding(dim)
        self.block = Block(self.config, conditioned=True)
        self.norm = Norm(dim, eps=1e-6)
        self.out = Linear(dim, 1)
        keep_bits(self)  # its likelihood of a rollout is held against that at the time of the rollout
        modulation = self.block.modulation
        assert modulation is not None
        for parameter in (*modulation.parameters(), self.out.weight):
            nn.init.zeros_(parameter)
        nn.init.constant_(self.out.bias, start_bias)

    def forward(self, confidence: Tensor, masked: Tensor, time: Tensor, sizes: Tensor | None = None) -> Tensor:
        """Reveal logits [B, L], given the network's confidence [B, L], masked [B, L] bool and time [B], of rows of so many
        positions [B], or L."""
        dtype = self.features.weight.dtype
        x = self.features(torch.stack([confidence, masked.to(confidence)], dim=-1).to(dtype))
        condition = F.silu(self.time_embed(time))
        segments = None if sizes is None else segments_of(sizes, x, self.config)
        x = x if segments is None else segments.packed(x)
        at = torch.arange(x.shape[1], device=x.device) if segments is None else segments.position
        x = self.block(x, rotary_table(at, self.config, x), condition, segments)
        logits: Tensor = self.out(self.norm(x))[..., 0]
        return logits if segments is None else segments.spread(logits)
