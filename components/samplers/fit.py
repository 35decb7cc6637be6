"""Does a model bring what a sampler needs? Known from its config alone, before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from components.errors import SamplingError
from components.samplers.catalogue import needs
from components.samplers.config import SamplerConfig


@dataclass(frozen=True)
class Need:
    """One thing that a sampler may need of a model."""

    what: str
    """The sampler ..."""
    lack: str
    """and this model ..."""
    remedy: str
    training: bool = False
    """It is about training and not about weights, so a control may do without."""


NEEDS: dict[str, Need] = {
    "visible_supervision": Need(
        "replaces visible tokens",
        "was never taught what to say there",
        "Use a model trained with proseco or smart, another sampler, or allow_untrained=true for a control.",
        training=True,
    ),
    "quality_head": Need(
        "asks a quality head", "has none", "Train one with prism or dsc, or set corrector.score to another one."
    ),
    "dsl_encoder": Need("needs DSL's encoder of noisy embeddings", "reads tokens", "Train one with dsl."),
    "policy": Need(
        "asks an unmasking policy", "has none", "Train one with policy_imitation or policy_grpo, or use threshold."
    ),
    "labels": Need("guides by class labels", "has no classes", "Use guidance.null=prompt."),
}


def has(need: str, info: Mapping[str, Any]) -> bool:
    """``info`` is the config.json of an exported model."""
    values = {
        "visible_supervision": bool(info.get("visible_supervision")),
        "quality_head": int(info.get("quality_layers", -1)) >= 0,
        "dsl_encoder": info.get("encoder") == "dsl",
        "policy": bool(info.get("policy")),
        "labels": int(info.get("num_classes", 0)) > 0,
    }
    return values[need]


def missing(config: SamplerConfig, info: Mapping[str, Any], allow_untrained: bool) -> list[Need]:
    """What the model lacks and nothing allows away."""
    lacking = [NEEDS[n] for n in needs(config) if not has(n, info)]
    return [n for n in lacking if not (allow_untrained and n.training)]


def check_fit(config: SamplerConfig, info: Mapping[str, Any], allow_untrained: bool) -> None:
    """Raise SamplingError if the model lacks what the sampler needs."""
    for need in missing(config, info, allow_untrained):
        trained = info.get("trained_with", "an unknown objective")
        raise SamplingError(
            f"The sampler {config.preset!r} {need.what}, and this model (trained with {trained}) {need.lack}. {need.remedy}"
        )
