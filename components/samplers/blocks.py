"""Rows that are written in blocks, from left to right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from components.samplers.config import BlocksConfig
from components.samplers.contract import Vocabulary
from components.samplers.owners import Start
from components.samplers.state import Field, State, Written, write
from components.samplers.view import View


class Blocks:
    """Keeps the number of the ``block`` that each row has begun, -1 before the first."""

    def __init__(self, config: BlocksConfig, vocabulary: Vocabulary):
        self.length = config.length
        self.mask_id = vocabulary.mask_id
        self.end_id = vocabulary.end_id if config.length and config.early_end else None

    def begin(self, start: Start) -> dict[str, Field]:
        return {"block": Field(torch.zeros_like(start.keys[:, 0]) - 1)}

    def update(self, state: State, written: Written, view: View, steps: int) -> Mapping[str, Tensor]:
        return {}

    def number(self, fixed: Bool[Tensor, "R L"]) -> Int[Tensor, "R L"]:
        """Block of each position, counted from the first that is not fixed; all 0 without blocks."""
        if not self.length:
            return torch.zeros_like(fixed, dtype=torch.int64)
        position = torch.arange(fixed.shape[1], device=fixed.device)
        first = (~fixed).long().argmax(-1, keepdim=True)
        return (position - first).clamp(min=0) // self.length

    def scope(
        self, fixed: Bool[Tensor, "R L"], masked: Bool[Tensor, "R L"]
    ) -> tuple[Bool[Tensor, "R L"], Bool[Tensor, "R L"], Int[Tensor, "R"]]:
        """(window: masks of the active block; reach: positions up to its end; its number)."""
        block = self.number(fixed)
        last = block[:, -1]
        active = torch.where(masked, block, last[:, None] + 1).amin(-1)
        return masked & (block == active[:, None]), block <= active[:, None], active

    def end_early(self, state: State) -> tuple[State, Bool[Tensor, "R L"]]:
        """Fill what follows an end token with nothing masked before it; says where."""
        none = torch.zeros_like(state.fixed)
        if self.end_id is None:
            return state, none
        masked = (state.tokens == self.mask_id) & ~state.fixed
        decided = masked.cumsum(-1) == 0
        ends = (state.tokens == self.end_id) & ~state.fixed & decided
        written = write(
            state,
            reveal=masked & ends.any(-1, keepdim=True) & ((state.inner == 0) & state.active)[:, None],
            revealed=torch.full_like(state.tokens, self.end_id),
            replace=none,
            replacement=state.tokens,
            remask=none,
            mask_id=self.mask_id,
        )
        confidence = state.confidence.masked_fill(written.revealed, 1)
        return replace(state, tokens=written.tokens, confidence=confidence), written.revealed
