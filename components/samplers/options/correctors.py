"""Options of correctors, without torch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from components import papers
from components.errors import Problem
from components.options import Count, Natural, Share, options
from components.plugins import Family
from components.samplers.options.card import CorrectorOptions, ScoredOptions, SwapOptions, Whole

HERE = "components.samplers.correctors"
Shares = Annotated[tuple[Share, ...], Field(min_length=1)]


@options
class NoCorrectorConfig(CorrectorOptions):
    """A token once written stays."""

    name: ClassVar[str] = "none"
    code: ClassVar[str] = f"{HERE}.base:NoCorrector"


@options
class ProsecoCorrectorConfig(CorrectorOptions):
    """Rewrite the draft with the network's own argmax, S times, every omega ticks."""

    name: ClassVar[str] = "proseco"
    code: ClassVar[str] = f"{HERE}.proseco:ProsecoCorrector"
    paper: ClassVar[str] = papers.PROSECO
    paced_by: ClassVar[str] = "every"
    remedy: ClassVar[str] = "raise steps, or lower corrector.every or corrector.start"

    every: Count = 1
    """omega: the loop runs at ticks that this divides."""
    passes: Count = 1
    """S: corrector calls in one loop, at most."""
    draft: Literal["argmax", "sample"] = "sample"
    """First draft. An argmax draft of an all-mask row is the same for every sample and costs
    diversity; the paper uses it."""
    draft_positions: Literal["masked", "all"] = "masked"
    """Draft visible positions too (the network's raw opinion), or carry them over."""
    inner: Literal["argmax", "sample", "top_k"] = "argmax"
    """Rewriting inside the loop. ``top_k`` changes only the most confident disagreements."""
    inner_top_k: Count = 1
    """How many those are; 1 is the gentlest."""
    start: Natural = 1
    """First tick at which the loop may run (burn-in); ticks are numbered from 1."""
    region: Literal["all", "generated"] = "all"
    """With blocks: rewrite everywhere, or up to the end of the active block (later blocks then are a
    frozen greedy draft, as in the released LLaDA sampler)."""
    skip_above: Share = 1.0
    """Skip the loop when every drafted token is at least this probable; 1 never skips."""

    def needs(self) -> tuple[str, ...]:
        return ("visible_supervision",)

    def may_skip(self) -> bool:
        return self.skip_above < 1

    def reads_drafts(self) -> bool:
        return self.draft_positions == "all"

    def window(self, ticks: int, most: int) -> tuple[int, int]:
        return -(-max(self.start, self.every) // self.every) * self.every, most


@options
class AncestralOnly(CorrectorOptions):
    """What ReMDM's correctors share: the ancestral schedule makes up for what they remask."""

    def fits(self, sampler: Whole) -> Iterator[Problem]:
        yield from super().fits(sampler)
        if sampler.schedule.name != "ancestral":
            rule = "ReMDM makes up for what it remasks in the ancestral schedule"
            yield Problem("schedule.name", sampler.schedule.name, rule, "use schedule.name=ancestral")


@options
class RemdmConfig(AncestralOnly):
    """ReMDM: visible tokens go back to the mask with probability sigma, the schedule compensates."""

    name: ClassVar[str] = "remdm"
    code: ClassVar[str] = f"{HERE}.remdm:Remdm"
    paper: ClassVar[str] = papers.REMDM

    sigma: Literal["cap", "rescale", "conf", "forward_backward", "dfm"] = "cap"
    """Rule of the remasking probability."""
    eta: Share = 0.02
    """cap: the largest sigma. rescale and conf: share of the largest allowed sigma. Re-tune it with steps."""
    switch: Share = 1.0
    """Remask only at times below this."""


@options
class RemdmLoopConfig(AncestralOnly):
    """ReMDM's loop: plain until t_on, then remask and reveal at constant alpha_on, then plain to the end."""

    name: ClassVar[str] = "remdm_loop"
    code: ClassVar[str] = f"{HERE}.remdm:RemdmLoop"
    paper: ClassVar[str] = papers.REMDM

    eta: Share = 0.02
    """Remasking probability inside the loop."""
    t_on: Annotated[float, Field(gt=0, lt=1)] = 0.55
    """Time at which the loop begins."""
    t_off: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Time at which it ends."""
    alpha_on: Annotated[float, Field(gt=0, lt=1)] = 0.9
    """Visible share inside the loop."""

    def fits(self, sampler: Whole) -> Iterator[Problem]:
        yield from super().fits(sampler)
        if self.t_off >= self.t_on:
            yield Problem("corrector.t_off", (self.t_off, self.t_on), "t_off < t_on", "0.05 and 0.55 are published")


@options
class PrismConfig(ScoredOptions, SwapOptions):
    """PRISM: remask the tokens to which the quality head gives least, and reveal as many more."""

    name: ClassVar[str] = "prism"
    code: ClassVar[str] = f"{HERE}.prism:Prism"
    paper: ClassVar[str] = papers.PRISM
    paced_by: ClassVar[str] = "start"
    remedy: ClassVar[str] = "lower corrector.start, raise corrector.stop, or raise steps"

    num_remasked: Count = 1
    """Tokens a tick; with ``eta`` above 0 their number is binomial instead."""
    eta: Share = 0.0
    """Remask Binomial(visible, min(eta, sigma_max)) tokens a tick."""
    start: Share = 0.5
    """Where the window of ticks begins, as a share of all that a row has before it is full."""
    stop: Share = 1.0
    """Where it ends."""

    def window(self, ticks: int, most: int) -> tuple[int, int]:
        # At the last tick nothing is left to make up for what would be masked.
        return math.floor(self.start * most) + 1, min(math.floor(self.stop * most), most - 1)

    def fits(self, sampler: Whole) -> Iterator[Problem]:
        yield from super().fits(sampler)
        if self.start >= self.stop:
            yield Problem("corrector.start", (self.start, self.stop), "start < stop", "0.5 and 1 are usual")


@options
class DscConfig(ScoredOptions):
    """Decoupled Self-Correction (BackPlay): remask what the head calls wrong, with a block list."""

    name: ClassVar[str] = "dsc"
    code: ClassVar[str] = f"{HERE}.dsc:Dsc"
    paper: ClassVar[str] = papers.DSC
    paced_by: ClassVar[str] = "every"
    remedy: ClassVar[str] = "lower corrector.every, or raise steps"

    threshold: float = 0.5
    """tau: remask tokens whose error, 1 - quality, is larger; below 0 all, above 1 none."""
    num_remasked: Count = 2
    """K: at most so many at a time."""
    every: Count = 1
    """d: ticks between corrections."""
    queue: Count = 8
    """|H|: the last so many remasked positions are not remasked again."""

    def window(self, ticks: int, most: int) -> tuple[int, int]:
        return self.every, min(most, ticks - 1)  # what the last tick masked would be filled in one call

    def fits(self, sampler: Whole) -> Iterator[Problem]:
        yield from super().fits(sampler)
        if not sampler.schedule.ends_itself():
            rule = "Decoupled Self-Correction goes back in time, so the schedule must run until the row is full"
            remedy = "set schedule.per_call, or use schedule.name=threshold"
            yield Problem("schedule.name", sampler.schedule.name, rule, remedy)


@options
class Phased(SwapOptions):
    """What swapping correctors with phases share."""

    paced_by: ClassVar[str] = "starts"
    remedy: ClassVar[str] = "lower the first of corrector.starts, or raise steps"

    starts: Shares = (0.4, 0.6, 0.8)
    """Shares of the ticks that a row has at which a phase begins."""
    shares: Shares = (0.25, 0.125, 0.0625)
    """Swaps of each phase, as a share of the mean number of reveals a tick; at least 1."""

    def window(self, ticks: int, most: int) -> tuple[int, int]:
        return math.floor(self.starts[0] * most) + 1, most - 1

    def fits(self, sampler: Whole) -> Iterator[Problem]:
        yield from super().fits(sampler)
        if len(self.starts) != len(self.shares) or list(self.starts) != sorted(self.starts):
            rule = "ascending, one for each of corrector.shares"
            yield Problem("corrector.starts", self.starts, rule, "e.g. [0.4, 0.6, 0.8]")


@options
class FreeCorrectionConfig(ScoredOptions, Phased):
    """Training-free correction: swap the tokens of lowest score for as many fresh ones."""

    name: ClassVar[str] = "free_correction"
    code: ClassVar[str] = f"{HERE}.free_correction:FreeCorrection"
    paper: ClassVar[str] = papers.FREE

    score: Literal["mean", "visible", "commit", "drop", "loo", "quality", "random"] = "mean"
    """As prism's; mean is the paper's."""


@options
class RandomSwapConfig(Phased):
    """The control for every swapping corrector: remask as many tokens, at random."""

    name: ClassVar[str] = "random_swap"
    code: ClassVar[str] = f"{HERE}.free_correction:FreeCorrection"
    paper: ClassVar[str] = papers.FREE

    score: Literal["random"] = "random"
    """What is lowest."""


@options
class Refills(CorrectorOptions):
    """What Mask-Predict and SMART share: the least confident of all positions are masked again."""

    refills: ClassVar[bool] = True

    def fits(self, sampler: Whole) -> Iterator[Problem]:
        yield from super().fits(sampler)
        if not sampler.schedule.says_what_stays or not sampler.unmask.by_confidence:
            rule = f"{self.name} needs to know how many masks stay, and goes by confidence"
            remedy = "use schedule.name=linear and unmask.name=confidence"
            yield Problem("schedule.name", sampler.schedule.name, rule, remedy)
        elif not sampler.unmask.as_is():
            rule = f"{self.name} compares confidences as they are"
            yield Problem("unmask.noise", sampler.unmask.name, rule, "use unmask.noise=0")


@options
class MaskPredictConfig(Refills):
    """Mask-Predict: the least confident of all positions are masked again."""

    name: ClassVar[str] = "mask_predict"
    code: ClassVar[str] = f"{HERE}.mask_predict:MaskPredict"
    paper: ClassVar[str] = papers.CMLM


@options
class SmartConfig(Refills):
    """SMART decoding: as Mask-Predict, but every pass re-predicts visible tokens and confidences, too."""

    name: ClassVar[str] = "smart"
    code: ClassVar[str] = f"{HERE}.mask_predict:Smart"
    paper: ClassVar[str] = papers.SMART

    def needs(self) -> tuple[str, ...]:
        return ("visible_supervision",)


@options
class TokenEditConfig(CorrectorOptions):
    """Token editing: change visible tokens that the network disagrees with."""

    name: ClassVar[str] = "token_edit"
    code: ClassVar[str] = f"{HERE}.token_edit:TokenEdit"
    paper: ClassVar[str] = papers.LLADA21

    threshold: Share = 0.5
    """tau_e: change where another token has more than this probability."""
    action: Literal["replace", "remask"] = "replace"
    """Overwrite at once, or reset to the mask and let the schedule write it again (T2M)."""
    rounds: Natural = 16
    """Calls after the last mask is gone; they end at the first that proposes nothing."""

    def needs(self) -> tuple[str, ...]:
        return ("visible_supervision",) if self.action == "replace" else ()

    def fits(self, sampler: Whole) -> Iterator[Problem]:
        yield from super().fits(sampler)
        if self.action == "remask" and not sampler.schedule.ends_itself():
            rule = "remasked tokens must be written again, so the schedule must run until the row is full"
            yield Problem("schedule.name", sampler.schedule.name, rule, "use schedule.name=threshold")


CORRECTORS: Family[CorrectorOptions] = Family(
    "corrector",
    CorrectorOptions,
    NoCorrectorConfig, ProsecoCorrectorConfig, RemdmConfig, RemdmLoopConfig, PrismConfig, DscConfig, FreeCorrectionConfig,
    RandomSwapConfig, MaskPredictConfig, SmartConfig, TokenEditConfig,
)  # fmt: skip
