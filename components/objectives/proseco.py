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
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from components.diffusion.categorical import inverse_cdf, suppress
from components.diffusion.noise import Stream
from components.objectives.base import Batch, Network, Objective, Setting, Term, flat_index, uniforms
from components.objectives.config import ProsecoConfig
from components.objectives.fills import logits_at, overwrite_some
from components.objectives.mdlm import Noised, noise_rows, unmasking_term


def build(config: ProsecoConfig, setting: Setting) -> Objective[Noised]:
    """The objective with its options bound."""

    def corrects(batch: Batch) -> bool:
        return config.corrector_weight > 0 and batch.step >= config.start_step

    def corrupt(batch: Batch) -> Noised:
        return noise_rows(batch, setting)

    def counts(noised: Noised) -> dict[str, Tensor]:
        num_targets = noised.batch.target.sum()
        return {"mdm": num_targets, "correct": num_targets} if corrects(noised.batch) else {"mdm": num_targets}

    def terms(network: Network, noised: Noised) -> Iterator[Term]:
        batch = noised.batch
        term, draft = unmask_and_draft(network, noised, config, setting, corrects(batch))
        yield term.times(config.mdm_weight)
        if draft is not None:
            with torch.no_grad():
                draft = roll_out(network, noised, draft, config.rollout, setting)
                draft = overwrite_some(draft, config.random_share, batch, setting)
            yield correcting_term(network, batch, noised.time, draft, config, setting)

    return Objective(corrupt, counts, terms)


def unmask_and_draft(
    network: Network, noised: Noised, config: ProsecoConfig, setting: Setting, wants_draft: bool
) -> tuple[Term, Int64[Tensor, "B L"] | None]:
    """First pass: the masked-diffusion term, and, if wanted, the draft made from the same outputs."""
    batch, masked = noised.batch, noised.masked
    flat_masked = flat_index(masked)
    everywhere = wants_draft and config.draft_positions == "all"
    select = None if everywhere else flat_masked
    prediction = network(noised.tokens, select=select, label=batch.label, time=noised.time)
    logits = suppress(prediction.logits, (setting.mask_id,))
    at_masked = logits.flatten(0, 1).index_select(0, flat_masked) if everywhere else logits
    term = unmasking_term(at_masked, flat_masked, noised, setting, flat=config.weight == "flat")
    if not wants_draft:
        return term, None
    with torch.no_grad():
        where = flat_index(batch.maskable) if everywhere else flat_masked
        candidates = logits.detach()
        if everywhere:
            candidates = candidates.flatten(0, 1).index_select(0, where)
        draft = batch.tokens.flatten().clone()
        draft[where] = draft_tokens(candidates, where, batch, config)
    return term, draft.view_as(batch.tokens)


def roll_out(
    network: Network, noised: Noised, draft: Int64[Tensor, "B L"], num_passes: int, setting: Setting
) -> Int64[Tensor, "B L"]:
    """The draft after so many of the corrector's own passes, each of which replaces every maskable token."""
    where = flat_index(noised.batch.maskable)
    for _ in range(num_passes):
        logits = logits_at(network, draft, noised.batch.maskable, noised.batch, setting, time=noised.time)
        draft = draft.flatten().index_copy(0, where, logits.argmax(-1)).view_as(draft)
    return draft


def draft_tokens(
    logits: Float[Tensor, "N V"], where: Int64[Tensor, "N"], batch: Batch, config: ProsecoConfig
) -> Int64[Tensor, "N"]:
    """The network's own tokens at flat positions ``where``: the best ones, or one draw each."""
    if config.draft_token == "argmax":
        return logits.argmax(-1)
    u = uniforms(batch, Stream.CORRUPT_DRAFT)
    return inverse_cdf(torch.softmax(logits, -1), u.flatten()[where])


def correcting_term(
    network: Network,
    batch: Batch,
    time: Float32[Tensor, "B"],
    draft: Int64[Tensor, "B L"],
    config: ProsecoConfig,
    setting: Setting,
) -> Term:
    """Second pass: what the network makes of its own draft, at every target position."""
    rows = correcting_rows(batch, config.every)
    draft, tokens, target, time = draft[rows], batch.tokens[rows], batch.target[rows], time[rows]
    label = None if batch.label is None else batch.label[rows]
    select = flat_index(target)
    logits = suppress(network(draft, select=select, label=label, time=time).logits, (setting.mask_id,))
    clean, drafted = tokens.flatten()[select], draft.flatten()[select]
    nll = F.cross_entropy(logits, clean, reduction="none")
    wrong = drafted != clean
    loss = torch.where(wrong, nll, -torch.exp(-nll)) if config.error_weighted else nll
    flat = config.corrector_time_weight == "flat"
    weight = torch.ones_like(time) if flat else setting.schedule.weight(time)
    loss_sum = (loss * weight[select // tokens.shape[1]]).sum()
    with torch.no_grad():
        right_after = logits.argmax(-1) == clean
        metrics = {
            "correct_ce": (nll.detach().sum(), target.sum()),
            "fix_rate": ((wrong & right_after).sum(), wrong.sum()),
            "break_rate": ((~wrong & ~right_after).sum(), (~wrong).sum()),
        }
    return Term("correct", loss_sum, metrics).times(config.corrector_weight * config.every)


def correcting_rows(batch: Batch, every: int) -> Int64[Tensor, "C"]:
    """Which rows are corrected at this step: each n-th of the global batch, starting one further every step."""
    if every == 1:
        return torch.arange(len(batch.index), device=batch.index.device)
    return ((batch.index + batch.step) % every == 0).nonzero()[:, 0]
