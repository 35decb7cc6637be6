"""Planes: the rows of a query seen a second time, with some positions masked that are not masked on the canvas.

Leave-one-out: one plane for each position, in which that visible token alone is masked, so that its probability
there is what the rest of the row says of it.

Classifier-free guidance (arXiv 2207.12598): every input a second time without its condition, both counted.

    l = (1 + gamma) l_conditional - gamma l_unconditional

The combined logits are what every part reads, so gamma acts under the corrector as well. (The released
ProSeCo code guides the predictor and not its corrector.)
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool
from torch import Tensor

from components.samplers.config import GuidanceConfig
from components.samplers.contract import Answer, Query


def extended(
    query: Query, hidden: Bool[Tensor, "N L"], wanted: Bool[Tensor, "N L"], active: Bool[Tensor, "N"], mask_id: int
) -> Query:
    """The query with N further inputs behind its Q: copies of these, again and again, with ``hidden`` positions
    masked."""
    copies = len(hidden) // len(query.row)

    def copied(x: Tensor) -> Tensor:
        return x.repeat(copies, *[1] * (x.dim() - 1))

    soft, dense = query.soft, query.dense
    if soft is not None:
        ids, weights = copied(soft[0]), copied(soft[1])
        first = ids[..., 0].masked_fill(hidden, mask_id)
        alone = F.one_hot(torch.zeros_like(first), ids.shape[-1]).to(weights)
        ids = torch.cat([first[..., None], ids[..., 1:]], dim=-1)
        soft = torch.cat([soft[0], ids]), torch.cat([soft[1], torch.where(hidden[..., None], alone, weights)])
    if dense is not None:
        dense = torch.cat([dense, copied(dense).masked_fill(hidden[..., None], 0)])
    return replace(
        query,
        row=torch.cat([query.row, copied(query.row)]),
        active=torch.cat([query.active, active]),
        tokens=torch.cat([query.tokens, copied(query.tokens).masked_fill(hidden, mask_id)]),
        time=torch.cat([query.time, copied(query.time)]),
        wanted=torch.cat([query.wanted, wanted]),
        drawn=torch.cat([query.drawn, torch.zeros_like(wanted)]),
        soft=soft,
        dense=dense,
    )


def left_out(query: Query, scored: Bool[Tensor, "R L"], mask_id: int) -> Query:
    """The query with L more planes, in which one position each is masked, asked about where it is ``scored``."""
    rows, length = scored.shape
    alone = torch.eye(length, dtype=torch.bool, device=scored.device)[:, None].expand(-1, rows, -1)
    wanted = (alone & scored[None]).flatten(0, 1)
    return extended(query, alone.flatten(0, 1), wanted, wanted.any(-1), mask_id)


def doubled(query: Query, fixed: Bool[Tensor, "R L"], config: GuidanceConfig, mask_id: int) -> Query:
    """The query with an unconditional twin of every input behind it: without the prompt, or without the label."""
    prompt = fixed.repeat(len(query.row) // len(fixed), 1)
    if config.without == "prompt":
        return extended(query, prompt, query.wanted, query.active, mask_id)
    twins = extended(query, torch.zeros_like(prompt), query.wanted, query.active, mask_id)
    labelled = torch.zeros_like(query.active)
    return replace(twins, unlabelled=torch.cat([labelled, torch.ones_like(labelled)]))


def combined(answer: Answer, gamma: float) -> Answer:
    """One answer of the two halves, which hold the same positions in the same order."""
    half = len(answer.select) // 2
    conditional, unconditional = answer.logits[:half], answer.logits[half:]
    apart = (1 + gamma) * conditional - gamma * unconditional
    # A token that either half calls impossible has no difference: it is as possible as with the condition.
    logits = torch.where(torch.isneginf(conditional) | torch.isneginf(unconditional), conditional, apart)
    heads = {name: value[: len(value) // 2] for name, value in answer.heads.items()}
    return replace(answer, select=answer.select[:half], logits=logits, heads=heads)
