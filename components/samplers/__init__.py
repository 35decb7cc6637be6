"""Ways to decode: presets, and the parts that they are made of.

A preset is a nested mapping of options; a run may change any of them.
"""

from __future__ import annotations

from typing import Any

from components.plugins import Plugin
from components.samplers.config import (
    AncestralConfig,
    ConfidenceConfig,
    FixedCountConfig,
    NoCorrectorConfig,
    ProsecoCorrectorConfig,
    RandomConfig,
    SamplerConfig,
)

MDLM_PAPER = "Simple and Effective Masked Diffusion Language Models, arXiv 2406.07524"
LLADA_PAPER = "Large Language Diffusion Models, arXiv 2502.09992"
PROSECO_PAPER = "Learn from Your Mistakes: Self-Correcting Masked Diffusion Models, arXiv 2602.11590"

PARTS: dict[str, dict[str, Plugin]] = {
    "schedule": {
        "ancestral": Plugin(
            AncestralConfig,
            "components.samplers.schedule:Ancestral",
            "unmask ticks drawn ahead on a linear grid",
            MDLM_PAPER,
        ),
        "fixed_count": Plugin(
            FixedCountConfig,
            "components.samplers.schedule:FixedCount",
            "the same number of positions at every tick",
            LLADA_PAPER,
        ),
    },
    "unmask": {
        "random": Plugin(
            RandomConfig, "components.samplers.unmask:random_order", "uniformly random positions", MDLM_PAPER
        ),
        "confidence": Plugin(
            ConfidenceConfig,
            "components.samplers.unmask:by_confidence",
            "positions whose drawn token is most probable",
            "MaskGIT, arXiv 2202.04200",
        ),
    },
    "corrector": {
        "none": Plugin(NoCorrectorConfig, "components.samplers.corrector:NoCorrector", "a written token stays"),
        "proseco": Plugin(
            ProsecoCorrectorConfig,
            "components.samplers.proseco:ProsecoCorrector",
            "rewrite the draft with the network's own argmax, S times, every omega ticks",
            PROSECO_PAPER,
            needs=("visible_supervision",),
        ),
    },
}

PRESETS: dict[str, Plugin] = {
    "mdlm": Plugin(
        SamplerConfig,
        "components.samplers.sampler:RowSampler",
        "ancestral sampling, exact",
        MDLM_PAPER,
        defaults={
            "schedule": {"name": "ancestral"},
            "unmask": {"name": "random"},
            "corrector": {"name": "none"},
        },
    ),
    "confidence": Plugin(
        SamplerConfig,
        "components.samplers.sampler:RowSampler",
        "a fixed count per tick, the most confident positions first",
        LLADA_PAPER,
        defaults={
            "schedule": {"name": "fixed_count"},
            "unmask": {"name": "confidence"},
            "corrector": {"name": "none"},
        },
    ),
    "proseco": Plugin(
        SamplerConfig,
        "components.samplers.sampler:RowSampler",
        "ancestral unmasking with self-correction",
        PROSECO_PAPER,
        needs=("visible_supervision",),
        defaults={
            "schedule": {"name": "ancestral"},
            "unmask": {"name": "random"},
            "corrector": {"name": "proseco"},
        },
    ),
    "proseco_confidence": Plugin(
        SamplerConfig,
        "components.samplers.sampler:RowSampler",
        "unmasking by confidence with self-correction",
        PROSECO_PAPER,
        needs=("visible_supervision",),
        defaults={
            "schedule": {"name": "fixed_count"},
            "unmask": {"name": "confidence"},
            "corrector": {"name": "proseco"},
        },
    ),
}


def part_name(family: str, config: Any) -> str:
    """The name under which a part's config is listed."""
    return next(name for name, plugin in PARTS[family].items() if plugin.config is type(config))


def needs(config: SamplerConfig) -> tuple[str, ...]:
    """What a checkpoint must bring for this sampler: the union over its parts."""
    found: list[str] = []
    for family in PARTS:
        found += PARTS[family][part_name(family, getattr(config, family))].needs
    return tuple(dict.fromkeys(found))


__all__ = ["PARTS", "PRESETS", "SamplerConfig", "needs", "part_name"]
