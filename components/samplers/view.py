"""One step's answer, spread over the canvas: what schedules, orders, correctors and inputs read."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


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
    margin: Tensor
    """[R, L]: its log-probability."""
    current: Tensor
    """[R, L]: probability of the token that the network was shown there: at visible positions, its
    own opinion of them."""
    sampled: Tensor
    """[R, L]: a token drawn for the draft."""
    sampled_probability: Tensor
    """[R, L]: its probability."""
    entropy: Tensor
    """[R, L]: of the predicted distribution, in nats."""
    gap: Tensor
    """[R, L]: difference of its two largest probabilities."""
    left_out: Tensor
    """[R, L]: probability of the visible token when it alone is masked."""
    heads: dict[str, Tensor]
    """[R, L] each."""
    top_ids: Tensor
    top_probabilities: Tensor
    """[R, L, K]: the K best tokens at candidates, K asked for by the inputs part."""
    logits: Tensor
    """[N, V], and where they belong:"""
    select: Tensor
    """[N]: flat positions of the first plane, R * L for the others."""
