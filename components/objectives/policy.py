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
from jaxtyping import Bool, Float, Float32, Float64, Int64
from torch import Tensor

from components.diffusion import noise
from components.diffusion.config import DrawConfig
from components.errors import ConfigError
from components.objectives.base import Batch, Network, Objective, Setting, Term
from components.objectives.config import PolicyGrpoConfig, PolicyImitationConfig
from components.objectives.fills import fill_tokens, logits_at
from components.objectives.mdlm import Noised, noise_rows
from components.samplers.config import SamplerConfig
from components.samplers.contract import Extras, Vocabulary
from components.samplers.options.orders import ConfidenceConfig
from components.samplers.options.schedules import LearnedConfig, ThresholdConfig
from components.samplers.rollout import play
from components.samplers.sampler import RowSampler
from components.samplers.schedules.learned import log_probability


def build_imitation(config: PolicyImitationConfig, setting: Setting) -> Objective[Noised]:
    """The warm start."""

    def corrupt(batch: Batch) -> Noised:
        return noise_rows(batch, setting)

    def counts(noised: Noised) -> dict[str, Tensor]:
        return {"policy": (noised.masked & noised.batch.target).sum()}

    def terms(network: Network, noised: Noised) -> Iterator[Term]:
        batch, masked = noised.batch, noised.masked
        with torch.no_grad():
            logits = logits_at(network, noised.tokens, masked, batch, setting, time=noised.time, frozen=True)
            best, confidence = fill_tokens(logits, masked, batch, "argmax")
        decided = batch.share(batch.maskable & ~masked)  # as after as many steps of one token
        reveal = network.decide(confidence, masked, decided, batch.sizes)
        where, right = masked & batch.target, best == batch.tokens
        loss = F.binary_cross_entropy_with_logits(reveal, right.float(), reduction="none")
        agrees = (reveal > 0) == right
        metrics = {
            "policy_bce": ((loss.detach() * where).sum(), where.sum()),
            "policy_agrees": ((agrees & where).sum(), where.sum()),
        }
        yield Term("policy", (loss * where).sum(), metrics)

    return Objective(corrupt, counts, terms)


@dataclass(frozen=True, kw_only=True)
class Rollouts:
    """N steps of R rollouts, flattened, with what their likelihood needs."""

    confidence: Float[Tensor, "N R L"]
    """What the policy decided by: the network's confidence,"""
    masked: Bool[Tensor, "N R L"]
    """where it might reveal,"""
    time: Float[Tensor, "N R"]
    """and when."""
    action: Bool[Tensor, "N R L"]
    """What was revealed."""
    taken: Bool[Tensor, "N R"]
    """The row was still going."""
    advantage: Float32[Tensor, "R"]
    """Reward less the mean of the row's group."""
    expert: Bool[Tensor, "R"]
    """A threshold decided, and not the policy."""
    old: Float[Tensor, "N R"]
    """Log-likelihoods under the policy that rolled out."""
    reward: Float64[Tensor, "R"]
    """Whether the answer was right, before speed counts."""
    num_steps: Float32[Tensor, "R"]


def build_grpo(config: PolicyGrpoConfig, setting: Setting) -> Objective[Batch]:
    """Group-relative policy optimisation.

    Raises:
        ConfigError: nothing can reward rollouts.
    """
    if setting.reward is None:
        raise ConfigError("policy_grpo needs a corpus with rules or with prompts and one right answer, to reward by.")
    group = config.rollouts + len(config.expert_thresholds)
    memory: dict[tuple[int, int], Rollouts] = {}

    def corrupt(batch: Batch) -> Batch:
        return batch  # rollouts start from nothing but masks

    def counts(batch: Batch) -> dict[str, Tensor]:
        return {"policy": torch.tensor(group * len(batch.index))}

    def terms(network: Network, batch: Batch) -> Iterator[Term]:
        place = (batch.step // config.inner_epochs, int(batch.index[0]))
        if place not in memory:
            for stale in [p for p in memory if p[0] != place[0]]:
                del memory[stale]
            memory[place] = roll_out(network, batch, config, setting)
        yield policy_term(network, memory[place], config)

    return Objective(corrupt, counts, terms)


def samplers_of(network: Network, config: PolicyGrpoConfig, setting: Setting) -> list[RowSampler]:
    """The policy's sampler, and the experts'."""
    extras = Extras(policy=network.decide)
    base = SamplerConfig(steps=0, unmask=ConfidenceConfig(), draw=DrawConfig(temperature=config.draw_temperature))
    schedules = [LearnedConfig(config.temperature), *(ThresholdConfig(x) for x in config.expert_thresholds)]
    return [RowSampler(replace(base, schedule=s), Vocabulary(setting.mask_id), extras) for s in schedules]


@torch.no_grad()
def roll_out(network: Network, batch: Batch, config: PolicyGrpoConfig, setting: Setting) -> Rollouts:
    """G + E rollouts of each row, group by group."""
    assert setting.reward is not None
    policy, *experts = samplers_of(network, config, setting)
    num_rows = len(batch.index)
    runs = [play_rows(network, policy, batch, setting, range(config.rollouts))]
    runs += [play_rows(network, e, batch, setting, range(100 + i, 101 + i)) for i, e in enumerate(experts)]
    longest = max(len(steps) for steps, _ in runs)
    fields = {k: stack([s for s, _ in runs], k, longest) for k in ("c", "m", "u", "t", "taken")}
    tokens = torch.cat([rows for _, rows in runs])
    copies = len(tokens) // num_rows
    clean = batch.tokens.repeat(copies, 1)
    num_steps = fields["taken"].sum(0)
    size = batch.maskable.sum(-1).repeat(copies).clamp(min=1)
    right = setting.reward(tokens, clean).to(tokens.device).double()
    reward = right * ((size - num_steps + 1).clamp(min=0) / size) ** config.speed
    advantage = reward - reward.view(copies, num_rows).mean(0).repeat(copies)
    rollouts = Rollouts(
        confidence=fields["c"],
        masked=fields["m"].bool(),
        time=fields["t"],
        action=fields["u"].bool(),
        taken=fields["taken"].bool(),
        advantage=advantage.float(),
        expert=torch.arange(copies, device=tokens.device).repeat_interleave(num_rows) >= config.rollouts,
        old=torch.zeros_like(fields["t"]),
        reward=right,
        num_steps=num_steps,
    )
    return replace(rollouts, old=log_likelihood(network, rollouts, config))


def play_rows(
    network: Network, sampler: RowSampler, batch: Batch, setting: Setting, numbers: range
) -> tuple[list[dict[str, Tensor]], Int64[Tensor, "R L"]]:
    """Rollouts of every row, one for each of ``numbers``, which name their randomness.

    Returns:
        (what each step recorded; the full rows, R = len(numbers) x B).
    """
    copies = len(numbers)
    canvas = batch.tokens.masked_fill(batch.maskable, setting.mask_id).repeat(copies, 1)
    name = (batch.keys[:, 0] << 31) ^ batch.keys[:, 1]
    keys = torch.cat([noise.row_keys(0, name, n, batch.step) for n in numbers])
    start = sampler.begin(canvas, ~batch.maskable.repeat(copies, 1), name.repeat(copies), keys)
    steps, tokens = [], start.tokens
    for before, after, record in play(network, sampler, start, setting.any_process):
        taken = before.active & (before.tick <= sampler.parts.ticks(canvas.shape[1]))
        steps.append(record.learned | {"taken": taken.float()})
        tokens = after.tokens
    return steps, tokens


def stack(runs: list[list[dict[str, Tensor]]], name: str, longest: int) -> Tensor:
    """Field ``name`` of runs of different lengths, [N, R, ...], zero where one had ended."""
    padded = []
    for steps in runs:
        values = torch.stack([s[name].float() for s in steps])
        padded.append(F.pad(values, (0, 0) * (values.dim() - 1) + (0, longest - len(steps))))
    return torch.cat(padded, dim=1)


def log_likelihood(network: Network, rollouts: Rollouts, config: PolicyGrpoConfig) -> Float[Tensor, "N R"]:
    """Log-likelihood of every step's transition under the policy, mixed with the experts' in their rows."""
    steps, rows, length = rollouts.confidence.shape
    masked = rollouts.masked.view(-1, length)
    reveal = network.decide(rollouts.confidence.view(-1, length), masked, rollouts.time.view(-1))
    own = log_probability(reveal, masked, rollouts.action.view(-1, length), config.temperature, 1.0).view(steps, rows)
    experts = len(config.expert_thresholds)
    if not experts:
        return own
    total = config.rollouts + experts
    floor = torch.full_like(own, -math.log(total))
    mixed = torch.logaddexp(math.log(config.rollouts / total) + own, floor)
    return torch.where(rollouts.expert, mixed, own)


def policy_term(network: Network, rollouts: Rollouts, config: PolicyGrpoConfig) -> Term:
    """The negated objective, - J, summed over rollouts."""
    change = torch.where(rollouts.taken, log_likelihood(network, rollouts, config) - rollouts.old, 0)
    ratio = torch.exp(change.clamp(-20, 20))
    clipped = ratio.clamp(1 - config.clip, 1 + config.clip)
    gain = torch.minimum(ratio * rollouts.advantage, clipped * rollouts.advantage) * rollouts.taken
    loss = -(gain.sum(0) / rollouts.num_steps.clamp(min=1)).sum()
    num_rollouts, own = torch.tensor(len(rollouts.num_steps)), ~rollouts.expert
    metrics = {
        "rollout_right": (rollouts.reward[own].sum(), own.sum()),
        "rollout_steps": (rollouts.num_steps[own].sum(), own.sum()),
        "ratio": (ratio.detach()[rollouts.taken].sum(), rollouts.taken.sum()),
        "ratio_off_one": ((ratio.detach()[rollouts.taken] - 1).abs().sum(), rollouts.taken.sum()),
        "advantage": (rollouts.advantage.abs().sum(), num_rollouts),
    }
    return Term("policy", loss.float(), metrics)
