"""Options of the objectives, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class MdlmConfig:
    """Masked diffusion."""

    weight: Literal["schedule", "flat"] = "schedule"
    """``schedule`` is the likelihood bound, 1/t for log-linear; ``flat`` weighs every time alike."""

    @property
    def passes(self) -> float:
        """Work of one optimiser step in forward-backwards of the batch; a forward alone is a third."""
        return 1.0


@dataclass(frozen=True)
class ProsecoConfig:
    """Joint unmasking and correction. Section and option names follow the paper's own."""

    mdm_weight: float = 1.0
    corrector_weight: float = 1.0
    weight: Literal["schedule", "flat"] = "schedule"
    """Weight of both terms over time: w(t), or 1."""
    corrector_time_weight: Literal["schedule", "flat"] = "schedule"
    """lambda(t) of the corrector term: the paper's w(t), or 1."""
    draft_positions: Literal["all", "masked"] = "all"
    """Where the draft is the network's own word: everywhere, or at masked positions with the clean
    token elsewhere."""
    draft_token: Literal["argmax", "sample"] = "argmax"
    """Best token, or one draw."""
    rollout: int = 0
    """Passes of the corrector over the draft before it is corrected with a gradient: drafts as a sampler
    with several passes meets them. Ours, not the paper's."""
    random_share: float = 0.0
    """Share of the draft's tokens that are overwritten at random, so that errors are seen which the
    network does not make by itself yet. Ours."""
    error_weighted: bool = False
    """``-log p`` where the draft is wrong and ``-p`` where it is right (the released OWT setting)."""
    start_step: int = 0
    """Train as MDLM before this optimiser step."""
    every: int = 1
    """Correct every n-th row of the batch, rotating, with weight n: 1/n of the extra cost."""


@dataclass(frozen=True)
class PrismConfig:
    """A quality head that says how likely each token is, were it hidden."""

    num_fills: int = 4
    """K: masked positions that are filled and judged; exact for 1, a trade for more."""
    draws: int = 1
    """n_y: filled versions of each noisy row."""
    mdm_weight: float = 0.5
    """lambda of the masked-diffusion term."""
    select: Literal["random", "confident"] = "random"
    fill: Literal["sample", "argmax"] = "sample"
    frozen: bool = False
    """Train the head alone; needs mdm_weight = 0 and no weight decay."""
    head_layers: int = 0
    """Blocks of the head: 0 for Sudoku, 1 for OpenWebText in the released code."""
    adapter_rank: int = 0
    """Train low-rank adapters of this rank and the head, the network's own weights constant (256 for LLaDA)."""

    @property
    def model_changes(self) -> dict[str, Any]:
        return {"quality_layers": self.head_layers, "adapter_rank": self.adapter_rank}

    @property
    def passes(self) -> float:
        """Work of one optimiser step in forward-backwards of the batch; a forward alone is a third."""
        return (1 + self.draws) * (1 / 3 if self.frozen else 1)


@dataclass(frozen=True)
class DscConfig:
    """A correction head on a frozen generator, trained on tokens written earlier than they are judged."""

    step: float = 0.1
    """dt: smallest look-back, and the share of the row that is filled."""
    fill_from: Literal["all", "extra"] = "all"
    """Fill any mask of the earlier state, or only those that are visible in the later one."""
    scope: Literal["artifact", "visible"] = "artifact"
    """Judge the filled tokens, or every visible one: another function, which depends on ``step``."""
    head_layers: int = 2

    @property
    def model_changes(self) -> dict[str, Any]:
        return {"quality_layers": self.head_layers}

    @property
    def passes(self) -> float:
        """Work of one optimiser step in forward-backwards of the batch; a forward alone is a third."""
        return 2 / 3


@dataclass(frozen=True)
class CmlmConfig:
    """Conditional masked language model: a uniformly random number of masks."""

    label_smoothing: float = 0.1

    @property
    def passes(self) -> float:
        """Work of one optimiser step in forward-backwards of the batch; a forward alone is a third."""
        return 1.0


@dataclass(frozen=True)
class SmartConfig:
    """Masks over self-generated text, the loss at every position."""

    plain_share: float = 0.5
    """Share of rows that are plain masked diffusion, so that the likelihood stays trained."""
    first_mask: tuple[float, float] = (0.5, 0.75)
    """Range of the share that is masked, filled by the network, and partly masked again."""
    fill: Literal["sample", "argmax"] = "sample"
    """Argmax makes errors too rare once the network fits."""
    random_share: float = 0.0
    """Share of visible tokens that are overwritten at random: the visible-token-supervised mix."""
    masked_weight: float = 1.0
    wrong_weight: float = 1.0
    right_weight: float = 1.0

    @property
    def passes(self) -> float:
        """Work of one optimiser step in forward-backwards of the batch; a forward alone is a third."""
        return 2 + 1 / 3


@dataclass(frozen=True)
class DslConfig:
    """Clean tokens from noisy unit-norm embeddings, at every position, whatever their signal."""

    noise_dim: int = 32
    log_mean: float = 1.4
    log_std: float = 0.55
    """Signal-to-noise ratio of a row: lognormal."""
    roar_share: float = 0.25
    """Share of rows in which a random number of tokens is fully seen and the rest not at all."""
    gamma_max: float = 100.0

    @property
    def model_changes(self) -> dict[str, Any]:
        return {"encoder": "dsl", "noise_dim": self.noise_dim, "gamma_max": self.gamma_max}

    @property
    def passes(self) -> float:
        """Work of one optimiser step in forward-backwards of the batch; a forward alone is a third."""
        return 1.0


@dataclass(frozen=True)
class MapetConfig:
    """Permuted prediction with position-only masks for what is not seen yet."""

    context: float = 0.25
    """Share of the row that is context."""
    streams: Literal["two", "one"] = "two"
    upper: float = 1.0
    """Later ranks than this share do not count in the loss."""

    @property
    def passes(self) -> float:
        """Work of one optimiser step in forward-backwards of the batch; a forward alone is a third."""
        return 3.0 if self.streams == "two" else 2.0


@dataclass(frozen=True)
class PolicyImitationConfig:
    """An unmasking policy that says where the frozen network's best token is right."""

    @property
    def model_changes(self) -> dict[str, Any]:
        return {"policy": True}

    @property
    def passes(self) -> float:
        """Work of one optimiser step in forward-backwards of the batch; a forward alone is a third."""
        return 1 / 3


@dataclass(frozen=True)
class PolicyGrpoConfig:
    """An unmasking policy by group-relative policy optimisation on right answers and few steps."""

    rollouts: int = 8
    """G: rollouts of each row."""
    expert_thresholds: tuple[float, ...] = (0.6, 0.9)
    """E rollouts more, by confidence thresholds; empty is none."""
    speed: float = 1.0
    """alpha: the reward is r ((L - steps + 1) / L)^alpha."""
    clip: float = 0.5
    inner_epochs: int = 2
    """Optimiser steps on one set of rollouts."""
    temperature: float = 1.0
    """tau of the policy while it is trained."""
    draw_temperature: float = 0.0
    """Of the tokens; the paper's are greedy."""

    @property
    def model_changes(self) -> dict[str, Any]:
        return {"policy": True}

    @property
    def passes(self) -> float:
        """Work of one optimiser step in forward-backwards of the batch; a forward alone is a third."""
        # About eight calls a rollout, which is what short rows take; longer ones take more.
        return (self.rollouts + len(self.expert_thresholds)) * 8 / 3 / self.inner_epochs


@dataclass(frozen=True)
class SoftMaskConfig:
    """Another objective on soft inputs: masks mixed with what a first pass expects there."""

    base: Literal["mdlm", "proseco", "cmlm", "smart", "prism"] = "mdlm"
    """With its default options."""
    share: float = 0.8
    """Share of rows with soft inputs; the others see hard masks."""
    top_k: int = 3
    beta: float = 1.0

    @property
    def model_changes(self) -> dict[str, Any]:
        return getattr(BASES[self.base], "model_changes", {})

    @property
    def passes(self) -> float:
        """Work of one optimiser step in forward-backwards of the batch; a forward alone is a third."""
        return 1 / 3 + float(getattr(BASES[self.base], "passes", 2.0))


BASES: dict[str, Any] = {
    "mdlm": MdlmConfig(),
    "proseco": ProsecoConfig(),
    "cmlm": CmlmConfig(),
    "smart": SmartConfig(),
    "prism": PrismConfig(),
}
"""What can be softened."""
