"""Options of objectives that train a head beside the network, without torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from components import papers
from components.errors import Problem
from components.objectives.config.card import ObjectiveOptions, Training
from components.options import Count, Natural, NonNegative, Positive, Share, options

HERE = "components.objectives"


@options
class PrismConfig(ObjectiveOptions):
    """A quality head that says how likely each token is, were it hidden, learned on self-filled rows."""

    name: ClassVar[str] = "prism"
    code: ClassVar[str] = f"{HERE}.prism:build"
    paper: ClassVar[str] = papers.PRISM

    num_fills: Count = 4
    """K: masked positions that are filled and judged; exact for 1, a trade for more."""
    draws: Count = 1
    """n_y: filled versions of each noisy row."""
    mdm_weight: NonNegative = 0.5
    """lambda of the masked-diffusion term."""
    select: Literal["random", "confident"] = "random"
    """Which masked positions are filled."""
    fill: Literal["sample", "argmax"] = "sample"
    """With which token."""
    frozen: bool = False
    """Train the head alone; needs mdm_weight = 0 and no weight decay."""
    head_layers: Natural = 0
    """Blocks of the head: 0 for Sudoku, 1 for OpenWebText in the released code."""
    adapter_rank: Natural = 0
    """Train low-rank adapters of this rank and the head, the network's own weights constant (256 for LLaDA)."""

    def passes(self, steps: int) -> float:
        return (1 + self.draws) * (1 / 3 if self.frozen else 1)

    def model_changes(self) -> dict[str, Any]:
        return {"quality_layers": self.head_layers, "adapter_rank": self.adapter_rank}

    def trains_heads_only(self) -> bool:
        return self.frozen

    def freezes_trunk(self) -> bool:
        return self.adapter_rank > 0

    def problems(self, train: Training) -> Iterator[Problem]:
        if self.frozen and self.mdm_weight:
            yield Problem("objective.mdm_weight", self.mdm_weight, "0 where the network is frozen", "set it to 0")


@options
class DscConfig(ObjectiveOptions):
    """A correction head on a frozen network, trained on tokens written earlier than they are judged."""

    name: ClassVar[str] = "dsc"
    code: ClassVar[str] = f"{HERE}.dsc:build"
    paper: ClassVar[str] = papers.DSC

    step: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """dt: smallest look-back, and the share of the row that is filled."""
    fill_from: Literal["all", "extra"] = "all"
    """Fill any mask of the earlier state, or only those that are visible in the later one."""
    scope: Literal["artifact", "visible"] = "artifact"
    """Judge the filled tokens, or every visible one (with fill_from=extra): another function, which depends on ``step``."""
    head_layers: Natural = 2
    """Blocks of the head."""

    def problems(self, train: Training) -> Iterator[Problem]:
        if self.scope == "visible" and self.fill_from == "all":
            rule = "how many tokens are judged is known before the network says which masks it fills"
            yield Problem(
                "objective.fill_from", self.fill_from, rule, "set objective.fill_from=extra, or scope=artifact"
            )

    def passes(self, steps: int) -> float:
        return 2 / 3

    def model_changes(self) -> dict[str, Any]:
        return {"quality_layers": self.head_layers}

    def trains_heads_only(self) -> bool:
        return True


@options
class PolicyOptions(ObjectiveOptions):
    """What objectives of unmasking policies share."""

    def model_changes(self) -> dict[str, Any]:
        return {"policy": True}

    def trains_heads_only(self) -> bool:
        return True


@options
class PolicyImitationConfig(PolicyOptions):
    """An unmasking policy that says where the frozen network's best token is right."""

    name: ClassVar[str] = "policy_imitation"
    code: ClassVar[str] = f"{HERE}.policy:build_imitation"
    paper: ClassVar[str] = papers.POLICY

    def passes(self, steps: int) -> float:
        return 1 / 3


@options
class PolicyGrpoConfig(PolicyOptions):
    """An unmasking policy by reward, group-relative: right answers in few steps."""

    name: ClassVar[str] = "policy_grpo"
    code: ClassVar[str] = f"{HERE}.policy:build_grpo"
    paper: ClassVar[str] = papers.POLICY
    rewarded: ClassVar[bool] = True

    rollouts: Count = 8
    """G: rollouts of each row."""
    expert_thresholds: tuple[Share, ...] = (0.6, 0.9)
    """E rollouts more, by confidence thresholds; empty is none."""
    speed: NonNegative = 1.0
    """alpha: the reward is r ((L - steps + 1) / L)^alpha."""
    clip: NonNegative = 0.5
    """Largest change of a ratio of likelihoods that counts."""
    inner_epochs: Count = 2
    """Optimiser steps on one set of rollouts."""
    temperature: Positive = 1.0
    """tau of the policy while it is trained."""
    draw_temperature: NonNegative = 0.0
    """Of the tokens; the paper's are greedy."""

    def passes(self, steps: int) -> float:
        # About eight calls a rollout, which is what short rows take; longer ones take more.
        return (self.rollouts + len(self.expert_thresholds)) * 8 / 3 / self.inner_epochs

    def problems(self, train: Training) -> Iterator[Problem]:
        if train.checkpoint_every % self.inner_epochs or train.steps % self.inner_epochs:
            inner = self.inner_epochs
            rule = f"it and steps are multiples of objective.inner_epochs ({inner}): rollouts are not in a checkpoint"
            yield Problem("checkpoint_every", train.checkpoint_every, rule, "change one of them")
