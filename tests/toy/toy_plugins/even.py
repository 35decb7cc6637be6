"""Cross-entropy at masked positions, a fixed share of which is hidden, every time weighing the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from components.objectives.base import Batch, Network, Objective, Setting, Term, corruption, flat_index
from components.objectives.fills import logits_at
from toy_plugins.options import EvenConfig


@dataclass(frozen=True)
class Hidden:
    """A batch and where it is masked."""

    batch: Batch
    masked: Tensor


def build(config: EvenConfig, setting: Setting) -> Objective[Hidden]:
    def corrupt(batch: Batch) -> Hidden:
        return Hidden(batch, batch.target & (corruption(batch) < config.share))

    def counts(hidden: Hidden) -> dict[str, Tensor]:
        return {"even": hidden.masked.sum()}

    def terms(network: Network, hidden: Hidden) -> Iterator[Term]:
        batch, masked = hidden.batch, hidden.masked
        tokens = batch.tokens.masked_fill(masked, setting.mask_id)
        time = masked.float().mean(-1).clamp(min=setting.t_min)
        logits = logits_at(network, tokens, masked, batch, setting, time=time)
        nll = F.cross_entropy(logits, batch.tokens.flatten()[flat_index(masked)], reduction="sum")
        yield Term("even", nll, {"even_ce": (nll.detach(), masked.sum())})

    return Objective(corrupt, counts, terms)
