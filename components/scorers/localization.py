"""The likelihood bound of a network on noisy embeddings (DSL, arXiv 2602.16169), by the I-MMSE relation.

    -log p(x) <= E[ -log f(x | z at gamma_max) ] + 1/2 integral from 0 to gamma_max of E |e(x) - xhat(z)|^2 dgamma

for any gamma_max, with equality in the mean for the exact posterior of one position; of several, in the limit of a large
gamma_max, because the first term leaves out what they tell of each other (their total correlation at gamma_max). For the
exact posterior of a joint of three positions, whose entropy is 0.933 nats a token, the bound is above it by

    gamma_max        1      2      5      10      20      40     100
    nats a token   0.076  0.053  0.017  0.002   0.001   0.002  -0.001      (standard error 0.002)

gamma = gamma_max v^2 with v stratified, because almost all of the integral lies at small gamma. Departure: the released code takes the smallest value over several
gamma_max for each row, which is biased low with few draws; here gamma_max is the network's own.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from components.diffusion import noise
from components.diffusion.categorical import suppress
from components.diffusion.noise import Stream
from components.errors import SamplingError
from components.scorers.base import Columns, ScoredRow, Scorer, ScorerSetting, is_written, labels_of
from components.scorers.config import LocalizationConfig

BATCH = 64


def build(config: LocalizationConfig, setting: ScorerSetting) -> Scorer:
    """Raises SamplingError without a network that reads noisy embeddings."""
    device, model = setting.device, cast(Any, setting.model)
    encoder = getattr(model, "encoder", None)
    if encoder is None:
        raise SamplingError("The scorer 'localization' needs a network with DSL's encoder. Use nelbo for others.")

    @torch.inference_mode()
    def bound(rows: list[ScoredRow]) -> Tensor:
        """Nats of each draw [B, K]."""
        tokens = torch.tensor([row.tokens for row in rows], device=device)
        written = is_written(rows, device)
        label = labels_of(rows, device)
        keys = noise.row_keys(setting.seed, torch.tensor([row.id for row in rows], device=device))
        table, largest = encoder.table(), encoder.gamma_max
        jitter = noise.uniform(keys, 0, 0, 1, Stream.TIME)[:, 0]

        def look(gamma: Tensor, draw: int) -> Tensor:
            """Log-probabilities [B, L, V] at a ratio [B]."""
            width = table.shape[-1]
            eps = noise.normal(keys, draw, tokens.shape[1] * width, Stream.EVIDENCE_NOISE)
            eps = eps.view(*tokens.shape, width).to(table) * written[..., None]
            scale = torch.where(written, gamma[:, None], largest).to(table)[..., None]
            z = scale * table[tokens] + scale.sqrt() * eps
            return torch.log_softmax(suppress(model(tokens, dense=z, label=label).logits, (setting.tokenizer.mask_id,)), -1)

        totals = []
        for k in range(config.draws):
            v = (jitter + k / config.draws) % 1
            xhat = look(largest * v**2, 2 * k).exp().to(table) @ table
            error = ((table[tokens] - xhat) ** 2).sum(-1).double()
            rest = look(torch.full_like(v, largest), 2 * k + 1)
            nll = F.nll_loss(rest.flatten(0, 1), tokens.flatten(), reduction="none").view_as(tokens).double()
            integral = largest * v * (error * written).sum(-1)  # 1/2 times d gamma / dv = 2 gamma_max v
            totals.append(integral + (nll * written).sum(-1))
        return torch.stack(totals, dim=-1)

    def score(rows: list[ScoredRow]) -> Columns:
        draws = torch.cat([bound(rows[i : i + BATCH]).cpu() for i in range(0, len(rows), BATCH)])
        length = is_written(rows, "cpu").sum(-1).clamp(min=1)
        error = draws.std(-1) / math.sqrt(config.draws) if config.draws > 1 else torch.full_like(draws[:, 0], math.nan)
        return {"localization": (draws.mean(-1) / length).tolist(), "localization_se": (error / length).tolist()}

    return score
