"""CMLM: "Mask-Predict: Parallel Decoding of Conditional Masked Language Models", arXiv 1904.09324.

n ~ U{1..N} of a row's N positions are masked, uniformly; cross-entropy at the masked ones, label smoothing 0.1.
The length head is left out: rows have a fixed canvas and an end token.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from components.diffusion.select import best
from components.objectives.base import Batch, Network, Objective, Setting, Term, corruption, draw_times, flat_index
from components.objectives.config import CmlmConfig
from components.objectives.fills import logits_at
from components.objectives.mdlm import Noised


def build(config: CmlmConfig, setting: Setting) -> Objective[Noised]:
    """The objective with its options bound."""

    def corrupt(batch: Batch) -> Noised:
        share = draw_times(batch, 1e-6).double()
        num_masked = torch.ceil(share * batch.maskable.sum(-1)).long().clamp(min=1)
        masked = best(corruption(batch), batch.maskable, num_masked)
        return Noised(batch, batch.share(masked), masked, batch.tokens.masked_fill(masked, setting.mask_id))

    def counts(noised: Noised) -> dict[str, Tensor]:
        return {"masked": (noised.masked & noised.batch.target).sum()}

    def terms(network: Network, noised: Noised) -> Iterator[Term]:
        batch = noised.batch
        counted = noised.masked & batch.target
        logits = logits_at(network, noised.tokens, counted, batch, setting, time=noised.time)
        where = flat_index(counted)
        nll = F.cross_entropy(logits, batch.tokens.flatten()[where], reduction="none")
        loss = nll
        if config.label_smoothing:
            # The suppressed mask has no share in the smoothing.
            known = logits > float("-inf")
            flat = -(torch.log_softmax(logits, -1).masked_fill(~known, 0).sum(-1) / known.sum(-1))
            loss = (1 - config.label_smoothing) * nll + config.label_smoothing * flat
        yield Term("masked", loss.sum(), {"masked_ce": (nll.detach().sum(), torch.tensor(len(where)))})

    return Objective(corrupt, counts, terms)
