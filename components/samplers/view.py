"""One step's answer, spread over the canvas: what schedules, orders, correctors and inputs read."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from components.samplers.contract import Answer


@dataclass(frozen=True)
class View:
    """R rows, L positions. A field that no part asked for is zero (``best`` and ``sampled``: the input)."""

    called: Tensor
    """[R] bool: rows that were really asked about."""
    masked: Tensor
    """[R, L] bool: masks of the canvas."""
    window: Tensor
    """[R, L] bool: those in the active block."""
    changeable: Tensor
    """[R, L] bool: visible tokens that a corrector may change now, within the sampler's limits."""
    quota: Tensor
    """[R]: positions that the schedule means to reveal at this tick."""
    token: Tensor
    """[R, L]: the token drawn at each candidate."""
    confidence: Tensor
    """[R, L]: its probability, untempered."""
    best: Tensor
    """[R, L]: the most probable token."""
    log_best: Tensor
    """[R, L]: the log-probability of the most probable token."""
    current: Tensor
    """[R, L]: probability of the token that the network was shown there: at visible positions, its
    own opinion of them."""
    sampled: Tensor
    """[R, L]: a token drawn for the draft."""
    sampled_probability: Tensor
    """[R, L]: its probability."""
    entropy: Tensor
    """[R, L]: of the predicted distribution, in nats."""
    margin: Tensor
    """[R, L]: difference of the two largest probabilities of the predicted distribution."""
    left_out: Tensor
    """[R, L]: probability of the visible token when it alone is masked."""
    heads: dict[str, Tensor]
    """[R, L] each."""
    top_ids: Tensor
    top_probabilities: Tensor
    """[R, L, K]: the K best tokens at candidates, K asked for by the inputs part."""
    logits: Tensor
    """[N, V], forbidden ids at -inf."""
    at: Spread
    """Where the rows of ``logits`` belong on the canvas."""


@dataclass(frozen=True)
class Spread:
    """Puts an answer's flat values back on the canvas. Values of other planes than the first are dropped."""

    select: Tensor
    """[N]: flat positions of all planes."""
    drawn: Tensor
    """[M]: those at which tokens are drawn; all in the first plane."""
    rows: int
    length: int

    @classmethod
    def of(cls, answer: Answer, canvas: Tensor) -> Spread:
        return cls(answer.select, answer.select[answer.draw], *canvas.shape)

    @property
    def size(self) -> int:
        return self.rows * self.length

    @property
    def position(self) -> Tensor:
        """[N]: flat position on the canvas, whatever the plane."""
        return self.select % self.size

    def wanted(self, values: Tensor, background: Tensor) -> Tensor:
        """[N] at wanted positions, ``background`` [R, L] elsewhere."""
        inside = torch.where(self.select < self.size, self.select, self.size)
        flat = background.flatten()
        longer = torch.cat([flat, flat[:1]])  # other planes go to a place that is cut off
        return longer.index_copy(0, inside, values.to(background.dtype))[: self.size].view(self.rows, self.length)

    def draws(self, values: Tensor, background: Tensor) -> Tensor:
        """[M, ...] at drawn positions, ``background`` [R, L, ...] elsewhere."""
        flat = background.flatten(0, 1)
        return flat.index_copy(0, self.drawn, values.to(background.dtype)).view_as(background)

    def others(self, values: Tensor) -> Tensor:
        """[R, L]: sums of what the other planes say of each position."""
        hidden = torch.where(self.select < self.size, 0, values).float()
        flat = torch.zeros(self.size, device=values.device)
        return flat.index_add(0, self.position, hidden).view(self.rows, self.length)

    def called(self) -> Tensor:
        """[R] bool: rows of which anything was wanted."""
        flat = torch.zeros(self.size, device=self.select.device)
        return flat.index_fill(0, self.position, 1).view(self.rows, self.length).any(-1)


def opinions(at: Spread, logits: Tensor, shown: Tensor) -> dict[str, Tensor]:
    """best, log_best, current and left_out [R, L] of logits [N, V]; ``shown`` [R, L] is the network's input."""
    normalizer = torch.logsumexp(logits, -1)
    top, best = logits.max(-1)
    own = shown.flatten()[at.position]
    probability = (logits.gather(-1, own[:, None])[:, 0] - normalizer).exp()
    nothing = torch.zeros(shown.shape, device=shown.device)
    return {
        "best": at.wanted(best, shown),
        "log_best": at.wanted(top - normalizer, nothing),
        "current": at.wanted(probability, nothing),
        "left_out": at.others(probability),
    }


def shapes(at: Spread, logits: Tensor, top_k: int) -> dict[str, Tensor]:
    """entropy, margin [R, L] and the ``top_k`` best tokens [R, L, K] of drawn distributions [M, V]."""
    p = torch.softmax(logits.double(), -1)
    k = max(2, top_k)
    values, ids = p.topk(min(k, p.shape[-1]), -1)
    values, ids = (F.pad(x, (0, k - x.shape[-1])) for x in (values, ids))
    nothing = torch.zeros(at.rows, at.length, device=logits.device)
    many = torch.zeros(at.rows, at.length, top_k, device=logits.device)
    return {
        "entropy": at.draws(-torch.special.xlogy(p, p).sum(-1), nothing),
        "margin": at.draws(values[:, 0] - values[:, 1], nothing),
        "top_ids": at.draws(ids[:, :top_k], many.long()),
        "top_probabilities": at.draws(values[:, :top_k], many),
    }
