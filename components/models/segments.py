"""Who sees whom: rows of several lengths side by side with nothing between them, and attention blocks.

Everything but attention looks at a position alone, so rows need no padding there; attention takes each row by itself, all
rows of a length that stand together at once, or, on a GPU, all rows in one kernel. B rows of at most L positions, N positions of all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

from components.models.config import ModelConfig

Attended = Callable[[Tensor, tuple[Tensor, Tensor], Tensor | None], Tensor]
"""What whole rows [R, S, 3 D] find in themselves, given a rotary table and who sees whom: [R, S, D]."""


Pairs = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Segments:
    """Where the rows of a batch [B, L] lie when they are one row [1, N]."""

    sizes: tuple[int, ...]
    """Positions of each row."""
    length: int
    """L."""
    row: Tensor
    """[N]: which row each position is of."""
    position: Tensor
    """[N]: of each in its row."""
    ends: Tensor
    """[B + 1] int32: where rows end, from 0 on."""
    attention_block: int
    """Of the network; 0 where everything is seen."""
    most: int
    """No row is longer, for a GPU's kernel that attends to all rows at once; 0 where there is none."""

    def packed(self, x: Tensor) -> Tensor:
        """[B, L, ...] to [1, N, ...]."""
        return x.flatten(0, 1).index_select(0, self.row * self.length + self.position)[None]

    def spread(self, x: Tensor) -> Tensor:
        """[1, N, ...] to [B, L, ...], zeros where no row is."""
        everywhere = x.new_zeros(len(self.sizes) * self.length, *x.shape[2:])
        return everywhere.index_copy(0, self.row * self.length + self.position, x[0]).unflatten(0, (-1, self.length))

    def places(self, select: Tensor) -> Tensor:
        """Flat positions (row * L + position), of which each exists, to places among the N."""
        return self.ends.index_select(0, select // self.length) + select % self.length

    def at_firsts(self, first: Tensor, others: Tensor) -> Tensor:
        """[1, N, ...]: ``first`` of rows' first positions, and ``others`` of all others."""
        return torch.where((self.position == 0)[:, None], first, others)

    def shown(
        self, tokens: Tensor, soft: Pairs | None, dense: Tensor | None, evidence: Pairs | None
    ) -> tuple[Tensor, Pairs | None, Tensor | None, Pairs | None]:
        """All that a network may be shown of a batch, packed; see ``Transformer.forward``."""
        soft, evidence = (None if pair is None else (self.packed(pair[0]), self.packed(pair[1])) for pair in (soft, evidence))
        return self.packed(tokens), soft, None if dense is None else self.packed(dense), evidence

    def answer(self, logits: Tensor, outputs: dict[str, Tensor], whole: bool) -> tuple[Tensor, dict[str, Tensor]]:
        """What a network found, by row: heads' outputs, and logits where they are of ``whole`` rows."""
        return self.spread(logits) if whole else logits, {name: self.spread(output) for name, output in outputs.items()}

    def attend(self, projected: Tensor, rope: tuple[Tensor, Tensor], attended: Attended) -> Tensor:
        """What rows find in themselves [1, N, D]: rows that stand together and are of one size at once."""
        runs = [(size, len(list(rows))) for size, rows in groupby(self.sizes)]
        found, begin = [], 0
        for (size, number), part in zip(runs, projected[0].split([size * number for size, number in runs]), strict=True):
            table = rope[0][begin : begin + size], rope[1][begin : begin + size]
            mask = blocks_seen(torch.arange(size, device=part.device), size, self.attention_block)
            found.append(attended(part.unflatten(0, (number, size)), table, mask).flatten(0, 1))
            begin += size * number
        return torch.cat(found)[None]

    def attend_in_one(self, v: Tensor, q: Tensor, k: Tensor) -> Tensor:
        """Attention [1, H, N, K] within rows by one kernel."""
        q, k, v = (x[0].transpose(0, 1).to(v.dtype) for x in (q, k, v))
        found: Tensor = varlen_attn(q, k, v, self.ends, self.ends, self.most, self.most)  # type: ignore[assignment]
        return found.transpose(0, 1)[None]


def segments_of(sizes: Tensor, batch: Tensor, config: ModelConfig) -> Segments:
    """Of a batch [B, L, ...] for such a network, whose rows are so many positions [B] each, from the first on."""
    position = torch.cat([torch.arange(size) for size in sizes.tolist()])
    row, ends = torch.arange(len(sizes)).repeat_interleave(sizes), F.pad(sizes.cumsum(0), (1, 0)).int()
    row, position, ends = (x.to(batch.device) for x in (row, position, ends))
    # The kernel takes half precision alone. Compiled blocks are made anew for another number, so it is one of few.
    fits = batch.is_cuda and torch.is_autocast_enabled("cuda") and fits_kernel(config)
    most = 1 << (batch.shape[1] - 1).bit_length() if fits else 0
    return Segments(tuple(sizes.tolist()), batch.shape[1], row, position, ends, config.attention_block, most)


def fits_kernel(config: ModelConfig) -> bool:
    """Does a network attend as the kernel can, to all of a row, by heads that are no wider?"""
    width = config.dim // config.heads
    return not config.attention_block and width % 8 == 0 and width <= 256


def blocks_seen(at: Tensor, length: int, size: int) -> Tensor | None:
    """[B or 1, W, L] bool: which of a row's positions do those at [B, W] or [W] see, in attention blocks of this size? None where
    that is all."""
    if not size:
        return None
    seen = torch.arange(length, device=at.device) // size
    return seen <= (at // size).view(-1, at.shape[-1], 1)


def rows_seen(sizes: Tensor, length: int, copies: int, device: torch.device) -> Tensor:
    """[B, L', L'] bool of rows that were repeated so many times: what exists is seen, and each position by itself."""
    there = (torch.arange(length, device=device) < sizes.to(device)[:, None]).repeat(1, copies)
    return there[:, None] | torch.eye(there.shape[1], dtype=torch.bool, device=device)
