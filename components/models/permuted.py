"""Prediction in an order: who sees whom."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Permuted:
    """Rows predicted in an order of their own (MaPeT, arXiv 2306.07346).

    The row is repeated: its content, a mask at every position (so that the number and the places of
    the unknowns are known), and, in the two-stream form, a query at every position. Nobody sees a query, so
    content and mask rows are the paper's content stream and queries its query stream, with shared weights.
    """

    rank: Tensor
    """[B, L]: place in the order; 0 is context, which everybody sees."""
    mask_id: int
    two_streams: bool = True
    """False: mask rows are the queries, and see no later mask row, which would leak."""

    @property
    def copies(self) -> int:
        return 3 if self.two_streams else 2

    def rows(self, tokens: Tensor) -> Tensor:
        """[B, copies x L]."""
        masks = torch.full_like(tokens, self.mask_id)
        return torch.cat([tokens, *[masks] * (self.copies - 1)], dim=1)

    def visible(self) -> Tensor:
        """[B, copies x L, copies x L] bool: may the row see the column?"""
        rank = self.rank
        own = torch.eye(rank.shape[1], dtype=torch.bool, device=rank.device)[None]
        known, unknown = (rank == 0)[:, None, :], (rank > 0)[:, None, :]
        earlier = known | (rank[:, None, :] < rank[:, :, None])
        nothing = torch.zeros_like(earlier)
        if not self.two_streams:
            past = unknown & (rank[:, None, :] <= rank[:, :, None])
            content = torch.cat([earlier | own, nothing | (past & ~own)], dim=2)
            query = torch.cat([earlier, past | own], dim=2)
            return torch.cat([content, query], dim=1)
        later = unknown & (rank[:, None, :] >= rank[:, :, None])
        content = torch.cat([earlier | own, later, nothing], dim=2)
        mask = torch.cat([known.expand_as(earlier), unknown | own, nothing], dim=2)
        query = torch.cat([earlier, later | own, nothing], dim=2)
        return torch.cat([content, mask, query], dim=1)
