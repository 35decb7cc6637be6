"""Rows that are written in blocks, from left to right."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from components.samplers.config import BlocksConfig
from components.samplers.contract import Vocabulary, Window
from components.samplers.owners import Start
from components.samplers.state import Field, State, Written, write
from components.samplers.view import View


class Blocks:
    """Keeps the number of the ``block`` that each row has begun, -1 before the first; and with a cache the tokens ``cached``
    that the network saw when keys and values were kept, -1 before that, and the calls since as ``cache_age``.

    The rule of the cache (Fast-dLLM's, arXiv 2505.22618, is the first two of four): the row is computed whole where a block
    begins; every ``refresh`` calls; where any token outside the block is another one than was seen, whoever wrote it; and
    where anything outside is read, as correctors do. Else the block is computed alone.

    Of a network that sees in attention blocks, what is computed are whole ones of these, so that what was kept of those before is
    what it would be now: none of it saw what was written since. Blocks are counted from the attention block in which the
    first position that is not fixed lies, and so begin and end with attention blocks where one length divides the other.
    """

    def __init__(self, config: BlocksConfig, vocabulary: Vocabulary, attention_block: int = 0):
        self.config, self.length = config, config.length
        self.grain = attention_block or 1
        """What a window is made of, in positions; blocks are counted from a multiple of it."""
        self.mask_id = vocabulary.mask_id
        self.end_id = vocabulary.end_id if config.length and config.early_end else None

    def begin(self, start: Start) -> dict[str, Field]:
        none = torch.zeros_like(start.keys[:, 0]) - 1
        if not self.config.cache:
            return {"block": Field(none)}
        return {"block": Field(none), "cached": Field(torch.full_like(start.canvas, -1)), "cache_age": Field(none + 1)}

    def update(self, state: State, written: Written, view: View, steps: int) -> Mapping[str, Tensor]:
        return {}

    def number(self, fixed: Bool[Tensor, "R L"]) -> Int[Tensor, "R L"]:
        """Block of each position; all 0 without blocks."""
        if not self.length:
            return torch.zeros_like(fixed, dtype=torch.int64)
        position = torch.arange(fixed.shape[1], device=fixed.device)
        return (position - self.first(fixed)[:, None]).clamp(min=0) // self.length

    def first(self, fixed: Bool[Tensor, "R L"]) -> Int[Tensor, "R"]:
        """Where blocks begin: at the first position that is not fixed, or with the attention block that it lies in."""
        free = (~fixed).long().argmax(-1)
        return free - free % self.grain

    def size(self, length: int) -> int:
        """Positions of the window in rows of this length: so many that whole attention blocks hold any block, and that a window
        which ends with the row begins with an attention block, too."""
        spanned = self.length + self.grain - math.gcd(self.length, self.grain)
        return min(length, -(-spanned // self.grain) * self.grain + length % self.grain)

    def scope(
        self, fixed: Bool[Tensor, "R L"], masked: Bool[Tensor, "R L"]
    ) -> tuple[Bool[Tensor, "R L"], Bool[Tensor, "R L"], Int[Tensor, "R"]]:
        """(window: masks of the active block; reach: positions up to its end; its number)."""
        block = self.number(fixed)
        last = block[:, -1]
        active = torch.where(masked, block, last[:, None] + 1).amin(-1)
        return masked & (block == active[:, None]), block <= active[:, None], active

    def window(self, state: State, shown: Int[Tensor, "R L"], read: Bool[Tensor, "R L"]) -> Window:
        """The block of each row, with what its attention blocks have besides, and whether it is enough.

        Args:
            shown: what the network will be asked about.
            read: where its answer will be read.
        """
        length = shown.shape[1]
        size = self.size(length)
        begin = self.first(state.fixed) + state["block"].clamp(min=0) * self.length
        start = (begin - begin % self.grain).clamp(max=length - size)[:, None]
        position = torch.arange(length, device=shown.device)
        end = torch.where(start + size < length, start + size // self.grain * self.grain, length)
        inside = (position >= start) & (position < end)
        narrow = (inside | (~read & (shown == state["cached"]))).all(-1)
        if self.config.refresh:
            narrow = narrow & (state["cache_age"] < self.config.refresh)
        # What a corrector's loop looks at is no canvas: its masks are filled.
        return Window(start[:, 0], size, narrow, ~narrow & (state.inner == 0))

    def cached(self, state: State, shown: Int[Tensor, "R L"], window: Window | None, called: Bool[Tensor, "R"]) -> dict[str, Tensor]:
        """What is in the cache after a call of some rows."""
        if window is None:
            return {}
        kept = called & window.kept
        age = torch.where(kept, 1, state["cache_age"] + called.long())
        return {"cached": torch.where(kept[:, None], shown, state["cached"]), "cache_age": age}

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
