"""Pairs of a clean row and one that the network filled in part: the raw material of every trained corrector."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from components.diffusion import select
from components.diffusion.categorical import inverse_cdf, suppress
from components.diffusion.noise import Stream
from components.objectives.base import Batch, Network, Setting, Term, uniforms


@torch.no_grad()
def words(
    logits: Tensor, masked: Tensor, batch: Batch, fill: str, inner: int = 0, stream: Stream = Stream.FILL
) -> tuple[Tensor, Tensor]:
    """The network's word at masked positions, and its probability there.

    Args:
        logits: [N, V] at the flat masked positions, mask suppressed.
        masked: [B, L] bool.
        fill: ``argmax`` or ``sample``.
    Returns:
        (tokens [B, L], the clean ones elsewhere; probability [B, L], 0 elsewhere).
    """
    flat = masked.flatten().nonzero()[:, 0]
    p = torch.softmax(logits.detach().float(), -1)
    u = uniforms(batch, stream, inner).flatten()[flat]
    word = p.argmax(-1) if fill == "argmax" else inverse_cdf(p, u)
    tokens = batch.tokens.flatten().clone()
    tokens[flat] = word
    probability = torch.zeros(masked.numel(), device=p.device)
    probability[flat] = p.gather(-1, word[:, None])[:, 0]
    return tokens.view_as(batch.tokens), probability.view_as(batch.tokens)


def logits_at(model: Network, tokens: Tensor, where: Tensor, batch: Batch, setting: Setting, **more: object) -> Tensor:
    """[N, V] at the flat positions [B, L] of ``where``, mask suppressed."""
    flat = where.flatten().nonzero()[:, 0]
    found = model(tokens, select=flat, label=batch.label, **more)
    return suppress(found.logits, (setting.mask_id,))


def some_of(candidates: Tensor, number: int, score: Tensor) -> Tensor:
    """The ``number`` candidates of largest score in each row, all where there are fewer. [B, L] bool."""
    return some_of_each(candidates, torch.full_like(candidates[:, 0], number, dtype=torch.long), score)


def some_of_each(candidates: Tensor, number: Tensor, score: Tensor) -> Tensor:
    """The same with a number of its own for each row [B]."""
    return select.best(score, candidates, number)


def num_of(candidates: Tensor, number: int) -> Tensor:
    """How many ``some_of`` gives, over the batch."""
    return candidates.sum(-1).clamp(max=number).sum()


def judging_term(quality: Tensor, filled: Tensor, clean: Tensor, where: Tensor, name: str = "quality") -> Term:
    """Binary cross-entropy of "the token is the data's" at ``where``.

    Args:
        quality: logits [B, L]; filled, clean: [B, L]; where: [B, L] bool.
    """
    right = (filled == clean).float()
    loss = (F.binary_cross_entropy_with_logits(quality.float(), right, reduction="none") * where).sum()
    with torch.no_grad():
        wrong = where & (filled != clean)
        metrics = {
            f"{name}_bce": (loss.detach(), where.sum()),
            "share_wrong": (wrong.sum(), where.sum()),
            f"{name}_of_wrong": ((torch.sigmoid(quality) * wrong).sum(), wrong.sum()),
            f"{name}_of_right": ((torch.sigmoid(quality) * (where & ~wrong)).sum(), (where & ~wrong).sum()),
        }
    return Term(name, loss, metrics)
