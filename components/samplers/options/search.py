"""Options of searches, without torch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from components import papers
from components.options import Count, NonNegative, Share, options
from components.plugins import Family
from components.samplers.options.card import SearchOptions

HERE = "components.samplers"
Chains = Annotated[int, Field(ge=2)]


@options
class SingleConfig(SearchOptions):
    """One chain a row."""

    name: ClassVar[str] = "single"
    code: ClassVar[str] = f"{HERE}.sampler:RowSampler"


@options
class ManyChains(SearchOptions):
    """What searches over groups of chains share."""

    particles: Chains = 4
    """Chains of one sample; search.name=single for one."""

    @property
    def num_chains(self) -> int:
        return self.particles


@options
class BestOfConfig(ManyChains):
    """Independent chains; the best is kept."""

    name: ClassVar[str] = "best_of"
    code: ClassVar[str] = f"{HERE}.search.best_of:BestOf"

    reward: str = ""
    """A scorer; empty ranks by the probability that the network gave to the written tokens."""

    @property
    def reward_name(self) -> str:
        return self.reward


@options
class Resampled(ManyChains):
    """What searches share that weigh and resample their chains on the way."""

    weighs: ClassVar[bool] = True

    every: Count = 4
    """Ticks between resampling points."""
    ess: Share = 0.5
    """Resample when the effective sample size is below this share of the particles; 1 always."""
    resampling: Literal["multinomial", "systematic"] = "multinomial"
    """How ancestors are drawn: each by itself, as published, or all from one equally spaced grid with less noise.
    Of particle Gibbs both are drawn given the reference, and leave the target alone."""

    @property
    def ticks_between(self) -> int:
        return self.every


@options
class SelfRewardingConfig(Resampled):
    """Self-rewarding SMC: chains are weighted by the probability of the tokens they now hold."""

    name: ClassVar[str] = "self_rewarding"
    code: ClassVar[str] = f"{HERE}.search.self_rewarding:SelfRewarding"
    paper: ClassVar[str] = papers.SMC

    exponent: NonNegative = 1.0
    """lambda: the target is p^(1 + lambda) for an exact kernel."""
    ramp: bool = False
    """lambda rises linearly with the ticks, as in the released MDLM path."""
    pick: Literal["weight", "best", "first"] = "weight"
    """weight: by the final weights; best: the largest total probability; first: particle 0.
    Three different laws: the pick is part of the method."""


@options
class SteeringConfig(Resampled):
    """FK steering and particle Gibbs: chains are weighted by the expected reward of where they lead."""

    name: ClassVar[str] = "steering"
    code: ClassVar[str] = f"{HERE}.search.steering:Steering"
    paper: ClassVar[str] = papers.PG
    reads_masked_only: ClassVar[bool] = True

    sweeps: Count = 1
    """m: more than 1 is particle Gibbs, which keeps one chain of each sweep as the reference of the next."""
    reward: str = "nelbo"
    """A scorer, signed so that larger is better."""
    beta: Annotated[float, Field(ge=1e-9)] = 0.1
    """The target is p exp(reward / beta)."""
    guesses: Count = 1
    """phi: completions that are drawn to estimate the reward of a state."""
    guess: Literal["argmax", "sample"] = "argmax"
    """How they are drawn; of the argmax there is only one."""
    reference: Literal["weight", "best"] = "weight"
    """How the next reference is chosen. ``best`` is an optimiser and does not sample the target."""
    pick: Literal["weight", "best", "first"] = "weight"
    """weight: the last reference; best: the largest reward seen; first: particle 0 of the last sweep."""
    stop_above: float | None = None
    """No further sweep once a reference's reward reaches this."""

    @property
    def reward_name(self) -> str:
        return self.reward

    @property
    def num_sweeps(self) -> int:
        return self.sweeps

    @property
    def num_guesses(self) -> int:
        return self.guesses


SEARCHES: Family[SearchOptions] = Family(
    "search", SearchOptions, SingleConfig, BestOfConfig, SelfRewardingConfig, SteeringConfig
)
