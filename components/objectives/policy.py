"""An unmasking policy for a frozen network ("Learning Unmasking Policies for Diffusion Language Models",
arXiv 2512.09106), and a warm start for it that needs no rollouts.

Imitation (ours, in the manner of Learn2PD): reveal a masked position exactly where the network's best token is
the data's; binary cross-entropy of the policy's logits.

GRPO: G rollouts of each row by the policy, E by confidence thresholds ("experts"), tokens greedy.

    R = r ((L - steps + 1) / L)^alpha,    A = R - mean of the group (not divided by the standard deviation)
    J = mean over rollouts of the mean over their steps of min(rho A, clip(rho, 1 - eps, 1 + eps) A),  rho = pi / pi_old

A step's likelihood is that of the transition: where the policy revealed only its argmax, that is the event of
drawing just it or of drawing nothing (``samplers/learned.log_probability``); the released code scores the argmax
as if it had been drawn. In expert rows log pi is logaddexp(log(G/(G+E)) + log pi, log(1/(G+E))) in both places, so
they pull gently. Rollouts store the policy's inputs, so the update never calls the large network again.

Rollouts are kept for ``inner_epochs`` optimiser steps; checkpoints fall between sets of rollouts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from components.diffusion import noise
from components.diffusion.config import DrawConfig
from components.errors import ConfigError
from components.objectives.base import Batch, Network, Objective, Setting, Term
from components.objectives.config import PolicyGrpoConfig, PolicyImitationConfig
from components.objectives.mdlm import noise_rows
from components.objectives.pair import logits_at, words
from components.samplers.config import SamplerConfig
from components.samplers.contract import Extras, Vocabulary
from components.samplers.engine import play
from components.samplers.options.orders import ConfidenceConfig
from components.samplers.options.schedules import LearnedConfig, ThresholdConfig
from components.samplers.sampler import RowSampler
from components.samplers.schedules.learned import log_probability


def ask(model: Network, confidence: Tensor, masked: Tensor, time: Tensor) -> Tensor:
    """The policy's reveal logits [R, L]."""
    return model(masked.long(), decided=(confidence, masked, time)).heads["policy"]


def build_imitation(config: PolicyImitationConfig, setting: Setting) -> Objective:
    """The warm start."""

    def counts(batch: Batch) -> dict[str, Tensor]:
        _, masked, _ = noise_rows(batch, setting)
        return {"policy": (masked & batch.target).sum()}

    def terms(model: Network, batch: Batch) -> Iterator[Term]:
        time, masked, noised = noise_rows(batch, setting)
        with torch.no_grad():
            logits = logits_at(model, noised, masked, batch, setting, time=time, frozen=True)
            best, confidence = words(logits, masked, batch, "argmax")
        logit = ask(model, confidence, masked, 1 - masked.float().mean(-1))
        where, right = masked & batch.target, best == batch.tokens
        loss = F.binary_cross_entropy_with_logits(logit, right.float(), reduction="none")
        agrees = (logit > 0) == right
        metrics = {
            "policy_bce": ((loss.detach() * where).sum(), where.sum()),
            "policy_agrees": ((agrees & where).sum(), where.sum()),
        }
        yield Term("policy", (loss * where).sum(), metrics)

    return Objective(counts, terms)


@dataclass(frozen=True)
class Rollouts:
    """N steps of R rollouts, flattened, with what their likelihood needs."""

    confidence: Tensor
    masked: Tensor
    action: Tensor
    """[N, R, L]."""
    time: Tensor
    taken: Tensor
    """[N, R]: the row was still going."""
    advantage: Tensor
    expert: Tensor
    """[R]."""
    old: Tensor
    """[N, R]: log-likelihoods under the policy that rolled out."""
    reward: Tensor
    steps: Tensor
    """[R]."""


def build_grpo(config: PolicyGrpoConfig, setting: Setting) -> Objective:
    """Group-relative policy optimisation. Raises ConfigError without rewards."""
    if setting.judge is None:
        raise ConfigError("policy_grpo needs a corpus with rules or with prompts and one right answer, to reward by.")
    group = config.rollouts + len(config.expert_thresholds)
    memory: dict[tuple[int, int], Rollouts] = {}

    def counts(batch: Batch) -> dict[str, Tensor]:
        return {"policy": torch.tensor(group * len(batch.index))}

    def terms(model: Network, batch: Batch) -> Iterator[Term]:
        place = (batch.step // config.inner_epochs, int(batch.index[0]))
        if place not in memory:
            for stale in [p for p in memory if p[0] != place[0]]:
                del memory[stale]
            memory[place] = roll_out(model, batch, config, setting)
        yield policy_term(model, memory[place], config)

    return Objective(counts, terms)


def samplers_of(model: Network, config: PolicyGrpoConfig, setting: Setting) -> list[RowSampler]:
    """The policy's sampler, and the experts'."""
    extras = Extras(policy=lambda c, m, t: ask(model, c, m, t))
    base = SamplerConfig(steps=0, unmask=ConfidenceConfig(), draw=DrawConfig(temperature=config.draw_temperature))
    schedules = [LearnedConfig(config.temperature), *(ThresholdConfig(x) for x in config.expert_thresholds)]
    return [RowSampler(replace(base, schedule=s), Vocabulary(setting.mask_id), extras) for s in schedules]


@torch.no_grad()
def roll_out(model: Network, batch: Batch, config: PolicyGrpoConfig, setting: Setting) -> Rollouts:
    """G + E rollouts of each row, group by group."""
    assert setting.judge is not None
    policy, *experts = samplers_of(model, config, setting)
    number = len(batch.index)
    runs = [play_rows(model, policy, batch, setting, range(config.rollouts))]
    runs += [play_rows(model, e, batch, setting, range(100 + i, 101 + i)) for i, e in enumerate(experts)]
    longest = max(len(steps) for steps, _ in runs)
    fields = {k: stack([s for s, _ in runs], k, longest) for k in ("c", "m", "u", "t", "taken")}
    tokens = torch.cat([found for _, found in runs])
    copies = len(tokens) // number
    clean = batch.tokens.repeat(copies, 1)
    steps = fields["taken"].sum(0)
    size = batch.maskable.sum(-1).repeat(copies).clamp(min=1)
    right = setting.judge(tokens, clean).to(tokens.device).double()
    reward = right * ((size - steps + 1).clamp(min=0) / size) ** config.speed
    advantage = reward - reward.view(copies, number).mean(0).repeat(copies)
    expert = torch.arange(copies, device=tokens.device).repeat_interleave(number) >= config.rollouts
    rollouts = Rollouts(
        fields["c"], fields["m"].bool(), fields["u"].bool(), fields["t"], fields["taken"].bool(), advantage.float(),
        expert, torch.zeros_like(fields["t"]), right, steps,
    )  # fmt: skip
    return replace(rollouts, old=likelihood(model, rollouts, config))


def play_rows(
    model: Network, sampler: RowSampler, batch: Batch, setting: Setting, numbers: range
) -> tuple[list[dict[str, Tensor]], Tensor]:
    """(what each step recorded, full rows [len(numbers) x B, L])."""
    copies = len(numbers)
    canvas = batch.tokens.masked_fill(batch.maskable, setting.mask_id).repeat(copies, 1)
    name = (batch.keys[:, 0] << 31) ^ batch.keys[:, 1]
    keys = torch.cat([noise.row_keys(0, name, n, batch.step) for n in numbers])
    start = sampler.begin(canvas, ~batch.maskable.repeat(copies, 1), name.repeat(copies), keys)
    steps, tokens = [], start.tokens
    for before, after, record in play(model, sampler, start, setting.anyone):
        taken = before.active & (before.tick <= sampler.ticks(canvas.shape[1]))
        steps.append(record.learned | {"taken": taken.float()})
        tokens = after.tokens
    return steps, tokens


def stack(runs: list[list[dict[str, Tensor]]], name: str, longest: int) -> Tensor:
    """[N, R, ...] of runs of different lengths, zero where one had ended."""
    found = []
    for steps in runs:
        values = torch.stack([s[name].float() for s in steps])
        found.append(F.pad(values, (0, 0) * (values.dim() - 1) + (0, longest - len(steps))))
    return torch.cat(found, dim=1)


def likelihood(model: Network, r: Rollouts, config: PolicyGrpoConfig) -> Tensor:
    """log pi [N, R] of every step's transition."""
    steps, rows, length = r.confidence.shape
    flat = (r.confidence.view(-1, length), r.masked.view(-1, length), r.time.view(-1))
    b = ask(model, *flat)
    own = log_probability(b, flat[1], r.action.view(-1, length), config.temperature, 1.0).view(steps, rows)
    experts = len(config.expert_thresholds)
    if not experts:
        return own
    total = config.rollouts + experts
    floor = torch.full_like(own, -math.log(total))
    mixed = torch.logaddexp(math.log(config.rollouts / total) + own, floor)
    return torch.where(r.expert, mixed, own)


def policy_term(model: Network, r: Rollouts, config: PolicyGrpoConfig) -> Term:
    """- J, summed over rollouts."""
    change = torch.where(r.taken, likelihood(model, r, config) - r.old, 0)
    ratio = torch.exp(change.clamp(-20, 20))
    clipped = ratio.clamp(1 - config.clip, 1 + config.clip)
    gain = torch.minimum(ratio * r.advantage, clipped * r.advantage) * r.taken
    loss = -(gain.sum(0) / r.steps.clamp(min=1)).sum()
    number, own = torch.tensor(r.steps.shape[0]), ~r.expert
    metrics = {
        "rollout_right": (r.reward[own].sum(), own.sum()),
        "rollout_steps": (r.steps[own].sum(), own.sum()),
        "ratio": (ratio.detach()[r.taken].sum(), r.taken.sum()),
        "ratio_off_one": ((ratio.detach()[r.taken] - 1).abs().sum(), r.taken.sum()),
        "advantage": (r.advantage.abs().sum(), number),
    }
    return Term("policy", loss.float(), metrics)
