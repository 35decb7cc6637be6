"""Classifier-free guidance (arXiv 2207.12598): every input a second time without its condition, both counted.

    l = (1 + gamma) l_conditional - gamma l_unconditional

The combined logits are what every part reads, so gamma acts under the corrector as well. (The released
ProSeCo code guides the predictor and not its corrector.)
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from components.samplers.config import GuidanceConfig
from components.samplers.contract import Answer, Query


def doubled(query: Query, fixed: Tensor, config: GuidanceConfig, mask_id: int) -> Query:
    """The query with an unconditional twin of every input behind it. fixed: [Q, L] bool."""

    def twice(x: Tensor) -> Tensor:
        return torch.cat([x, x])

    tokens = query.tokens
    blind = config.null == "prompt"
    bare = tokens.masked_fill(fixed, mask_id) if blind else tokens
    soft = query.soft
    if soft is not None:
        ids, weights = soft
        bare_ids = torch.cat([torch.where(fixed, bare, ids[..., 0])[..., None], ids[..., 1:]], -1) if blind else ids
        soft = torch.cat([ids, bare_ids]), twice(weights)
    dense = query.dense
    if dense is not None:
        dense = torch.cat([dense, dense.masked_fill(fixed[..., None], 0) if blind else dense])
    labelled = torch.zeros_like(query.active)
    return replace(
        query,
        row=twice(query.row),
        active=twice(query.active),
        tokens=torch.cat([tokens, bare]),
        time=twice(query.time),
        wanted=twice(query.wanted),
        drawn=torch.cat([query.drawn, torch.zeros_like(query.drawn)]),
        unlabelled=None if blind else torch.cat([labelled, torch.ones_like(labelled)]),
        soft=soft,
        dense=dense,
    )


def combined(answer: Answer, gamma: float) -> Answer:
    """One answer of the two halves, which hold the same positions in the same order."""
    half = len(answer.select) // 2
    conditional, unconditional = answer.logits[:half], answer.logits[half:]
    logits = (1 + gamma) * conditional - gamma * unconditional
    heads = {name: value[: len(value) // 2] for name, value in answer.heads.items()}
    return replace(answer, select=answer.select[:half], logits=logits, heads=heads)
