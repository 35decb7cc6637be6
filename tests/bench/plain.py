"""The sampling loops of published evaluation code, in plain torch: what ours is timed against, and never imported by it.

``ancestral`` is MDLM's (arXiv 2406.07524) with ProSeCo's corrector (arXiv 2602.11590, algorithm 2) as their evaluation
scripts run it: log-probabilities of all positions in float64, a nucleus cut from a full sort of all of them, one step for
a whole batch, and logits kept as long as nothing changed anywhere in it. Where it differs on purpose: the nucleus keeps
the token that crosses its mass, as ours does, so that both draw from one law; with ``exact`` logits are kept only where they
are those of the tokens that are there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Network = Callable[[Tensor], Tensor]
"""Logits [B, L, V] of tokens [B, L]."""


@dataclass(frozen=True)
class Loop:
    """What a script is given."""

    mask_id: int
    steps: int
    passes: int = 0
    """Of the corrector, in each step."""
    top_p: float = 1.0
    exact: bool = False
    fixed_points: bool = True
    """Corrector passes after nothing changed in the batch are not computed."""


@dataclass
class Counted:
    """Forwards of the whole batch."""

    calls: int = 0


def log_probs(network: Network, tokens: Tensor, loop: Loop, counted: Counted) -> Tensor:
    """[B, L, V] float64: never the mask, cut to the nucleus."""
    counted.calls += 1
    logits = network(tokens)
    logits[..., loop.mask_id] = -1e6
    found = torch.log_softmax(logits, -1).double()
    return nucleus(found, loop.top_p) if loop.top_p < 1 else found


def nucleus(found: Tensor, top_p: float) -> Tensor:
    probabilities = found.exp()
    ordered, index = probabilities.sort(dim=-1, descending=True)
    before = ordered.cumsum(-1) - ordered
    kept = torch.zeros_like(probabilities).scatter_(-1, index, torch.where(before < top_p, ordered, 0.0))
    return (kept / kept.sum(-1, keepdim=True)).log()


def posterior(found: Tensor, tokens: Tensor, loop: Loop, tick: int, generator: torch.Generator) -> Tensor:
    """One ancestral step of the log-linear schedule: Gumbel's maximum over all of [B, L, V]."""
    times = torch.linspace(1, 1e-5, loop.steps + 1, dtype=torch.float64)
    t, s = float(times[tick]), float(times[tick + 1])
    weights = found.exp() * ((t - s) / t)
    weights[..., loop.mask_id] = s / t
    noise = 1e-10 - (torch.rand(weights.shape, generator=generator, dtype=torch.float64, device=generator.device) + 1e-10).log()
    drawn = (weights / noise).argmax(-1)
    return torch.where(tokens == loop.mask_id, drawn, tokens)


def ancestral(network: Network, rows: int, length: int, loop: Loop, generator: torch.Generator) -> tuple[Tensor, int]:
    """(tokens [B, L], forwards of the batch). What is masked at the end stays masked, with a probability of about 1e-5."""
    tokens = torch.full((rows, length), loop.mask_id, device=generator.device)
    found: Tensor | None = None
    counted = Counted()
    for tick in range(loop.steps):
        if found is None:
            found = log_probs(network, tokens, loop, counted)
        after = posterior(found, tokens, loop, tick, generator)
        corrected = tokens
        if loop.passes:  # what was drawn is thrown away
            draft = torch.where(tokens == loop.mask_id, found.argmax(-1), tokens)
            changed = True
            for _ in range(loop.passes):
                if changed or not loop.fixed_points:
                    found = log_probs(network, draft, loop, counted)
                better = found.argmax(-1)
                changed, draft = bool((better != draft).any()), better
            corrected = torch.where(tokens == loop.mask_id, tokens, draft)
            after = posterior(found, corrected, loop, tick, generator)
        kept = torch.equal(after, corrected) and not (loop.exact and loop.passes)  # after passes they are those of a draft
        tokens = after
        found = found if kept else None
    return tokens, counted.calls
