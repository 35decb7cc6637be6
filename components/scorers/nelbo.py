"""The likelihood bound of a row, by Monte Carlo, in two independent ways.

Over mask times (MDLM, arXiv 2406.07524, eq. 10), or over numbers of masks, the any-order bound
sum_n 1/n E[sum of -log f over n random masks] (arXiv 2409.02908), which is the same in expectation but for what lies
below t = 1e-5, a share of at most 1e-5 of the bound. alpha ends at 0: a schedule that keeps 0.1% at t = 1 leaves out the
rows that are nearly all masks, and so 0.1% of the bound.

Times are stratified over the draws of a row and random from the row's id, so a score does not depend
on its batch. The standard error is over the draws of the row; stratification makes it conservative.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from components.diffusion import noise, select
from components.diffusion.categorical import suppress
from components.diffusion.corrupt import mask_tokens
from components.diffusion.noise import Stream
from components.diffusion.schedule import LogLinear
from components.errors import SamplingError
from components.scorers.base import Columns, ScoredRow, Scorer, ScorerSetting, is_written, labels_of
from components.scorers.config import NelboConfig

T_MIN = 1e-5
BATCH = 64


def build(config: NelboConfig, setting: ScorerSetting) -> Scorer:
    """Raises SamplingError without a model."""
    model, device = setting.model, setting.device
    if model is None:
        raise SamplingError("The scorer 'nelbo' needs a model; give the folder of an exported one.")

    @torch.inference_mode()
    def bound(rows: list[ScoredRow]) -> torch.Tensor:
        """Nats of each draw [B, K]."""
        tokens = torch.tensor([row.tokens for row in rows], device=device)
        maskable = is_written(rows, device)
        label = labels_of(rows, device)
        keys = noise.row_keys(setting.seed, torch.tensor([row.id for row in rows], device=device))
        schedule = LogLinear(eps=0)
        totals = []
        jitter = noise.uniform(keys, 0, 0, 1, Stream.TIME)[:, 0]
        for k in range(config.draws):
            place = (jitter + k / config.draws) % 1
            u = noise.uniform(keys, k, 0, tokens.shape[1], Stream.SCORE)
            if config.estimator == "time":
                t = (T_MIN + (1 - T_MIN) * place).float()
                noised, masked = mask_tokens(tokens, maskable, schedule.alpha(t), u, setting.tokenizer.mask_id)
                weight = schedule.weight(t)
            else:
                size = maskable.sum(-1)
                number = (place * size).long() + 1
                masked = select.best(u, maskable, number)
                noised, t = tokens.masked_fill(masked, setting.tokenizer.mask_id), (number / size).float()
                weight = size / number
            logits = suppress(model(noised, time=t, label=label).logits, (setting.tokenizer.mask_id,))
            nll = F.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="none").view_as(tokens)
            totals.append((nll * masked).sum(-1).double() * weight)
        return torch.stack(totals, dim=-1)

    def score(rows: list[ScoredRow]) -> Columns:
        found = []
        for start in range(0, len(rows), BATCH):
            part = rows[start : start + BATCH]
            filler = [part[-1]] * (BATCH - len(part))  # one shape, so that a row's score never depends on its batch
            found.append(bound(part + filler)[: len(part)].cpu())
        draws = torch.cat(found)
        length = is_written(rows, "cpu").sum(-1).clamp(min=1)
        error = draws.std(-1) / math.sqrt(config.draws) if config.draws > 1 else torch.full_like(draws[:, 0], math.nan)
        return {"nelbo": (draws.mean(-1) / length).tolist(), "nelbo_se": (error / length).tolist()}

    return score
