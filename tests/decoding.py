"""What tests of samplers share: rows of holes, an engine around the oracle, every combination of parts."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterator
from typing import Any

import torch

from components.samplers import SamplerConfig, rules
from components.samplers.config import BlocksConfig, GuardConfig, GuidanceConfig
from components.samplers.contract import Extras, Row, Sample, Sampler, Vocabulary
from components.samplers.engine import Engine, Session
from components.samplers.options.correctors import (
    DscConfig,
    FreeCorrectionConfig,
    MaskPredictConfig,
    NoCorrectorConfig,
    PrismConfig,
    ProsecoCorrectorConfig,
    RandomSwapConfig,
    RemdmConfig,
    RemdmLoopConfig,
    SmartConfig,
    TokenEditConfig,
)
from components.samplers.options.inputs import DslSdeConfig, HardConfig, MixtureConfig, SoftMaskConfig
from components.samplers.options.orders import ConfidenceConfig, EntropyConfig, MarginConfig, RandomConfig
from components.samplers.options.schedules import (
    AncestralConfig,
    AtEndConfig,
    CosineConfig,
    EntropyBoundConfig,
    FactorConfig,
    FirstHittingConfig,
    FixedCountConfig,
    LearnedConfig,
    LinearConfig,
    ThresholdConfig,
)
from components.samplers.options.search import BestOfConfig, SelfRewardingConfig, SingleConfig, SteeringConfig
from components.samplers.rollout import play
from components.samplers.sampler import build_sampler
from components.samplers.state import Record, State
from tests.oracle import Oracle


def rows_of(oracle: Oracle, count: int, prompt: int | None = None) -> list[Row]:
    first = oracle.mask_id if prompt is None else prompt
    canvas = (first, *[oracle.mask_id] * (oracle.length - 1))
    fixed = (prompt is not None, *[False] * (oracle.length - 1))
    return [Row(i * 7919 + 13, canvas, fixed) for i in range(count)]


def policy(confidence: torch.Tensor, masked: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
    """A policy that grows bolder with confidence."""
    return 6 * confidence - 3 + time[:, None]


def likes_last(tokens: torch.Tensor, rows: list[Row]) -> torch.Tensor:
    """A reward: the last token's number."""
    return tokens[:, -1].double()


def sampler_of(oracle: Oracle, config: SamplerConfig, end_id: int | None = None) -> Sampler:
    return build_sampler(config, Vocabulary(oracle.mask_id, end_id=end_id), Extras(policy, oracle.embedding))


def run(
    oracle, config, rows, lanes=32, seed=0, deterministic=True, reward=likes_last, end_id=None
) -> dict[int, Sample]:  # fmt: skip
    """Samples by id of rows on the oracle."""
    rows = [dataclasses.replace(row, seed=seed) for row in rows]
    return decode(oracle, sampler_of(oracle, config, end_id), rows, lanes, deterministic, reward, oracle.device)


def decode(denoiser, sampler, rows, lanes=32, deterministic=True, reward=None, device="cpu") -> dict[int, Sample]:
    """Samples by id, in the order in which they finish."""
    engine = Engine(lambda _, length: Session(denoiser, sampler, length, lanes, deterministic, device, reward))
    return {s.id: s for s in engine.run(SamplerConfig(), rows)}


def tokens_of(samples: dict[int, Sample]) -> torch.Tensor:
    return torch.tensor([s.tokens for s in samples.values()])


CHOICES: dict[str, list[Any]] = {
    "schedule": [
        AncestralConfig(), FirstHittingConfig(), FixedCountConfig(), FixedCountConfig(per_call=2),
        CosineConfig(), LinearConfig(), ThresholdConfig(0.6), FactorConfig(0.8), EntropyBoundConfig(0.4),
        LearnedConfig(), AtEndConfig(),
    ],
    "unmask": [RandomConfig(), ConfidenceConfig(), ConfidenceConfig(noise=0.5), MarginConfig(), EntropyConfig()],
    "corrector": [
        NoCorrectorConfig(),
        ProsecoCorrectorConfig(every=1, passes=1, draft="argmax"),
        ProsecoCorrectorConfig(passes=3, draft_positions="all", inner="sample"),
        ProsecoCorrectorConfig(every=2, passes=4, inner="top_k", start=2, skip_above=0.7, region="generated"),
        RemdmConfig(eta=0.3), RemdmConfig(sigma="rescale", eta=0.3), RemdmConfig(sigma="conf", eta=1.0, switch=0.7),
        RemdmConfig(sigma="dfm"), RemdmLoopConfig(eta=0.3),
        PrismConfig(start=0.2), PrismConfig(score="loo", eta=0.4, start=0.1), DscConfig(threshold=0.4, queue=3),
        DscConfig(threshold=0.2, score="visible", every=2), FreeCorrectionConfig(), FreeCorrectionConfig(score="drop"),
        FreeCorrectionConfig(score="loo"), RandomSwapConfig(), MaskPredictConfig(), SmartConfig(),
        TokenEditConfig(rounds=3), TokenEditConfig(threshold=0.7, action="remask", rounds=2),
    ],
    "inputs": [HardConfig(), MixtureConfig(top_k=2), SoftMaskConfig(top_k=2), DslSdeConfig(gamma_max=20.0)],
    "search": [
        SingleConfig(), BestOfConfig(particles=2), BestOfConfig(particles=2, reward="x"),
        SelfRewardingConfig(particles=3, every=2), SteeringConfig(particles=2, every=2, reward="x"),
        SteeringConfig(particles=3, sweeps=2, every=2, reward="x", guesses=2, guess="sample", beta=0.5),
    ],
    "guidance": [GuidanceConfig(), GuidanceConfig(gamma=0.5)],
    "blocks": [BlocksConfig(), BlocksConfig(length=3)],
    "guard": [GuardConfig(), GuardConfig(edits_per_position=1, edit_share=0.4, cooldown=1)],
    "temperature": [1.0, 0.0],
}  # fmt: skip


def configured(choice: dict[str, Any], steps: int = 5) -> SamplerConfig:
    parts = {k: v for k, v in choice.items() if k != "temperature"}
    draw = dataclasses.replace(SamplerConfig().draw, temperature=choice.get("temperature", 1.0))
    return SamplerConfig(preset="test", steps=steps, draw=draw, **parts)


def fits(choice: dict[str, Any]) -> bool:
    return not rules.problems(configured(choice), "s")


@functools.cache
def valid_choices() -> list[tuple[int, ...]]:
    """Indices of every combination that the rules allow, over the whole product."""
    found = []
    names = list(CHOICES)
    # Rules between the first four families hold whatever the others are, so wrong stems are dropped at once.
    stems = ["schedule", "unmask", "corrector", "inputs"]
    assert names[:4] == stems
    rest = list(itertools.product(*(range(len(CHOICES[n])) for n in names[4:])))
    for stem in itertools.product(*(range(len(CHOICES[n])) for n in stems)):
        chosen = {n: CHOICES[n][i] for n, i in zip(stems, stem, strict=True)}
        if not fits(chosen):
            continue
        for tail in rest:
            full = chosen | {n: CHOICES[n][i] for n, i in zip(names[4:], tail, strict=True)}
            if fits(full):
                found.append((*stem, *tail))
    return found


def choice_of(indices: tuple[int, ...]) -> dict[str, Any]:
    return {n: CHOICES[n][i] for n, i in zip(CHOICES, indices, strict=True)}


def pairs(indices: tuple[int, ...]) -> Iterator[tuple[int, int, int, int]]:
    for a, b in itertools.combinations(range(len(indices)), 2):
        yield a, indices[a], b, indices[b]


def covering_array(valid: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Few combinations in which every pair of choices occurs that occurs in any valid one."""
    generator = torch.Generator().manual_seed(0)
    missing = {p for combination in valid for p in pairs(combination)}
    chosen = []
    while missing:
        number = torch.randint(0, len(valid), (64,), generator=generator).tolist()
        best = max((valid[n] for n in number), key=lambda v: sum(p in missing for p in pairs(v)))
        if not any(p in missing for p in pairs(best)):
            pair = min(missing)
            best = next(v for v in valid if pair in set(pairs(v)))
        chosen.append(best)
        missing -= set(pairs(best))
    return chosen


def drive(
    denoiser: Any, sampler: Sampler, rows: list[Row], seed: int = 0, device: str = "cpu"
) -> Iterator[tuple[State, State, Record]]:
    """Every step of all rows at once: the state before, the state after, the record."""
    canvas, fixed, ids = (torch.tensor(x, device=device) for x in zip(*((r.canvas, r.fixed, r.id) for r in rows)))
    yield from play(denoiser, sampler, sampler.start(canvas, fixed, ids, torch.full_like(ids, seed)))


def law(oracle: Oracle, tokens: torch.Tensor) -> torch.Tensor:
    """Frequencies of full rows, in the order of the oracle's outcomes."""
    return torch.bincount(oracle.index(tokens), minlength=len(oracle.joint)).double().to(oracle.device) / len(tokens)


def distance(p: torch.Tensor, q: torch.Tensor) -> float:
    """Total variation."""
    return float((p - q).abs().sum() / 2)
