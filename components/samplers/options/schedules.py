"""Options of schedules, without torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar

from pydantic import Field

from components import papers
from components.errors import Problem
from components.options import Count, Natural, NonNegative, Share, options
from components.plugins import Family
from components.samplers.options.card import ScheduleOptions, Whole

HERE = "components.samplers.schedules"


@options
class AncestralConfig(ScheduleOptions):
    """Every masked position unmasks at a tick drawn ahead, independent of the network."""

    name: ClassVar[str] = "ancestral"
    code: ClassVar[str] = f"{HERE}.ancestral:Ancestral"
    paper: ClassVar[str] = papers.MDLM
    picks: ClassVar[bool] = True

    t_end: Annotated[float, Field(ge=0, lt=1)] = 1e-5
    """The grid runs linearly from 1 to t_end; what is left is filled by one last call."""


@options
class FirstHittingConfig(ScheduleOptions):
    """One call for every reveal, exact: ancestral sampling with infinitely many ticks."""

    name: ClassVar[str] = "first_hitting"
    code: ClassVar[str] = f"{HERE}.ancestral:FirstHitting"
    paper: ClassVar[str] = papers.FHS
    picks: ClassVar[bool] = True

    per_call: Count = 1
    """Positions revealed by one call; more than 1 is no longer exact."""

    def most_ticks(self, ticks: int, length: int) -> int:
        return min(ticks, -(-length // self.per_call))


@options
class FixedCountConfig(ScheduleOptions):
    """The same number of positions at every tick."""

    name: ClassVar[str] = "fixed_count"
    code: ClassVar[str] = f"{HERE}.counted:FixedCount"
    paper: ClassVar[str] = papers.LLADA
    counts: ClassVar[bool] = True
    takes_blocks: ClassVar[bool] = True

    per_call: Natural = 0
    """Positions a tick, until none is masked. 0 splits the masked positions evenly over the ticks,
    the remainder to the first ones."""

    def ends_itself(self) -> bool:
        return self.per_call > 0

    def most_ticks(self, ticks: int, length: int) -> int:
        return min(ticks, -(-length // self.per_call)) if self.per_call else min(ticks, length)

    def keeps_to_plan(self) -> bool:
        return self.per_call == 0


@options
class CosineConfig(ScheduleOptions):
    """MaskGIT's curve, few at first and many late: floor(N cos(pi/2 s/T)) masks stay after tick s.

    At least 1 stays before the last tick."""

    name: ClassVar[str] = "cosine"
    code: ClassVar[str] = f"{HERE}.counted:Cosine"
    paper: ClassVar[str] = papers.MASKGIT
    counts: ClassVar[bool] = True
    says_what_stays: ClassVar[bool] = True


@options
class LinearConfig(ScheduleOptions):
    """Mask-Predict's line: floor(N (T - s) / T) masks stay after tick s, at least 1 before the last."""

    name: ClassVar[str] = "linear"
    code: ClassVar[str] = f"{HERE}.counted:Linear"
    paper: ClassVar[str] = papers.CMLM
    counts: ClassVar[bool] = True
    says_what_stays: ClassVar[bool] = True


@options
class UntilFull(ScheduleOptions):
    """What schedules share that end when a row is full, at a tick that nobody knows ahead."""

    takes_blocks: ClassVar[bool] = True

    def ends_itself(self) -> bool:
        return True

    def most_ticks(self, ticks: int, length: int) -> int:
        return min(ticks, length)


@options
class ByConfidence(UntilFull):
    """What those share that compare confidences, and so need that order."""

    def fits(self, sampler: Whole) -> Iterator[Problem]:
        yield from super().fits(sampler)
        if not sampler.unmask.by_confidence:
            rule = f"the schedule {self.name} goes by confidence"
            yield Problem("unmask.name", sampler.unmask.name, rule, "use unmask.name=confidence")


@options
class ThresholdConfig(ByConfidence):
    """Everything whose confidence reaches a threshold, and always the first position in order."""

    name: ClassVar[str] = "threshold"
    code: ClassVar[str] = f"{HERE}.adaptive:Threshold"
    paper: ClassVar[str] = papers.FAST

    threshold: Share = 0.9
    """Of the drawn token's probability."""


@options
class FactorConfig(ByConfidence):
    """Fast-dLLM's factor rule: the most n positions with (n + 1)(1 - c_n) < factor, at least one."""

    name: ClassVar[str] = "factor"
    code: ClassVar[str] = f"{HERE}.adaptive:Factor"
    paper: ClassVar[str] = papers.FAST

    factor: NonNegative = 1.0
    """Larger writes more tokens at once; 1 keeps the published bound."""


@options
class EntropyBoundConfig(UntilFull):
    """The largest set in order whose entropies sum to at most gamma beyond the largest of them."""

    name: ClassVar[str] = "entropy_bound"
    code: ClassVar[str] = f"{HERE}.adaptive:EntropyBound"
    paper: ClassVar[str] = papers.EB

    gamma: NonNegative = 0.1
    """Nats; bounds the error of drawing the set independently."""


@options
class LearnedConfig(ByConfidence):
    """A policy network decides for every masked position whether to reveal it now."""

    name: ClassVar[str] = "learned"
    code: ClassVar[str] = f"{HERE}.learned:Learned"
    paper: ClassVar[str] = papers.POLICY

    temperature: Annotated[float, Field(ge=1e-6)] = 1.0
    """tau_pi: divides the policy's logits."""
    scale: NonNegative = 1.0
    """beta: reveal with probability min(1, beta s); larger is faster."""

    def needs(self) -> tuple[str, ...]:
        return ("policy",)


@options
class AtEndConfig(ScheduleOptions):
    """Nothing before the last tick, then everything: for inputs that evolve themselves."""

    name: ClassVar[str] = "at_end"
    code: ClassVar[str] = f"{HERE}.adaptive:AtEnd"
    paper: ClassVar[str] = papers.DSL
    picks: ClassVar[bool] = True

    def fits(self, sampler: Whole) -> Iterator[Problem]:
        yield from super().fits(sampler)
        if not sampler.inputs.writes_at_end:
            rule = "the schedule at_end needs inputs that evolve by themselves"
            yield Problem("inputs.name", sampler.inputs.name, rule, "use inputs.name=dsl_sde, e.g. preset dsl_sde")


SCHEDULES: Family[ScheduleOptions] = Family(
    "schedule",
    ScheduleOptions,
    AncestralConfig,
    FirstHittingConfig,
    FixedCountConfig,
    CosineConfig,
    LinearConfig,
    ThresholdConfig,
    FactorConfig,
    EntropyBoundConfig,
    LearnedConfig,
    AtEndConfig,
)
