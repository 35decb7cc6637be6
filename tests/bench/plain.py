"""The sampling loops of published evaluation code, in plain torch: what ours is timed against, and never imported by it.

``ancestral`` is MDLM's (arXiv 2406.07524) with ProSeCo's corrector (arXiv 2602.11590, algorithm 2) as their evaluation
scripts run it: log-probabilities of all positions in float64, a nucleus cut from a full sort of all of them, one step for
a whole batch, and logits kept as long as nothing changed anywhere in it. Where it differs on purpose: the nucleus keeps
the token that crosses its mass, as ours does, so that both draw from one law; with ``exact`` logits are kept only where they
are those of the tokens that are there.

``threshold`` is Fast-dLLM's loop without a cache (arXiv 2505.22618): blocks from left to right, a softmax of all positions in
float64, and one comparison for each candidate, which is a wait for the device. It differs by never writing the mask, by the
last block, which may be shorter, and by taking no more than one row, as no command of theirs does.

``self_rewarding`` is the released first-hitting path of self-rewarding SMC (arXiv 2602.01849): chains of one sample in one batch, tokens
drawn at all positions of which one is kept, and the first chain as the sample. It differs by a constant exponent of 1, which is
the paper's (the code lets it rise), and by not resampling once all is written.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

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
    return torch.where(tokens == loop.mask_id, drawn_from(weights, generator), tokens)


def drawn_from(weights: Tensor, generator: torch.Generator) -> Tensor:
    """[B, L] by Gumbel's maximum over [B, L, V] float64."""
    noise = 1e-10 - (torch.rand(weights.shape, generator=generator, dtype=torch.float64, device=generator.device) + 1e-10).log()
    return (weights / noise).argmax(-1)


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


def threshold(network: Network, prompt: Tensor, length: int, mask_id: int, least: float, block: int) -> tuple[Tensor, int]:
    """(tokens [1, L], calls). prompt [1, P]; ``least``: the confidence from which on tokens are written."""
    tokens = torch.full((1, length), mask_id, device=prompt.device)
    tokens[:, : prompt.shape[1]] = prompt
    counted = Counted()
    for start in range(prompt.shape[1], length, block):
        end = min(start + block, length)
        while (tokens[:, start:end] == mask_id).sum() > 0:
            masked = tokens == mask_id
            masked[:, end:] = False
            counted.calls += 1
            logits = network(tokens)
            logits[..., mask_id] = -1e6
            best = logits.argmax(-1)
            found = torch.softmax(logits.double(), -1).gather(-1, best[..., None]).squeeze(-1)
            confidence = torch.where(masked, found, -torch.inf)
            written = torch.zeros_like(masked)
            for row in range(len(tokens)):
                candidates = int(masked[row].sum())
                _, order = confidence[row].topk(candidates)
                written[row, order] = True
                for k in range(1, candidates):
                    if confidence[row, order[k]] < least:
                        written[row, order[k]] = False
            tokens[written] = best[written]
    return tokens, counted.calls


def self_rewarding(
    network: Network, particles: int, length: int, every: int, ess: float, loop: Loop, generator: torch.Generator
) -> tuple[Tensor, int]:
    """(tokens [1, L], calls of all chains). ``every``: calls between resampling; ``ess``: share of the chains below which it takes place."""
    tokens = torch.full((particles, length), loop.mask_id, device=generator.device)
    log_weight = torch.zeros(particles, dtype=torch.float64, device=generator.device)
    counted = Counted()
    whole = replace(loop, top_p=1.0)
    for call in range(1, length + 1):
        masked = tokens == loop.mask_id
        found = log_probs(network, tokens, whole, counted)
        weights = nucleus(found, loop.top_p).exp() if loop.top_p < 1 else found.exp()
        drawn = drawn_from(weights, generator)
        place = (torch.rand(particles, generator=generator, device=generator.device) * masked.sum(-1)).long()
        chosen = masked & (masked.cumsum(-1) == place[:, None] + 1)
        tokens = torch.where(chosen, drawn, tokens)
        gained = found.gather(-1, drawn[..., None]).squeeze(-1) - masked.sum(-1, keepdim=True).double().log()
        log_weight = log_weight + torch.where(chosen, gained, 0.0).sum(-1)
        share = (log_weight - log_weight.max()).exp()
        share = share / share.sum()
        if call < length and call % every == 0 and 1 / share.square().sum() < ess * particles:
            tokens = tokens[torch.multinomial(share, particles, replacement=True, generator=generator)]
            log_weight.zero_()
    return tokens[:1], particles * counted.calls
