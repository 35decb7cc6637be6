"""Ways to train. One file a paper; this dict names them all."""

from typing import Any

from components.objectives.config import MdlmConfig, ProsecoConfig
from components.plugins import Plugin

OBJECTIVES: dict[str, Plugin] = {
    "mdlm": Plugin(
        config=MdlmConfig,
        build="components.objectives.mdlm:build",
        summary="masked diffusion: cross-entropy at masked positions, weighted by the schedule",
        paper="Simple and Effective Masked Diffusion Language Models, arXiv 2406.07524",
    ),
    "proseco": Plugin(
        config=ProsecoConfig,
        build="components.objectives.proseco:build",
        summary="MDLM plus a second pass that corrects the network's own full draft",
        paper="Learn from Your Mistakes: Self-Correcting Masked Diffusion Models, arXiv 2602.11590",
    ),
}

SUPERVISES_VISIBLE = frozenset({"proseco"})
"""Objectives that teach the network what to say at visible positions. A corrector that replaces
tokens does harm on a model that never was taught it, so the checkpoint records this."""


def objective_name(config: Any) -> str:
    """The name under which an objective's config is listed."""
    return next(name for name, plugin in OBJECTIVES.items() if plugin.config is type(config))


def supervises_visible(config: Any) -> bool:
    """Does a training with this objective teach visible positions?"""
    return objective_name(config) in SUPERVISES_VISIBLE and getattr(config, "corrector_weight", 1.0) > 0


__all__ = ["OBJECTIVES", "SUPERVISES_VISIBLE", "MdlmConfig", "ProsecoConfig", "objective_name", "supervises_visible"]
