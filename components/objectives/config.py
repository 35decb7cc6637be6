"""Options of the objectives, without torch. Each class says what its objective does to a network and what it costs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal, Protocol

from pydantic import Field

from components import papers
from components.errors import Problem
from components.options import Count, Natural, NonNegative, Positive, Share, options
from components.plugins import Card

HERE = "components.objectives"


class Training(Protocol):
    """What an objective may ask of the training that it is part of: ``components.training.config.TrainConfig``."""

    @property
    def steps(self) -> int: ...
    @property
    def checkpoint_every(self) -> int: ...


@options
class ObjectiveOptions(Card):
    """A way to train."""

    rewarded: ClassVar[bool] = False
    """It learns from rewards of its own rollouts."""

    def passes(self, steps: int) -> float:
        """Work of one optimiser step in forward-backwards of the batch, averaged over a training of so many steps;
        a forward alone is a third."""
        return 1.0

    def model_changes(self) -> dict[str, Any]:
        """What it adds to the network: fields of ``components.models.config.ModelConfig``."""
        return {}

    def teaches_visible(self) -> bool:
        """It teaches the network what to say at visible positions. A corrector that replaces tokens does harm on a
        network that never was taught it, so exports record this."""
        return False

    def trains_heads_only(self) -> bool:
        """It leaves the trunk as it is, so it needs a trained one, and what was taught before still holds."""
        return False

    def freezes_trunk(self) -> bool:
        """The trunk's own weights are made constants, because adapters beside them are trained."""
        return False

    @property
    def row_stride(self) -> int:
        """Every process must have a multiple of so many rows at a time."""
        return 1

    def problems(self, train: Training) -> Iterator[Problem]:
        """Broken rules inside these options and with the training; paths begin below the training."""
        yield from ()


@options
class MdlmConfig(ObjectiveOptions):
    """Masked diffusion: cross-entropy at masked positions, weighted by the schedule."""

    name: ClassVar[str] = "mdlm"
    code: ClassVar[str] = f"{HERE}.mdlm:build"
    paper: ClassVar[str] = papers.MDLM

    weight: Literal["schedule", "flat"] = "schedule"
    """``schedule`` is the likelihood bound, 1/t for log-linear; ``flat`` weighs every time alike."""


@options
class ProsecoConfig(ObjectiveOptions):
    """Joint unmasking and correction: MDLM plus a second pass that corrects the network's own full draft.

    Section and option names follow the paper's own."""

    name: ClassVar[str] = "proseco"
    code: ClassVar[str] = f"{HERE}.proseco:build"
    paper: ClassVar[str] = papers.PROSECO

    mdm_weight: NonNegative = 1.0
    """Of the masked-diffusion term."""
    corrector_weight: NonNegative = 1.0
    """Of the correcting term."""
    weight: Literal["schedule", "flat"] = "schedule"
    """Weight of both terms over time: w(t), or 1."""
    corrector_time_weight: Literal["schedule", "flat"] = "schedule"
    """lambda(t) of the corrector term: the paper's w(t), or 1."""
    draft_positions: Literal["all", "masked"] = "all"
    """Where the draft is the network's own word: everywhere, or at masked positions with the clean
    token elsewhere."""
    draft_token: Literal["argmax", "sample"] = "argmax"
    """Best token, or one draw."""
    rollout: Natural = 0
    """Passes of the corrector over the draft before it is corrected with a gradient: drafts as a sampler
    with several passes meets them. Ours, not the paper's."""
    random_share: Share = 0.0
    """Share of the draft's tokens that are overwritten at random, so that errors are seen which the
    network does not make by itself yet. Ours."""
    error_weighted: bool = False
    """``-log p`` where the draft is wrong and ``-p`` where it is right (the released OWT setting)."""
    start_step: Natural = 0
    """Train as MDLM before this optimiser step."""
    every: Count = 1
    """Correct every n-th row of the batch, rotating, with weight n: 1/n of the extra cost."""

    def passes(self, steps: int) -> float:
        if self.corrector_weight == 0:
            return 1.0
        corrected = (steps - self.start_step) / steps
        return 1.0 + corrected * (1.0 / self.every + self.rollout / 3)

    def teaches_visible(self) -> bool:
        return self.corrector_weight > 0

    @property
    def row_stride(self) -> int:
        return self.every

    def problems(self, train: Training) -> Iterator[Problem]:
        if self.mdm_weight == self.corrector_weight == 0:
            rule = "one weight is positive, or nothing would train"
            yield Problem("objective.mdm_weight", 0.0, rule, "1.0 for both is the paper's setting")
        if self.start_step >= train.steps:
            rule = f"below steps ({train.steps}): the corrector would never train"
            yield Problem("objective.start_step", self.start_step, rule, "lower it")


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
    """Judge the filled tokens, or every visible one: another function, which depends on ``step``."""
    head_layers: Natural = 2
    """Blocks of the head."""

    def passes(self, steps: int) -> float:
        return 2 / 3

    def model_changes(self) -> dict[str, Any]:
        return {"quality_layers": self.head_layers}

    def trains_heads_only(self) -> bool:
        return True


@options
class CmlmConfig(ObjectiveOptions):
    """Conditional masked language model: a uniformly random number of masks, weighted alike."""

    name: ClassVar[str] = "cmlm"
    code: ClassVar[str] = f"{HERE}.cmlm:build"
    paper: ClassVar[str] = papers.CMLM

    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the target that is spread over the vocabulary."""


@options
class SmartConfig(ObjectiveOptions):
    """Masks over self-generated text, the loss at every position."""

    name: ClassVar[str] = "smart"
    code: ClassVar[str] = f"{HERE}.smart:build"
    paper: ClassVar[str] = papers.SMART

    plain_share: Share = 0.5
    """Share of rows that are plain masked diffusion, so that the likelihood stays trained."""
    first_mask: tuple[Share, Share] = (0.5, 0.75)
    """Range of the share that is masked, filled by the network, and partly masked again."""
    fill: Literal["sample", "argmax"] = "sample"
    """Argmax makes errors too rare once the network fits."""
    random_share: Share = 0.0
    """Share of visible tokens that are overwritten at random: the visible-token-supervised mix."""
    masked_weight: NonNegative = 1.0
    """Of the loss at masked positions."""
    wrong_weight: NonNegative = 1.0
    """Of the loss at visible tokens that are wrong."""
    right_weight: NonNegative = 1.0
    """Of the loss at visible tokens that are right."""

    def passes(self, steps: int) -> float:
        return 2 + 1 / 3

    def teaches_visible(self) -> bool:
        return True


@options
class DslConfig(ObjectiveOptions):
    """Clean tokens from noisy unit-norm embeddings, at every position, whatever their signal."""

    name: ClassVar[str] = "dsl"
    code: ClassVar[str] = f"{HERE}.dsl:build"
    paper: ClassVar[str] = papers.DSL

    noise_dim: Count = 32
    """Width of the noisy embeddings."""
    log_mean: float = 1.4
    """Mean of the logarithm of a row's signal-to-noise ratio, which is lognormal."""
    log_std: NonNegative = 0.55
    """Its standard deviation."""
    roar_share: Share = 0.25
    """Share of rows in which a random number of tokens is fully seen and the rest not at all."""
    gamma_max: Positive = 100.0
    """Signal-to-noise ratio of a token that is fully seen."""

    def model_changes(self) -> dict[str, Any]:
        return {"encoder": "dsl", "noise_dim": self.noise_dim, "gamma_max": self.gamma_max}


@options
class MapetConfig(ObjectiveOptions):
    """Permuted prediction in two streams, with position-only masks for what is not seen yet."""

    name: ClassVar[str] = "mapet"
    code: ClassVar[str] = f"{HERE}.mapet:build"
    paper: ClassVar[str] = papers.MAPET

    context: Share = 0.25
    """Share of the row that is context."""
    streams: Literal["two", "one"] = "two"
    """Content and query rows, or query rows alone."""
    upper: Share = 1.0
    """Later ranks than this share do not count in the loss."""

    def passes(self, steps: int) -> float:
        return 3.0 if self.streams == "two" else 2.0


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


@options
class SoftMaskConfig(ObjectiveOptions):
    """Another objective on soft inputs: masks mixed with what a first pass expects there."""

    name: ClassVar[str] = "soft_mask"
    code: ClassVar[str] = f"{HERE}.soft_mask:build"
    paper: ClassVar[str] = papers.SOFT

    base: Literal["mdlm", "proseco", "cmlm", "smart", "prism"] = "mdlm"
    """With its default options."""
    share: Share = 0.8
    """Share of rows with soft inputs; the others see hard masks."""
    top_k: Count = 3
    """Tokens kept of each distribution."""
    beta: NonNegative = 1.0
    """Weight of the mask itself."""

    def softened(self) -> ObjectiveOptions:
        """The objective below."""
        return BASES[self.base]

    def passes(self, steps: int) -> float:
        return 1 / 3 + self.softened().passes(steps)

    def model_changes(self) -> dict[str, Any]:
        return self.softened().model_changes()

    def teaches_visible(self) -> bool:
        return self.softened().teaches_visible()


BASES: dict[str, ObjectiveOptions] = {
    card.name: card() for card in (MdlmConfig, ProsecoConfig, CmlmConfig, SmartConfig, PrismConfig)
}
"""What can be softened."""
