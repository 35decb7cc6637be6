"""ProSeCo: "Learn from Your Mistakes: Self-Correcting Masked Diffusion Models", arXiv 2602.11590.

    L = E_t w(t) [ sum over masked l of -log f_l(x_l | z_t)  +  sum over all l of -log f_l(x_l | y_t) ]
    y_l = stop_gradient( argmax_v f_l(v | z_t) )  at every position

One network, one time a row, both passes on the same noise. Departures from the released code: both
weights are 1 by default (there they are 0, so that nothing trains); the draft never holds a mask or
overwrites a prompt; neither pass changes its batch in place; because y is a constant the two terms
are yielded one after the other, which gives the same gradient at half the activation memory.

Ours beyond the paper: drafts may be rolled out (the corrector's own passes over them, as a sampler with several
passes meets them) and mixed with random tokens.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from components.diffusion import noise
from components.diffusion.categorical import inverse_cdf, suppress
from components.diffusion.corrupt import random_tokens
from components.diffusion.noise import Stream
from components.objectives.base import Batch, Network, Objective, Setting, Term
from components.objectives.config import ProsecoConfig
from components.objectives.mdlm import noise_rows, unmasking_term


def build(config: ProsecoConfig, setting: Setting) -> Objective:
    """The objective with its options bound."""

    def corrects(batch: Batch) -> bool:
        return config.corrector_weight > 0 and batch.step >= config.start_step

    def counts(batch: Batch) -> dict[str, Tensor]:
        num_targets = batch.target.sum()
        return {"mdm": num_targets, "correct": num_targets} if corrects(batch) else {"mdm": num_targets}

    def terms(model: Network, batch: Batch) -> Iterator[Term]:
        time, masked, noised = noise_rows(batch, setting)
        term, draft = unmask_and_draft(model, batch, time, masked, noised, config, setting, corrects(batch))
        yield term
        if draft is not None:
            with torch.no_grad():
                draft = worn(model, batch, time, draft, config, setting)
            yield correcting_term(model, batch, time, draft, config, setting)

    return Objective(counts, terms)


def unmask_and_draft(
    model: Network,
    batch: Batch,
    time: Tensor,
    masked: Tensor,
    noised: Tensor,
    config: ProsecoConfig,
    setting: Setting,
    wants_draft: bool,
) -> tuple[Term, Tensor | None]:
    """First pass: the masked-diffusion term, and the draft [B, L] made from the same outputs."""
    flat_masked = masked.flatten().nonzero()[:, 0]
    everywhere = wants_draft and config.draft_positions == "all"
    prediction = model(noised, select=None if everywhere else flat_masked, label=batch.label, time=time)
    logits = suppress(prediction.logits, (setting.mask_id,))
    at_masked = logits.flatten(0, 1).index_select(0, flat_masked) if everywhere else logits
    term = unmasking_term(at_masked, flat_masked, batch, time, setting, flat=config.weight == "flat")
    term = Term(term.name, config.mdm_weight * term.loss_sum, term.metrics)
    if not wants_draft:
        return term, None
    with torch.no_grad():
        where = batch.maskable if everywhere else masked
        flat_where = where.flatten().nonzero()[:, 0]
        candidates = logits.detach()
        if everywhere:
            candidates = candidates.flatten(0, 1).index_select(0, flat_where)
        draft = batch.tokens.flatten().clone()
        draft[flat_where] = draft_tokens(candidates, flat_where, batch, config)
    return term, draft.view_as(batch.tokens)


def worn(model: Network, batch: Batch, time: Tensor, draft: Tensor, config: ProsecoConfig, setting: Setting) -> Tensor:
    """The draft after ``rollout`` corrector passes and with a share of random tokens."""
    flat = batch.maskable.flatten().nonzero()[:, 0]
    for _ in range(config.rollout):
        logits = suppress(model(draft, select=flat, label=batch.label, time=time).logits, (setting.mask_id,))
        draft = draft.flatten().index_copy(0, flat, logits.argmax(-1)).view_as(draft)
    if not config.random_share:
        return draft
    return random_tokens(
        draft, batch.maskable, config.random_share, batch.keys, batch.step, setting.vocab_size, setting.mask_id
    )


def draft_tokens(logits: Tensor, flat: Tensor, batch: Batch, config: ProsecoConfig) -> Tensor:
    """The network's own word at flat positions. logits [N, V] -> [N]."""
    if config.draft_token == "argmax":
        return logits.argmax(-1)
    u = noise.uniform(batch.keys, batch.step, 0, batch.tokens.shape[1], Stream.CORRUPT_DRAFT)
    return inverse_cdf(torch.softmax(logits, -1), u.flatten()[flat])


def correcting_term(
    model: Network, batch: Batch, time: Tensor, draft: Tensor, config: ProsecoConfig, setting: Setting
) -> Term:
    """Second pass: what the network makes of its own draft, at every target position."""
    rows = correcting_rows(batch, config.every)
    draft, tokens, target, time = draft[rows], batch.tokens[rows], batch.target[rows], time[rows]
    label = None if batch.label is None else batch.label[rows]
    select = target.flatten().nonzero()[:, 0]
    logits = suppress(model(draft, select=select, label=label, time=time).logits, (setting.mask_id,))
    clean, drafted = tokens.flatten()[select], draft.flatten()[select]
    nll = F.cross_entropy(logits, clean, reduction="none")
    wrong = drafted != clean
    loss = torch.where(wrong, nll, -torch.exp(-nll)) if config.error_weighted else nll
    flat = config.weight == "flat" or config.corrector_time_weight == "flat"
    weight = torch.ones_like(time) if flat else setting.schedule.weight(time)
    loss_sum = config.corrector_weight * config.every * (loss * weight[select // tokens.shape[1]]).sum()
    with torch.no_grad():
        right_after = logits.argmax(-1) == clean
        metrics = {
            "correct_ce": (nll.detach().sum(), target.sum()),
            "fix_rate": ((wrong & right_after).sum(), wrong.sum()),
            "break_rate": ((~wrong & ~right_after).sum(), (~wrong).sum()),
        }
    return Term("correct", loss_sum, metrics)


def correcting_rows(batch: Batch, every: int) -> Tensor:
    """Rows that are corrected at this step: each n-th of the global batch, starting one further every step."""
    if every == 1:
        return torch.arange(len(batch.index), device=batch.index.device)
    return ((batch.index + batch.step) % every == 0).nonzero()[:, 0]
