"""What each family of parts says of itself: the questions that rules, plans and the sampler may ask.

A part's options class answers them, and nothing else knows: no list of names, no table of attributes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from components.errors import Problem
from components.options import options
from components.plugins import Card


@runtime_checkable
class Whole(Protocol):
    """A sampler, as its parts see it when they say whether they fit: ``components.samplers.config.SamplerConfig``."""

    @property
    def steps(self) -> int: ...
    def ticks(self, length: int) -> int: ...
    @property
    def schedule(self) -> ScheduleOptions: ...
    @property
    def unmask(self) -> OrderOptions: ...
    @property
    def draw(self) -> Any: ...
    @property
    def corrector(self) -> CorrectorOptions: ...
    @property
    def inputs(self) -> InputOptions: ...
    @property
    def search(self) -> SearchOptions: ...
    @property
    def blocks(self) -> Any: ...


@options
class Part(Card):
    """One part of a sampler."""

    def needs(self) -> tuple[str, ...]:
        """What a model must bring: names of ``components.samplers.needs.NEEDS``."""
        return ()

    def fits(self, sampler: Whole) -> Iterator[Problem]:
        """Broken rules inside these options and with the other parts; paths begin below the sampler."""
        yield from ()


@options
class ScheduleOptions(Part):
    """How much is revealed by when."""

    counts: ClassVar[bool] = False
    """It says how many, and leaves the choice to the order."""
    picks: ClassVar[bool] = False
    """It names the positions itself, at random or all, so no order applies."""
    takes_blocks: ClassVar[bool] = False
    """It can spread the ticks over blocks."""
    says_what_stays: ClassVar[bool] = False
    """It fixes the number of masks after each tick, whatever was taken back."""

    def ends_itself(self) -> bool:
        """It runs until the row is full, however many ticks that takes."""
        return False

    def most_ticks(self, ticks: int, length: int) -> int:
        """Ticks that a row of this length can have at most before it is full, of the T that it is given."""
        return ticks

    def keeps_to_plan(self) -> bool:
        """It spreads its counts over a number of ticks that is known ahead."""
        return self.counts

    def fits(self, sampler: Whole) -> Iterator[Problem]:
        yield from super().fits(sampler)
        if self.picks and not sampler.unmask.random:
            rule = f"the schedule {self.name} names the positions itself"
            yield Problem(
                "unmask.name", sampler.unmask.name, rule, "use unmask.name=random, or schedule.name=fixed_count"
            )
        if sampler.blocks.length and not self.takes_blocks:
            rule = f"the schedule {self.name} spreads the whole row over its ticks"
            remedy = "use blocks.length=0, or a schedule that takes blocks, e.g. fixed_count or threshold"
            yield Problem("blocks.length", sampler.blocks.length, rule, remedy)


@options
class OrderOptions(Part):
    """Which masked positions come first."""

    random: ClassVar[bool] = False
    """No prediction is read, so chains differ even where every draw is the argmax."""
    by_confidence: ClassVar[bool] = False
    """The probability of the drawn token decides."""

    def as_is(self) -> bool:
        """Scores are compared without noise."""
        return True


@options
class CorrectorOptions(Part):
    """Which visible tokens change."""

    refills: ClassVar[bool] = False
    """As many more are revealed as it masks, in the same tick."""
    paced_by: ClassVar[str] = "name"
    """The option that says at which ticks it acts,"""
    remedy: ClassVar[str] = "raise steps, or use corrector.name=none"
    """and what to do where that is at none."""

    def window(self, ticks: int, most: int) -> tuple[int, int]:
        """(first, last) tick at which it may change something, of rows that are given ``ticks`` and have ``most`` of them
        at most before they are full; the last is before the first where there is none."""
        return 1, most

    def never_runs(self, ticks: int, most: int) -> Iterator[Problem]:
        """Why it would change nothing in any such row."""
        first, last = self.window(ticks, most)
        if first > last:
            rule = f"the corrector would never run: its first tick is {first} of {last}"
            yield Problem(f"corrector.{self.paced_by}", asdict(self).get(self.paced_by, self.name), rule, self.remedy)

    def fits(self, sampler: Whole) -> Iterator[Problem]:
        yield from super().fits(sampler)
        if sampler.steps and not sampler.schedule.ends_itself():
            yield from self.never_runs(sampler.steps, sampler.steps)

    def may_skip(self) -> bool:
        """It may find at a tick that its passes are not needed, and then draws from the first answer."""
        return False

    def reads_more(self) -> bool:
        """It reads more than the logits of the row as it is: heads, or rows with a token left out."""
        return "quality_head" in self.needs()

    def reads_drafts(self) -> bool:
        """At ticks that it corrects, masked positions are not asked about as masks alone."""
        return False


@options
class SwapOptions(CorrectorOptions):
    """Correctors that mask tokens and have as many fresh ones revealed, by a plan over the ticks of the whole row."""

    refills: ClassVar[bool] = True

    def fits(self, sampler: Whole) -> Iterator[Problem]:
        yield from super().fits(sampler)
        schedule = sampler.schedule
        if not schedule.counts:
            rule = f"{self.name} reveals as many more as it masks, so the schedule must count"
            yield Problem("schedule.name", schedule.name, rule, "use schedule.name=fixed_count, cosine or linear")
        elif not schedule.keeps_to_plan():
            rule = f"{self.name} keeps to a plan over the ticks"
            yield Problem("schedule.per_call", schedule.name, rule, "use schedule.per_call=0")
        if sampler.blocks.length:
            rule = f"{self.name} swaps tokens of the whole row"
            yield Problem("blocks.length", sampler.blocks.length, rule, "use blocks.length=0")


@options
class ScoredOptions(CorrectorOptions):
    """What correctors share that mask the tokens of worst score."""

    score: Literal["quality", "visible", "mean", "commit", "drop", "loo", "random"] = "quality"
    """quality: a trained head; visible: the token's probability at its own place; mean: that, averaged over the
    calls since it was written; commit: when it was written; drop: visible minus commit; loo: with the
    token itself masked, L more calls (reference); random: the control."""

    def needs(self) -> tuple[str, ...]:
        return ("quality_head",) if self.score == "quality" else ()

    def reads_more(self) -> bool:
        return super().reads_more() or self.score == "loo"


@options
class InputOptions(Part):
    """What the network sees at a position."""

    writes_at_end: ClassVar[bool] = False
    """Inputs evolve by themselves; tokens are drawn once, at the last tick."""


@options
class SearchOptions(Part):
    """How many chains a sample has, and which survive."""

    weighs: ClassVar[bool] = False
    """Chains are weighted and resampled on the way."""
    reads_masked_only: ClassVar[bool] = False
    """Expected rewards are read from predictions at masked positions."""

    @property
    def num_chains(self) -> int:
        return 1

    @property
    def reward_name(self) -> str:
        """The scorer that steers it; empty for none."""
        return ""

    @property
    def ticks_between(self) -> int:
        """Ticks between points at which chains wait for each other; 0 is none before the end."""
        return 0

    @property
    def num_sweeps(self) -> int:
        """How often the chains are run from the start."""
        return 1

    @property
    def num_guesses(self) -> int:
        """Completions of a chain that are rewarded at a resampling point."""
        return 1

    def fits(self, sampler: Whole) -> Iterator[Problem]:
        yield from super().fits(sampler)
        plain_order = sampler.unmask.random and sampler.unmask.as_is()
        if self.num_chains > 1 and sampler.draw.temperature == 0 and not plain_order:
            rule = "above 0: at 0 all chains are one"
            yield Problem("draw.temperature", sampler.draw.temperature, rule, "use draw.temperature=1")
        if self.weighs and sampler.inputs.writes_at_end:
            yield Problem("search.name", self.name, "weights need tokens before the end", "use search.name=best_of")
        if self.reads_masked_only and sampler.corrector.reads_drafts():
            rule = "the expected reward is read at masked positions"
            yield Problem("corrector.draft_positions", "all", rule, "use corrector.draft_positions=masked")
