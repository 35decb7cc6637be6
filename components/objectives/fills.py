"""Rows that the network filled in part, and how good its tokens are: the raw material of every trained corrector."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32, Float64, Int64
from torch import Tensor

from components.diffusion import select
from components.diffusion.categorical import best, inverse_cdf, suppress
from components.diffusion.corrupt import random_tokens
from components.diffusion.noise import Stream
from components.models.judging import Judge, Judged
from components.objectives.base import Batch, Network, Setting, Term, flat_index, uniforms


def logits_at(
    network: Network, tokens: Int64[Tensor, "B L"], where: Bool[Tensor, "B L"], batch: Batch, setting: Setting,
    **given: object,
) -> Float[Tensor, "N V"]:  # fmt: skip
    """The network's logits at the positions of ``where``, in their flat order, the mask id suppressed.

    Args:
        tokens: what the network sees; rows of ``batch``, whose labels it sees, too.
        given: further keywords of the network.
    """
    prediction = network(tokens, select=flat_index(where), **batch.told, **given)
    return suppress(prediction.logits, (setting.mask_id,))


def judged_at(
    network: Network, tokens: Int64[Tensor, "B L"], where: Bool[Tensor, "B L"], weight: Float[Tensor, "B L"], batch: Batch,
    setting: Setting, *, plainly: Bool[Tensor, "B L"] | None = None, also: Bool[Tensor, "B L"] | None = None,
    best: bool = False, u: Float64[Tensor, "B L"] | None = None, **given: object,
) -> Judged:  # fmt: skip
    """The weighted sum of the losses at the positions of ``where`` in their flat order, without logits that are kept.

    Args:
        tokens: what the network sees; rows of ``batch``, whose tokens are the right ones and whose labels it sees, too.
        weight: of each position's loss in the sum.
        plainly: where a loss is -p of the right token, and not -log p.
        also: positions of which tokens alone are wanted; they come after those of ``where``.
        best: the best token of each position is wanted.
        u: uniforms by which a token of each is drawn instead.
        given: further keywords of the network.
    """
    at = flat_index(where)
    select = at if also is None else torch.cat([at, flat_index(also)])
    judge = Judge(
        clean=batch.tokens.flatten()[at],
        weight=weight.flatten()[at],
        never=setting.mask_id,
        plainly=None if plainly is None else plainly.flatten()[at],
        tokens=best or u is not None,
        u=None if u is None else u.flatten()[select],
    )
    judged: Judged = network(tokens, select=select, judge=judge, **batch.told, **given)
    return judged


@torch.no_grad()
def fill_tokens(
    logits: Float[Tensor, "N V"],
    masked: Bool[Tensor, "B L"],
    batch: Batch,
    fill: str,
    inner: int = 0,
    stream: Stream = Stream.FILL,
) -> tuple[Int64[Tensor, "B L"], Float32[Tensor, "B L"]]:
    """The network's own token at every masked position, and the probability that it gave to it.

    Args:
        logits: at the masked positions in their flat order, mask suppressed.
        fill: ``argmax`` or ``sample``.
        inner: number of the fill, where a step makes several of one row.
    Returns:
        (tokens, the clean ones elsewhere; probability, 0 elsewhere).
    """
    where = flat_index(masked)
    p = torch.softmax(logits.detach().float(), -1)
    u = uniforms(batch, stream, inner).flatten()[where]
    chosen = best(p) if fill == "argmax" else inverse_cdf(p, u)
    tokens = batch.tokens.flatten().clone()
    tokens[where] = chosen
    probability = torch.zeros(masked.numel(), device=p.device)
    probability[where] = p.gather(-1, chosen[:, None])[:, 0]
    return tokens.view_as(batch.tokens), probability.view_as(batch.tokens)


def overwrite_some(tokens: Int64[Tensor, "B L"], share: float, batch: Batch, setting: Setting) -> Int64[Tensor, "B L"]:
    """``tokens``, of which each maskable one is overwritten with probability ``share`` by a uniform token, no mask."""
    if not share:
        return tokens
    return random_tokens(
        tokens, batch.maskable, share, batch.keys, batch.step, setting.vocab_size, setting.mask_id
    )  # fmt: skip


def keep_best(
    candidates: Bool[Tensor, "B L"], num_kept: int | Int64[Tensor, "B"], score: Float[Tensor, "B L"]
) -> Bool[Tensor, "B L"]:  # fmt: skip
    """The ``num_kept`` candidates of largest score in each row (one number, or each row's own), or all of them where
    there are fewer.

    Nothing is drawn: for a random choice the scores are uniforms.
    """
    return select.best(score, candidates, num_kept + torch.zeros_like(candidates[:, 0], dtype=torch.long))


def count_kept(candidates: Bool[Tensor, "B L"], num_kept: int | Int64[Tensor, "B"]) -> Int64[Tensor, ""]:
    """How many positions ``keep_best`` keeps, over the batch."""
    count = candidates.sum(-1)
    return torch.minimum(count, num_kept + torch.zeros_like(count)).sum()


def quality_term(
    quality: Float[Tensor, "B L"],
    filled: Int64[Tensor, "B L"],
    clean: Int64[Tensor, "B L"],
    where: Bool[Tensor, "B L"],
    name: str = "quality",
) -> Term:
    """Binary cross-entropy of "the token is the data's" at the positions of ``where``.

    Args:
        quality: logits of the quality head, which read ``filled``.
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
