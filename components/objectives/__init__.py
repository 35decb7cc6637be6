"""Ways to train. One file a paper; this dict names them all."""

from typing import Any

from components.objectives import config as c
from components.objectives.config import MdlmConfig, ProsecoConfig
from components.plugins import Plugin
from components.samplers import catalogue as paper

HERE = "components.objectives"
OBJECTIVES: dict[str, Plugin] = {
    "mdlm": Plugin(
        c.MdlmConfig, f"{HERE}.mdlm:build",
        "masked diffusion: cross-entropy at masked positions, weighted by the schedule", paper.MDLM,
    ),
    "proseco": Plugin(
        c.ProsecoConfig, f"{HERE}.proseco:build",
        "MDLM plus a second pass that corrects the network's own full draft", paper.PROSECO,
    ),
    "prism": Plugin(
        c.PrismConfig, f"{HERE}.prism:build",
        "a head that says how likely each token is, were it hidden, learned on self-filled rows", paper.PRISM,
    ),
    "dsc": Plugin(
        c.DscConfig, f"{HERE}.dsc:build",
        "a correction head on a frozen network, on tokens written earlier than they are judged", paper.DSC,
    ),
    "cmlm": Plugin(c.CmlmConfig, f"{HERE}.cmlm:build", "a uniformly random number of masks, weighted alike", paper.CMLM),
    "smart": Plugin(
        c.SmartConfig, f"{HERE}.smart:build", "masks over self-generated text, the loss at every position", paper.SMART
    ),
    "dsl": Plugin(
        c.DslConfig, f"{HERE}.dsl:build", "clean tokens from noisy unit-norm embeddings, at every position", paper.DSL
    ),
    "mapet": Plugin(
        c.MapetConfig, f"{HERE}.mapet:build", "permuted prediction in two streams, with position-only masks",
        "Learning to Mask and Permute Visual Tokens for Vision Transformer Pre-Training, arXiv 2306.07346",
    ),
    "policy_imitation": Plugin(
        c.PolicyImitationConfig, f"{HERE}.policy:build_imitation",
        "an unmasking policy that says where the frozen network is right", paper.POLICY,
    ),
    "policy_grpo": Plugin(
        c.PolicyGrpoConfig, f"{HERE}.policy:build_grpo", "an unmasking policy by reward: right answers in few steps",
        paper.POLICY, needs=("reward",),
    ),
    "soft_mask": Plugin(
        c.SoftMaskConfig, f"{HERE}.soft_mask:build", "mdlm, proseco, cmlm, smart or prism with soft inputs from a first pass",
        paper.SOFT,
    ),
}  # fmt: skip

SUPERVISES_VISIBLE = frozenset({"proseco", "smart"})
"""Objectives that teach the network what to say at visible positions. A corrector that replaces
tokens does harm on a model that never was taught it, so the checkpoint records this."""
HEADS_ONLY = frozenset({"dsc", "policy_imitation", "policy_grpo"})
"""Objectives that leave the trunk as it is, so what was taught before still holds."""


def objective_name(config: Any) -> str:
    """The name under which an objective's config is listed."""
    return next(name for name, plugin in OBJECTIVES.items() if plugin.config is type(config))


def supervises_visible(config: Any) -> bool:
    """Does a training with this objective teach visible positions?"""
    base = getattr(config, "base", objective_name(config))
    return base in SUPERVISES_VISIBLE and getattr(config, "corrector_weight", 1.0) > 0


def trains_heads_only(config: Any) -> bool:
    """Does a training with this objective leave the trunk as it was?"""
    return objective_name(config) in HEADS_ONLY or getattr(config, "frozen", False)


__all__ = [
    "OBJECTIVES",
    "SUPERVISES_VISIBLE",
    "MdlmConfig",
    "ProsecoConfig",
    "objective_name",
    "supervises_visible",
    "trains_heads_only",
]
