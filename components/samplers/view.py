"""One step's answer, spread over the canvas: what schedules, orders, correctors and inputs read."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from components.diffusion import categorical
from components.diffusion.categorical import log_odds
from components.samplers.contract import Answer

OPINIONS = frozenset({"log_best", "current"})
"""What it takes a whole distribution to know of a token, and what is told of edits."""


@dataclass(frozen=True, kw_only=True)
class View:
    """R rows, L positions. A field that no part asked for is zero; ``best`` and ``sampled`` are the input, and ``log_best`` and
    ``current``, which may end up in what is told of edits, NaN."""

    called: Bool[Tensor, "R"]
    """Rows that were really asked about."""
    masked: Bool[Tensor, "R L"]
    """Masks of the canvas."""
    window: Bool[Tensor, "R L"]
    """Those in the active block."""
    changeable: Bool[Tensor, "R L"]
    """Visible tokens that a corrector may change now, within the sampler's limits."""
    quota: Int[Tensor, "R"]
    """Positions that the schedule means to reveal at this tick."""
    token: Int[Tensor, "R L"]
    """The token drawn at each candidate."""
    confidence: Float[Tensor, "R L"]
    """Its probability, untempered,"""
    log_odds: Float[Tensor, "R L"]
    """and log p / (1 - p) of it, which still differs where p rounds to 1."""
    best: Int[Tensor, "R L"]
    """The most probable token."""
    log_best: Float[Tensor, "R L"]
    """The log-probability of the most probable token."""
    best_odds: Float[Tensor, "R L"]
    """Its log-odds, which still differ where its probability rounds to 1."""
    current: Float[Tensor, "R L"]
    """Probability of the token that the network was shown there: at visible positions, its
    own opinion of them,"""
    current_odds: Float[Tensor, "R L"]
    """and log p / (1 - p) of it."""
    sampled: Int[Tensor, "R L"]
    """A token drawn for the draft."""
    sampled_probability: Float[Tensor, "R L"]
    """Its probability."""
    entropy: Float[Tensor, "R L"]
    """Of the predicted distribution, in nats."""
    shortfall: Float[Tensor, "R L"]
    """1 less the difference of the two largest probabilities of the predicted distribution, which still differs
    where that rounds to 1."""
    left_out: Float[Tensor, "R L"]
    """Log-odds of the visible token when it alone is masked."""
    heads: dict[str, Float[Tensor, "R L"]]
    """Outputs of the heads that the corrector reads."""
    top_ids: Int[Tensor, "R L K"]
    """The K best tokens at candidates, K asked for by the inputs part,"""
    top_probabilities: Float[Tensor, "R L K"]
    """and their probabilities."""
    logits: Float[Tensor, "N V"]
    """Forbidden ids at -inf."""
    at: Spread
    """Where the rows of ``logits`` belong on the canvas."""


@dataclass(frozen=True)
class Spread:
    """Puts an answer's flat values back on the canvas. Values of other planes than the first are dropped."""

    select: Int[Tensor, "N"]
    """Flat positions of all planes."""
    drawn: Int[Tensor, "M"]
    """Those at which tokens are drawn; all in the first plane."""
    rows: int
    length: int

    @classmethod
    def of(cls, answer: Answer, canvas: Int[Tensor, "R L"]) -> Spread:
        """Of an answer about rows of this shape."""
        return cls(answer.select, answer.select[answer.draw], *canvas.shape)

    @property
    def size(self) -> int:
        """R * L."""
        return self.rows * self.length

    @property
    def position(self) -> Int[Tensor, "N"]:
        """Flat position on the canvas, whatever the plane."""
        return self.select % self.size

    def wanted(self, values: Shaped[Tensor, "N"], background: Shaped[Tensor, "R L"]) -> Shaped[Tensor, "R L"]:
        """The values at wanted positions, ``background`` elsewhere."""
        inside = torch.where(self.select < self.size, self.select, self.size)
        flat = background.flatten()
        longer = torch.cat([flat, flat[:1]])  # other planes go to a place that is cut off
        return longer.index_copy(0, inside, values.to(background.dtype))[: self.size].view(self.rows, self.length)

    def draws(self, values: Shaped[Tensor, "M *K"], background: Shaped[Tensor, "R L *K"]) -> Shaped[Tensor, "R L *K"]:
        """The values at drawn positions, ``background`` elsewhere."""
        flat = background.flatten(0, 1)
        return flat.index_copy(0, self.drawn, values.to(background.dtype)).view_as(background)

    def others(self, values: Float[Tensor, "N"]) -> Float[Tensor, "R L"]:
        """Sums of what the other planes say of each position."""
        hidden = torch.where(self.select < self.size, 0, values).float()
        flat = torch.zeros(self.size, device=values.device)
        return flat.index_add(0, self.position, hidden).view(self.rows, self.length)

    def called(self) -> Bool[Tensor, "R"]:
        """Rows of which anything was wanted."""
        flat = torch.zeros(self.size, device=self.select.device)
        return flat.index_fill(0, self.position, 1).view(self.rows, self.length).any(-1)


def read_opinions(
    at: Spread, logits: Float[Tensor, "N V"], shown: Int[Tensor, "R L"], reads: Collection[str]
) -> dict[str, Shaped[Tensor, "R L"]]:
    """``best`` of a view, and those of the others that some part ``reads``; ``shown`` is the network's input."""
    own = shown.flatten()[at.position]
    nothing = torch.zeros(shown.shape, device=shown.device)
    log_best = current = torch.full_like(nothing, torch.nan)
    if OPINIONS & set(reads):
        best, log_first, log_own = categorical.opinion(logits, own)
        log_best, current = at.wanted(log_first, nothing), at.wanted(log_own.exp(), nothing)
    else:
        best = categorical.best(logits)
    best_odds = log_odds(logits, best) if "best_odds" in reads else None
    own_odds = log_odds(logits, own) if {"current_odds", "left_out"} & set(reads) else None
    return {
        "best": at.wanted(best, shown),
        "log_best": log_best,
        "best_odds": nothing if best_odds is None else at.wanted(best_odds, nothing),
        "current": current,
        "current_odds": nothing if own_odds is None else at.wanted(own_odds, nothing),
        "left_out": nothing if own_odds is None else at.others(own_odds),
    }


def measure_shapes(at: Spread, logits: Float[Tensor, "M V"], top_k: int) -> dict[str, Tensor]:
    """``entropy``, ``shortfall`` and the ``top_k`` best tokens of a view, of the distributions that are drawn from."""
    p = torch.softmax(logits.double(), -1)
    k = max(2, top_k)
    values, ids = p.topk(min(k, p.shape[-1]), -1)
    values, ids = (F.pad(x, (0, k - x.shape[-1])) for x in (values, ids))
    others = p.scatter(-1, ids[:, :1], 0).sum(-1)
    nothing = torch.zeros(at.rows, at.length, device=logits.device)
    several = torch.zeros(at.rows, at.length, top_k, device=logits.device)
    return {
        "entropy": at.draws(-torch.special.xlogy(p, p).sum(-1), nothing),
        "shortfall": at.draws(others + values[:, 1], nothing.double()),
        "top_ids": at.draws(ids[:, :top_k], several.long()),
        "top_probabilities": at.draws(values[:, :top_k], several),
    }
