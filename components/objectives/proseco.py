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
from jaxtyping import Float32, Int64
from torch import Tensor

from components.diffusion.categorical import best
from components.diffusion.noise import Stream
from components.objectives.base import Batch, Network, Objective, Setting, Term, flat_index, uniforms
from components.objectives.config import ProsecoConfig
from components.objectives.fills import judged_at, logits_at, overwrite_some
from components.objectives.mdlm import Noised, noise_rows, time_weight, unmasking_term, unmasking_weight


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
    drafted = wants_draft and config.draft_token == "argmax"
    u = uniforms(batch, Stream.CORRUPT_DRAFT) if wants_draft and config.draft_token == "sample" else None
    visible = batch.maskable & ~masked if wants_draft and config.draft_positions == "all" else None
    weight = unmasking_weight(noised, setting, flat=config.weight == "flat")
    judged = judged_at(
        network, noised.tokens, masked, weight, batch, setting, also=visible, best=drafted, u=u, time=noised.time
    )
    term = unmasking_term(judged, noised)
    if not wants_draft:
        return term, None
    where = flat_index(masked) if visible is None else torch.cat([flat_index(masked), flat_index(visible)])
    return term, batch.tokens.flatten().index_copy(0, where, judged.tokens).view_as(batch.tokens)


def roll_out(
    network: Network, noised: Noised, draft: Int64[Tensor, "B L"], num_passes: int, setting: Setting
) -> Int64[Tensor, "B L"]:
    """The draft after so many of the corrector's own passes, each of which replaces every maskable token."""
    where = flat_index(noised.batch.maskable)
    for _ in range(num_passes):
        logits = logits_at(network, draft, noised.batch.maskable, noised.batch, setting, time=noised.time)
        draft = draft.flatten().index_copy(0, where, best(logits)).view_as(draft)
    return draft


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
    some, draft, time = batch.only(rows), draft[rows], time[rows]
    target = some.target
    weight = time_weight(time, setting, flat=config.corrector_time_weight == "flat")[:, None].expand(target.shape)
    plainly = draft == some.tokens if config.error_weighted else None
    judged = judged_at(network, draft, target, weight, some, setting, plainly=plainly, best=True, time=time)
    clean, wrong = some.tokens[target], (draft != some.tokens)[target]
    with torch.no_grad():
        right_after = judged.tokens == clean
        metrics = {
            "correct_ce": (judged.nll.sum(), target.sum()),
            "fix_rate": ((wrong & right_after).sum(), wrong.sum()),
            "break_rate": ((~wrong & ~right_after).sum(), (~wrong).sum()),
        }
    return Term("correct", judged.loss_sum, metrics).times(config.corrector_weight * config.every)


def correcting_rows(batch: Batch, every: int) -> Int64[Tensor, "C"]:
    """Which rows are corrected at this step: each n-th of the global batch, starting one further every step."""
    if every == 1:
        return torch.arange(len(batch.index), device=batch.index.device)
    return ((batch.index + batch.step) % every == 0).nonzero()[:, 0]
