"""Options of samplers and of their parts, without torch. Which of them fit together is in ``rules``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from components.diffusion.config import DrawConfig
from components.errors import Problem

# --- schedules -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AncestralConfig:
    """Every masked position unmasks at a tick drawn ahead, independent of the network."""

    t_end: float = 1e-5
    """The grid runs linearly from 1 to t_end; what is left is filled by one last call."""


@dataclass(frozen=True)
class FirstHittingConfig:
    """One call for every reveal: ancestral sampling with infinitely many ticks."""

    per_call: int = 1
    """Positions revealed by one call; more than 1 is no longer exact."""


@dataclass(frozen=True)
class FixedCountConfig:
    """The same number of positions at every tick."""

    per_call: int = 0
    """Positions a tick, until none is masked. 0 splits the masked positions evenly over the ticks,
    the remainder to the first ones."""


@dataclass(frozen=True)
class CosineConfig:
    """MaskGIT's curve: floor(N cos(pi/2 s/T)) masks stay after tick s, at least 1 before the last."""


@dataclass(frozen=True)
class LinearConfig:
    """Mask-Predict's line: floor(N (T - s) / T) masks stay after tick s, at least 1 before the last."""


@dataclass(frozen=True)
class ThresholdConfig:
    """Everything whose confidence passes a threshold, and always the first position in order."""

    threshold: float = 0.9


@dataclass(frozen=True)
class FactorConfig:
    """Fast-dLLM's factor rule: the most n positions with (n + 1)(1 - c_n) < factor, at least one."""

    factor: float = 1.0


@dataclass(frozen=True)
class EntropyBoundConfig:
    """The largest set in order whose entropies sum to at most gamma beyond the largest of them."""

    gamma: float = 0.1
    """Nats; bounds the error of drawing the set independently."""


@dataclass(frozen=True)
class LearnedConfig:
    """A policy network decides for every masked position whether to reveal it now."""

    temperature: float = 1.0
    """tau_pi: divides the policy's logits."""
    scale: float = 1.0
    """beta: reveal with probability min(1, beta s); larger is faster."""


@dataclass(frozen=True)
class AtEndConfig:
    """Nothing before the last tick, then everything: for inputs that evolve themselves."""


# --- orders ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RandomConfig:
    """Positions in random order."""


@dataclass(frozen=True)
class ConfidenceConfig:
    """Positions whose drawn token has the highest probability."""

    noise: float = 0.0
    """MaskGIT's choice temperature: Gumbel noise on the log-confidence, fading linearly to 0 over the ticks."""


@dataclass(frozen=True)
class MarginConfig:
    """Positions with the largest gap between the best two probabilities."""


@dataclass(frozen=True)
class EntropyConfig:
    """Positions with the lowest entropy."""


# --- correctors ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NoCorrectorConfig:
    """A token once written stays."""


@dataclass(frozen=True)
class ProsecoCorrectorConfig:
    """ProSeCo's corrector loop."""

    every: int = 1
    """omega: the loop runs at ticks that this divides."""
    passes: int = 1
    """S: corrector calls in one loop, at most."""
    draft: Literal["argmax", "sample"] = "sample"
    """First draft. An argmax draft of an all-mask row is the same for every sample and costs
    diversity; the paper uses it."""
    draft_positions: Literal["masked", "all"] = "masked"
    """Draft visible positions too (the network's raw opinion), or carry them over."""
    inner: Literal["argmax", "sample", "top_k"] = "argmax"
    """Rewriting inside the loop. ``top_k`` changes only the most confident disagreements."""
    inner_top_k: int = 1
    start: int = 1
    """First tick at which the loop may run (burn-in)."""
    region: Literal["all", "generated"] = "all"
    """With blocks: rewrite everywhere, or up to the end of the active block (later blocks then are a
    frozen greedy draft, as in the released LLaDA sampler)."""
    skip_above: float = 1.0
    """Skip the loop when every drafted token is at least this probable; 1 never skips."""


@dataclass(frozen=True)
class RemdmConfig:
    """ReMDM: visible tokens go back to the mask with probability sigma, the schedule compensates."""

    sigma: Literal["cap", "rescale", "conf", "forward_backward", "dfm"] = "cap"
    eta: float = 0.02
    """cap: the largest sigma. rescale and conf: share of the largest allowed sigma. Re-tune it with steps."""
    switch: float = 1.0
    """Remask only at times below this."""


@dataclass(frozen=True)
class RemdmLoopConfig:
    """ReMDM's loop: plain until t_on, then remask and reveal at constant alpha_on, then plain to the end."""

    eta: float = 0.02
    t_on: float = 0.55
    t_off: float = 0.05
    alpha_on: float = 0.9


@dataclass(frozen=True)
class PrismConfig:
    """PRISM: remask the tokens to which the quality head gives least."""

    num_remasked: int = 1
    """Tokens a tick; with ``eta`` above 0 their number is binomial instead."""
    eta: float = 0.0
    """Remask Binomial(visible, min(eta, sigma_max)) tokens a tick."""
    start: float = 0.5
    stop: float = 1.0
    """Window of ticks, as shares of all."""
    score: Literal["quality", "visible", "mean", "commit", "drop", "loo"] = "quality"

    @property
    def needs(self) -> tuple[str, ...]:
        return ("quality_head",) if self.score == "quality" else ()


@dataclass(frozen=True)
class DscConfig:
    """Decoupled Self-Correction (BackPlay): remask what the head calls wrong, with a block list."""

    threshold: float = 0.5
    """tau: remask tokens whose error, 1 - quality, is larger."""
    num_remasked: int = 2
    """K: at most so many at a time."""
    every: int = 1
    """d: ticks between corrections."""
    queue: int = 8
    """|H|: the last so many remasked positions are not remasked again."""
    score: Literal["quality", "visible", "mean", "commit", "drop", "loo"] = "quality"

    @property
    def needs(self) -> tuple[str, ...]:
        return ("quality_head",) if self.score == "quality" else ()


@dataclass(frozen=True)
class FreeCorrectionConfig:
    """Training-free correction: swap the tokens of lowest score for as many fresh ones."""

    score: Literal["mean", "visible", "commit", "drop", "loo", "quality", "random"] = "mean"
    """mean: the token's probability averaged over the calls since it was written (the paper);
    visible: the last of them; commit: when written; drop: visible minus commit; loo: with the
    token itself masked, L more calls (reference); random: the control."""
    starts: tuple[float, ...] = (0.4, 0.6, 0.8)
    """Shares of the ticks at which a phase begins."""
    shares: tuple[float, ...] = (0.25, 0.125, 0.0625)
    """Swaps of each phase, as a share of the mean number of reveals a tick; at least 1."""

    @property
    def needs(self) -> tuple[str, ...]:
        return ("quality_head",) if self.score == "quality" else ()


@dataclass(frozen=True)
class RandomSwapConfig:
    """The control for every swapping corrector: remask as many tokens, at random."""

    starts: tuple[float, ...] = (0.4, 0.6, 0.8)
    shares: tuple[float, ...] = (0.25, 0.125, 0.0625)


@dataclass(frozen=True)
class MaskPredictConfig:
    """Mask-Predict: the least confident of all positions are masked again."""


@dataclass(frozen=True)
class SmartConfig:
    """SMART decoding: as Mask-Predict, but every pass re-predicts visible tokens and confidences, too."""


@dataclass(frozen=True)
class TokenEditConfig:
    """Token editing: change visible tokens that the network disagrees with."""

    threshold: float = 0.5
    """tau_e: change where another token has more than this probability."""
    action: Literal["replace", "remask"] = "replace"
    """Overwrite at once, or reset to the mask and let the schedule write it again (T2M)."""
    rounds: int = 16
    """Calls after the last mask is gone; they end at the first that proposes nothing."""

    @property
    def needs(self) -> tuple[str, ...]:
        return ("visible_supervision",) if self.action == "replace" else ()


# --- inputs ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HardConfig:
    """The network sees tokens and masks."""


@dataclass(frozen=True)
class MixtureConfig:
    """Mixture of inputs: a written token stays mixed with the distribution it was drawn from."""

    beta: float = 1.0
    """Weight of the drawn token; infinity is hard decoding."""
    top_k: int = 8
    """Tokens kept of each distribution."""
    fade: float = 1.0
    """The soft share shrinks with (1 - s/T)^fade; 0 keeps it."""


@dataclass(frozen=True)
class SoftMaskConfig:
    """Soft masks: a mask is mixed with what the network expected there, less the more uncertain it was."""

    beta: float = 1.0
    top_k: int = 3
    fade: float = 1.0


@dataclass(frozen=True)
class DslSdeConfig:
    """DSL's stochastic differential equation: every position follows a noisy embedding."""

    gamma_max: float = 100.0
    """Signal-to-noise ratio at the end."""


# --- search ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SingleConfig:
    """One chain a row."""


@dataclass(frozen=True)
class BestOfConfig:
    """Independent chains; keep the best."""

    particles: int = 4
    reward: str = ""
    """A scorer; empty ranks by the probability that the network gave to the written tokens."""


@dataclass(frozen=True)
class SelfRewardingConfig:
    """Self-rewarding SMC: chains are weighted by the probability of the tokens they now hold."""

    particles: int = 4
    exponent: float = 1.0
    """lambda: the target is p^(1 + lambda) for an exact kernel."""
    ramp: bool = False
    """lambda rises linearly with the ticks, as in the released MDLM path."""
    every: int = 4
    """Ticks between resampling points."""
    ess: float = 0.5
    """Resample when the effective sample size is below this share of the particles; 1 always."""
    resampling: Literal["multinomial", "systematic"] = "systematic"
    pick: Literal["weight", "best", "first"] = "weight"
    """weight: by the final weights; best: the largest total probability; first: particle 0.
    Three different laws: the pick is part of the method."""


@dataclass(frozen=True)
class RewardSearchConfig:
    """FK steering and particle Gibbs: chains are weighted by the expected reward of where they lead."""

    particles: int = 4
    sweeps: int = 1
    """m: more than 1 is particle Gibbs, which keeps one chain of each sweep as the reference of the next."""
    reward: str = "nelbo"
    """A scorer, signed so that larger is better."""
    beta: float = 0.1
    """The target is p exp(reward / beta)."""
    every: int = 4
    ess: float = 0.5
    resampling: Literal["multinomial", "systematic"] = "systematic"
    guesses: int = 1
    """phi: completions that are drawn to estimate the reward of a state."""
    guess: Literal["argmax", "sample"] = "argmax"
    reference: Literal["weight", "best"] = "weight"
    """How the next reference is chosen. ``best`` is an optimiser and does not sample the target."""
    pick: Literal["weight", "best", "first"] = "weight"
    """weight: the last reference; best: the largest reward seen; first: particle 0 of the last sweep."""
    stop_above: float | None = None
    """No further sweep once a reference's reward reaches this."""


# --- the whole -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GuidanceConfig:
    """Classifier-free guidance: (1 + gamma) conditional - gamma unconditional, in every pass."""

    gamma: float = 0.0
    """0 is off and costs nothing; otherwise every call counts twice."""
    null: Literal["prompt", "label"] = "prompt"
    """What the unconditional half misses: the prompt, masked, or the class label."""


@dataclass(frozen=True)
class BlocksConfig:
    """Write the row in blocks from left to right."""

    length: int = 0
    """Positions in a block; 0 is one block."""
    early_end: bool = True
    """After an end token with nothing masked before it, fill the rest without calls."""


@dataclass(frozen=True)
class GuardConfig:
    """Limits that every corrector obeys. 0 is no limit."""

    edits_per_position: int = 0
    """How often one position may be changed back or over."""
    edit_share: float = 0.0
    """Largest share of the row's writable positions that one call may change."""
    cooldown: int = 0
    """Ticks after writing during which a token is left alone."""


@dataclass(frozen=True)
class SamplerConfig:
    """One sampler, made of parts."""

    preset: str = "mdlm"
    steps: int = 32
    """T: unmasking ticks. Calls are counted by the engine; ticks without an event need none.
    0 takes as many as the row's length (twice that for schedules that end by themselves)."""
    schedule: Any = field(default_factory=AncestralConfig)
    unmask: Any = field(default_factory=RandomConfig)
    draw: DrawConfig = field(default_factory=DrawConfig)
    corrector: Any = field(default_factory=NoCorrectorConfig)
    inputs: Any = field(default_factory=HardConfig)
    search: Any = field(default_factory=SingleConfig)
    guidance: GuidanceConfig = field(default_factory=GuidanceConfig)
    blocks: BlocksConfig = field(default_factory=BlocksConfig)
    guard: GuardConfig = field(default_factory=GuardConfig)
    encoder: Literal["any", "dsl"] = "any"
    """The input encoder that the network must have; ``dsl`` reads noisy unit-norm embeddings."""

    def problems(self, path: str) -> list[Problem]:
        """What is wrong with it, and with the combination. Nothing is run for it."""
        from components.samplers.rules import judge

        return judge(self, path)
