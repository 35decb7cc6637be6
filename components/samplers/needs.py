"""Does a model bring what a sampler needs? Known from its config alone, before anything is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from components.errors import SamplingError
from components.samplers.config import SamplerConfig


@dataclass(frozen=True)
class Need:
    """One thing that a sampler may need of a model."""

    name: str
    """In a list of them."""
    what: str
    """The sampler ..."""
    lack: str
    """and this model ..."""
    remedy: str
    brought: Callable[[Mapping[str, Any]], bool]
    """Does a model with this config.json bring it?"""
    training: bool = False
    """It is about training and not about weights, so a control may do without."""


NEEDS: dict[str, Need] = {
    "visible_supervision": Need(
        "training at visible positions",
        "replaces visible tokens",
        "was never taught what to say there",
        "Use a model trained with proseco or smart, another sampler, or allow_untrained=true for a control.",
        lambda info: bool(info.get("visible_supervision")),
        training=True,
    ),
    "quality_head": Need(
        "a quality head",
        "asks a quality head",
        "has none",
        "Train one with prism or dsc, or set corrector.score to another one.",
        lambda info: int(info.get("quality_layers", -1)) >= 0,
    ),
    "dsl_encoder": Need(
        "DSL's encoder",
        "needs DSL's encoder of noisy embeddings",
        "reads tokens",
        "Train one with dsl.",
        lambda info: info.get("encoder") == "dsl",
    ),
    "mixtures": Need(
        "an encoder of tokens",
        "shows mixtures of tokens",
        "reads noisy embeddings in their place",
        "Use a model that dsl has not trained, or hard inputs.",
        lambda info: info.get("encoder") != "dsl",
    ),
    "unshifted": Need(
        "logits read at their own position",
        "computes blocks alone",
        "reads logits from the position before",
        "Use blocks.cache=false.",
        lambda info: not info.get("shift_logits"),
    ),
    "policy": Need(
        "an unmasking policy",
        "asks an unmasking policy",
        "has none",
        "Train one with policy_imitation or policy_grpo, or use threshold.",
        lambda info: bool(info.get("policy")),
    ),
    "labels": Need(
        "classes or values",
        "guides by a class or a value",
        "was trained with neither",
        "Use guidance.without=prompt.",
        lambda info: int(info.get("num_classes", 0)) > 0 or bool(info.get("value_range")),
    ),
}


def strange_label(label: float | None, info: Mapping[str, Any]) -> str:
    """Why a network with this config.json cannot be asked for a row with this class or value; empty where it can."""
    classes = int(info.get("num_classes", 0))
    if label is None or info.get("value_range") or label in range(classes):
        return ""
    knows = f"{classes} classes, counted from 0" if classes else "neither classes nor values"
    return f"label = {label:g}: the model knows {knows}"


def needs(config: SamplerConfig) -> tuple[str, ...]:
    """What a checkpoint must bring for this sampler: the union over its parts."""
    found = [need for part in config.parts().values() for need in part.needs()]
    if config.guidance.gamma and config.guidance.without == "label":
        found.append("labels")
    if config.encoder == "dsl":
        found.append("dsl_encoder")
    if config.blocks.cache:
        found.append("unshifted")
    return tuple(dict.fromkeys(found))


def exact_cache(config: SamplerConfig, info: Mapping[str, Any]) -> bool | None:
    """Is what blocks.cache keeps what would be computed anew, with a model with this config.json? None where nothing is kept.

    It is where keys and values depend on the row's label and on tokens up to the end of their attention block alone.
    """
    return bool(info.get("attention_block")) and not info.get("time_conditioning") if config.blocks.cache else None


def missing(config: SamplerConfig, info: Mapping[str, Any], allow_untrained: bool) -> list[Need]:
    """What the model with this config.json lacks and nothing allows away."""
    lacking = [NEEDS[n] for n in needs(config) if not NEEDS[n].brought(info)]
    return [n for n in lacking if not (allow_untrained and n.training)]


def check_needs(config: SamplerConfig, info: Mapping[str, Any], allow_untrained: bool) -> None:
    """Raise SamplingError if the model lacks what the sampler needs."""
    for need in missing(config, info, allow_untrained):
        trained = info.get("trained_with", "an unknown objective")
        raise SamplingError(
            f"The sampler {config.preset!r} {need.what}, and this model (trained with {trained}) {need.lack}. {need.remedy}"
        )
