"""Options of objectives that train the network itself, without torch."""

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
class MdlmConfig(ObjectiveOptions):
    """Masked diffusion: cross-entropy at masked positions, weighted by the schedule."""

    name: ClassVar[str] = "mdlm"
    code: ClassVar[str] = f"{HERE}.mdlm:build"
    paper: ClassVar[str] = papers.MDLM
    keeps_logits: ClassVar[bool] = False

    weight: Literal["schedule", "flat"] = "schedule"
    """``schedule`` is the likelihood bound, 1/t for log-linear; ``flat`` weighs every time alike."""


@options
class ProsecoConfig(ObjectiveOptions):
    """Joint unmasking and correction: MDLM plus a second pass that corrects the network's own full draft.

    Section and option names follow the paper's own."""

    name: ClassVar[str] = "proseco"
    code: ClassVar[str] = f"{HERE}.proseco:build"
    paper: ClassVar[str] = papers.PROSECO
    keeps_logits: ClassVar[bool] = False

    mdm_weight: NonNegative = 1.0
    """Of the masked-diffusion term."""
    corrector_weight: NonNegative = 1.0
    """Of the correcting term."""
    weight: Literal["schedule", "flat"] = "schedule"
    """Weight of the masked-diffusion term over time: w(t), or 1."""
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

    def smallest_time(self) -> float:
        # As in the released scripts: the corrector's weight, 1/t, falls on every position and not on the few masked ones,
        # so that at 1e-3 a few rows of small t would drown all others.
        return 0.1 if self.corrector_weight else 1e-3

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
    keeps_logits: ClassVar[bool] = False

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
    keeps_logits: ClassVar[bool] = False

    context: Share = 0.25
    """Share of the row that is context."""
    streams: Literal["two", "one"] = "two"
    """Content and query rows, or query rows alone."""
    upper: Share = 1.0
    """Later ranks than this share do not count in the loss."""

    def passes(self, steps: int) -> float:
        return 3.0 if self.streams == "two" else 2.0
