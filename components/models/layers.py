"""Layers of the transformer. B rows, L positions, D width, H heads."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.models import lean
from components.models.config import ModelConfig
from components.models.denoiser import Past
from components.models.int8 import Int8
from components.models.segments import Segments


class Linear(nn.Linear):
    """A linear layer whose weights may be constants: ``frozen`` layers pass gradients on and get none. Those that are kept ``in8``
    bits have no others."""

    frozen = False
    in8: Callable[[Tensor], Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.in8 is not None:
            return self.in8(x)
        if not self.frozen:
            return super().forward(x)
        return F.linear(x, self.weight.detach(), None if self.bias is None else self.bias.detach())


class Norm(nn.RMSNorm):
    """The same for a norm."""

    frozen = False
    may_differ = True

    def __init__(self, dim: int, eps: float):
        super().__init__(dim, eps)
        self.eps: float = eps

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.detach() if self.frozen else self.weight
        if self.may_differ and lean.learns(x):
            return lean.norm(x, weight, self.eps)
        return F.rms_norm(x, self.normalized_shape, weight, self.eps)


class Embedding(nn.Embedding):
    """The same for a table."""

    frozen = False

    def forward(self, x: Tensor) -> Tensor:
        return F.embedding(x, self.weight.detach()) if self.frozen else super().forward(x)


class ClassEmbedding(Embedding):
    """A vector for each class, and one for rows without: classes [B], NaN for none, to [B, D]."""

    def __init__(self, num_classes: int, dim: int):
        super().__init__(num_classes + 1, dim)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.where(x.isnan(), self.num_embeddings - 1, x).long())


class ValueEmbedding(nn.Module):
    """Values of a property [B], NaN for none, to [B, D]: a smooth function of where they lie between two bounds, so that
    what was learned of one value holds near it, too."""

    def __init__(self, bounds: tuple[float, ...], dim: int):
        super().__init__()
        self.low, self.high = bounds
        self.value = TimeEmbedding(dim, fastest=SMOOTH)
        self.missing_embed = Embedding(1, dim)

    def forward(self, x: Tensor) -> Tensor:
        missing = x.isnan()
        place = torch.where(missing, 0, (x - self.low) / (self.high - self.low))
        without = self.missing_embed(missing.new_zeros(len(x), dtype=torch.int64))
        return torch.where(missing[:, None], without, self.value(place))


SMOOTH = 30.0
"""Radians by which the fastest wave of a value turns between its bounds."""


def keep_bits(module: nn.Module) -> None:
    """Have layers make the same bits whether they learn or not, for what compares the two."""
    for layer in module.modules():
        if isinstance(layer, Norm | Attention | Gated):
            layer.may_differ = False


def keep_in_int8(module: nn.Module) -> None:
    """Have the linear layers of a module that add no bias multiply in 8 bits, and forget their other weights."""
    for layer in module.modules():
        if isinstance(layer, Linear) and layer.bias is None:
            layer.in8 = Int8.of(layer.weight)
            layer.register_parameter("weight", None)


@dataclass
class Memory:
    """Keys and values, layer by layer, during one forward: those of whole rows are kept, or those of windows are joined with
    what was kept of the rest of their rows."""

    past: Past | None
    kept: list[Tensor] = field(default_factory=list)
    """[B, 2, H, L, D/H] of each layer so far."""

    def joined(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [B, H, L, D/H] of whole rows, given those of the next layer: of whole rows, or of windows."""
        both = torch.stack([k, v], 1)
        if self.past is not None:
            at = self.past.at(k.shape[2])[:, None, None, :, None].expand(both.shape)
            both = self.past.kept[len(self.kept)].index_select(0, self.past.row).scatter(3, at, both)
        self.kept.append(both)
        return both[:, 0], both[:, 1]


class Block(nn.Module):
    def __init__(self, config: ModelConfig, conditioned: bool):
        super().__init__()
        self.norm_attention = Norm(config.dim, eps=config.norm_eps)
        self.attention = Attention(config)
        self.norm_mlp = Norm(config.dim, eps=config.norm_eps)
        self.mlp = SwiGLU(config)
        self.dropout = config.dropout
        self.modulation = Linear(config.dim, 6 * config.dim) if conditioned else None

    def forward(
        self,
        x: Tensor,
        rope: tuple[Tensor, Tensor],
        condition: Tensor | None,
        visible: Tensor | Segments | None = None,
        memory: Memory | None = None,
    ) -> Tensor:
        changes = self.changes(condition, visible)
        return self.write(x, self.attend(x, rope, changes, visible, memory), changes)

    def changes(self, condition: Tensor | None, visible: Tensor | Segments | None) -> Tensor | None:
        """Shift, scale and gate of both halves [B, 1, 6, D], by what the rows are conditioned on [B, D]; [1, N, 6, D] of segments."""
        if self.modulation is None or condition is None:
            return None
        changes: Tensor = self.modulation(condition).unflatten(-1, (6, -1))
        return changes[visible.row][None] if isinstance(visible, Segments) else changes[:, None]

    def attend(
        self,
        x: Tensor,
        rope: tuple[Tensor, Tensor],
        changes: Tensor | None,
        visible: Tensor | Segments | None = None,
        memory: Memory | None = None,
    ) -> Tensor:
        """What each position finds in the others: [B, L, D] to the same."""
        normed = self.norm_attention(x)
        if changes is not None:
            shift, scale, *_ = changes.unbind(-2)
            normed = normed * (1 + scale) + shift
        found: Tensor = self.attention(normed, rope, visible, memory)
        return found

    def write(self, x: Tensor, found: Tensor, changes: Tensor | None) -> Tensor:
        """What becomes of positions [..., D] by what they found, each by itself."""
        written = F.dropout(self.attention.out(found), self.dropout, self.training)
        if changes is None:
            x = x + written
            return x + F.dropout(self.mlp(self.norm_mlp(x)), self.dropout, self.training)
        _, _, gate1, shift, scale, gate2 = changes.unbind(-2)
        x = x + (1 + gate1) * written
        widened = self.mlp(self.norm_mlp(x) * (1 + scale) + shift)
        return x + (1 + gate2) * F.dropout(widened, self.dropout, self.training)


class Attention(nn.Module):
    """Full attention: every position sees every other, padding included, unless ``visible`` [B or 1, L, all] or the segments that the
    positions [1, N] are of say otherwise. ``out`` is left to the block, which may want it at a few positions only.

    On a CPU the product is written out: torch's blocked kernel makes many small ones, several times slower on the faster route.
    """

    may_differ = True

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.heads = config.heads
        self.qkv = Linear(config.dim, 3 * config.dim, bias=False)
        self.adapter = LowRank(config.dim, 3 * config.dim, config.adapter_rank) if config.adapter_rank else None
        self.out = Linear(config.dim, config.dim, bias=False)

    def forward(
        self, x: Tensor, rope: tuple[Tensor, Tensor], visible: Tensor | Segments | None = None, memory: Memory | None = None
    ) -> Tensor:
        projected = self.qkv(x) if self.adapter is None else self.qkv(x) + self.adapter(x)
        if not isinstance(visible, Segments):
            return self.attended(projected, rope, visible, memory)
        if not visible.most:
            return visible.attend(projected, rope, self.attended)
        qkv = self.by_head(projected)
        return visible.attend_in_one(qkv[2], *rotate(qkv[:2], rope)).transpose(1, 2).flatten(2)

    def by_head(self, projected: Tensor) -> Tensor:
        """[B, L, 3 D] to [3, B, H, L, D/H]."""
        return projected.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)

    def attended(
        self, projected: Tensor, rope: tuple[Tensor, Tensor], visible: Tensor | None = None, memory: Memory | None = None
    ) -> Tensor:
        """What each position [B, L, D] finds in the others, given queries, keys and values [B, L, 3 D]."""
        if self.may_differ and memory is None and lean.learns(projected):
            return lean.attend(projected, rope, self.heads, visible)
        qkv = self.by_head(projected)
        (q, k), v = rotate(qkv[:2], rope), qkv[2]
        if memory is not None:
            k, v = memory.joined(k, v)
        mask = None if visible is None else visible[:, None]
        if q.is_cuda:
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        else:
            scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
            if mask is not None:
                scores = scores.masked_fill(~mask, float("-inf"))
            attended = torch.softmax(scores, dim=-1) @ v
        return attended.transpose(1, 2).flatten(2)


class LowRank(nn.Module):
    """A change of a matrix by a product of two thin ones (LoRA, arXiv 2106.09685); it starts at zero."""

    def __init__(self, width: int, out: int, rank: int):
        super().__init__()
        self.down = Linear(width, rank, bias=False)
        self.up = Linear(rank, out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        changed: Tensor = self.up(self.down(x))
        return changed


class SwiGLU(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        self.gate_up = Linear(config.dim, 2 * config.mlp_dim, bias=False)
        self.down = Gated(config.mlp_dim, config.dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.down(self.gate_up(x))
        return mixed


class Gated(Linear):
    """A linear layer of ``silu(gate) * up``, given both side by side."""

    may_differ = True

    def forward(self, gate_up: Tensor) -> Tensor:
        if self.may_differ and lean.learns(gate_up):
            return lean.gated_linear(gate_up, self.weight.detach() if self.frozen else self.weight)
        gate, up = gate_up.chunk(2, dim=-1)
        return super().forward(F.silu(gate) * up)


class TimeEmbedding(nn.Module):
    """Sinusoids of the time in [0, 1], then two layers. The fastest turns by so many radians over the range."""

    def __init__(self, dim: int, num_frequencies: int = 64, fastest: float = 1000.0):
        super().__init__()
        self.num_frequencies = num_frequencies
        self.fastest = fastest
        self.layers = nn.Sequential(Linear(2 * num_frequencies, dim), nn.SiLU(), Linear(dim, dim))

    def forward(self, time: Tensor) -> Tensor:
        exponents = torch.arange(self.num_frequencies, device=time.device) / self.num_frequencies
        angles = time[:, None].float() * self.fastest * torch.exp(-math.log(10000.0) * exponents)
        waves = torch.cat([angles.cos(), angles.sin()], dim=-1)
        dtype = next(self.layers.parameters()).dtype
        projected: Tensor = self.layers(waves.to(dtype))
        return projected


def rotary_table(positions: Tensor, config: ModelConfig, like: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines [..., D/H/2] of RoPE (arXiv 2104.09864) at positions [...]."""
    half = config.dim // config.heads // 2
    frequencies = config.rope_theta ** (-torch.arange(half, device=like.device, dtype=torch.float32) / half)
    angles = positions.float()[..., None] * frequencies
    return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


def rotate(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """Turn the two halves of each head by the position's angles. [..., L, D/H] -> same."""
    cos, sin = rope
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
