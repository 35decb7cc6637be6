"""Options of inputs, without torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from components import papers
from components.errors import Problem
from components.options import Count, NonNegative, options
from components.plugins import Family
from components.samplers.options.card import InputOptions, Whole

HERE = "components.samplers.inputs"


@options
class HardConfig(InputOptions):
    """The network sees tokens and masks."""

    name: ClassVar[str] = "hard"
    code: ClassVar[str] = f"{HERE}.base:Hard"


@options
class MixtureConfig(InputOptions):
    """Mixture of inputs: a written token stays mixed with the distribution it was drawn from."""

    name: ClassVar[str] = "mixture"
    code: ClassVar[str] = f"{HERE}.mixture:MixtureOfInputs"
    paper: ClassVar[str] = papers.MOI

    beta: Annotated[float, Field(ge=0, allow_inf_nan=True)] = 1.0
    """Weight of the drawn token; infinity is hard decoding."""
    top_k: Count = 8
    """Tokens kept of each distribution."""
    fade: NonNegative = 1.0
    """The soft share shrinks with (1 - s/T)^fade after s of T ticks; 0 keeps it."""

    def needs(self) -> tuple[str, ...]:
        return ("mixtures",)


@options
class SoftMaskConfig(InputOptions):
    """Soft masks: a mask is mixed with what the network expected there, less the more uncertain it was."""

    name: ClassVar[str] = "soft_mask"
    code: ClassVar[str] = f"{HERE}.mixture:SoftMask"
    paper: ClassVar[str] = papers.SOFT

    beta: Annotated[float, Field(ge=0, allow_inf_nan=True)] = 1.0
    """Weight of the mask itself; infinity is a hard mask."""
    top_k: Count = 3
    """Tokens kept of each distribution."""
    fade: NonNegative = 1.0
    """The soft share shrinks with (1 - s/T)^fade after s of T ticks; 0 keeps it."""

    def needs(self) -> tuple[str, ...]:
        return ("mixtures",)


@options
class DslSdeConfig(InputOptions):
    """DSL's stochastic differential equation: every position follows a noisy embedding."""

    name: ClassVar[str] = "dsl_sde"
    code: ClassVar[str] = f"{HERE}.dsl_sde:DslSde"
    paper: ClassVar[str] = papers.DSL
    writes_at_end: ClassVar[bool] = True

    gamma_max: Annotated[float, Field(ge=1e-6)] = 100.0
    """Signal-to-noise ratio at the end."""
    grid: Literal["even", "quadratic"] = "even"
    """Ratios after tick k of T: gamma_max k / T, or gamma_max (k / T)^2, with more ticks where positions are decided."""

    def needs(self) -> tuple[str, ...]:
        return ("dsl_encoder",)

    def fits(self, sampler: Whole) -> Iterator[Problem]:
        yield from super().fits(sampler)
        if sampler.schedule.name != "at_end":
            rule = "the inputs dsl_sde need the schedule at_end, which waits for their last tick"
            yield Problem("schedule.name", sampler.schedule.name, rule, "use schedule.name=at_end, e.g. preset dsl_sde")
        if sampler.corrector.name != "none":
            rule = "with dsl_sde tokens are written once, at the end"
            yield Problem("corrector.name", sampler.corrector.name, rule, "use corrector.name=none")


INPUTS: Family[InputOptions] = Family(
    "kind of inputs", InputOptions, HardConfig, MixtureConfig, SoftMaskConfig, DslSdeConfig
)
