"""CMLM: "Mask-Predict: Parallel Decoding of Conditional Masked Language Models", arXiv 1904.09324.

n ~ U{1..N} of a row's N positions are masked, uniformly; cross-entropy at the masked ones, label smoothing 0.1.
The length head is left out: rows have a fixed canvas and an end token.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from components.diffusion.categorical import suppress
from components.objectives.base import Batch, Network, Objective, Setting, Term, corruption, draw_times
from components.objectives.config import CmlmConfig
from components.objectives.pair import some_of_each


def build(config: CmlmConfig, setting: Setting) -> Objective:
    """The objective with its options bound."""

    def masks(batch: Batch) -> Tensor:
        """[B, L] bool."""
        number = torch.ceil(draw_times(batch, 1e-6).double() * batch.maskable.sum(-1)).long().clamp(min=1)
        return some_of_each(batch.maskable, number, corruption(batch))

    def counts(batch: Batch) -> dict[str, Tensor]:
        return {"masked": (masks(batch) & batch.target).sum()}

    def terms(model: Network, batch: Batch) -> Iterator[Term]:
        masked = masks(batch)
        noised = batch.tokens.masked_fill(masked, setting.mask_id)
        where = (masked & batch.target).flatten().nonzero()[:, 0]
        found = model(noised, select=where, label=batch.label, time=masked.float().mean(-1))
        logits, clean = suppress(found.logits, (setting.mask_id,)), batch.tokens.flatten()[where]
        nll = F.cross_entropy(logits, clean, reduction="none")
        loss = nll
        if config.label_smoothing:
            # The suppressed mask has no share in the smoothing.
            known = logits > float("-inf")
            flat = -(torch.log_softmax(logits, -1).masked_fill(~known, 0).sum(-1) / known.sum(-1))
            loss = (1 - config.label_smoothing) * nll + config.label_smoothing * flat
        yield Term("masked", loss.sum(), {"masked_ce": (nll.detach().sum(), torch.tensor(len(where)))})

    return Objective(counts, terms)
