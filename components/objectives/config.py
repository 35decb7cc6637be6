"""Options of the objectives, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class MdlmConfig:
    """Masked diffusion."""

    weight: Literal["schedule", "flat"] = "schedule"
    """``schedule`` is the likelihood bound, 1/t for log-linear; ``flat`` weighs every time alike."""


@dataclass(frozen=True)
class ProsecoConfig:
    """Joint unmasking and correction. Section and option names follow the paper's own."""

    mdm_weight: float = 1.0
    corrector_weight: float = 1.0
    weight: Literal["schedule", "flat"] = "schedule"
    """Weight of both terms over time: w(t), or 1."""
    corrector_time_weight: Literal["schedule", "flat"] = "schedule"
    """lambda(t) of the corrector term: the paper's w(t), or 1."""
    draft_positions: Literal["all", "masked"] = "all"
    """Where the draft is the network's own word: everywhere, or at masked positions with the clean
    token elsewhere."""
    draft_token: Literal["argmax", "sample"] = "argmax"
    """Best token, or one draw."""
    error_weighted: bool = False
    """``-log p`` where the draft is wrong and ``-p`` where it is right (the released OWT setting)."""
    start_step: int = 0
    """Train as MDLM before this optimiser step."""
    every: int = 1
    """Correct every n-th row of the batch, rotating, with weight n: 1/n of the extra cost."""
