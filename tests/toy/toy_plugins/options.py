"""The identity cards, without torch, so that runs are planned and listed at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar

from pydantic import Field

from components.data.corpora.config import SourceOptions
from components.errors import Problem
from components.objectives.config import ObjectiveOptions
from components.options import Count, Natural, Seed, Share, options
from components.samplers.options.card import CorrectorOptions, Whole
from components.samplers.options.search import ManyChains
from components.scorers.config import ScorerOptions


@options
class EvenConfig(ObjectiveOptions):
    """Cross-entropy at a fixed share of masks, all times alike."""

    name: ClassVar[str] = "toy_even"
    code: ClassVar[str] = "toy_plugins.even:build"
    paper: ClassVar[str] = "A toy"

    share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Probability of each position to be masked."""


@options
class RestlessConfig(CorrectorOptions):
    """Now and then a visible token is hidden again, at random."""

    name: ClassVar[str] = "toy_restless"
    code: ClassVar[str] = "toy_plugins.restless:Restless"

    share: Share = 0.2
    """Probability of each visible token, at every tick but the last ones."""
    calm: Natural = 2
    """Ticks at the end that hide nothing."""

    def fits(self, sampler: Whole) -> Iterator[Problem]:
        yield from super().fits(sampler)
        if not sampler.schedule.ends_itself():
            rule = "hidden tokens must be written again, so the schedule must run until the row is full"
            yield Problem("schedule.name", sampler.schedule.name, rule, "set schedule.per_call")


@options
class TopHeavyConfig(ManyChains):
    """Of several chains, the one whose token ids have the largest sum."""

    name: ClassVar[str] = "toy_top_heavy"
    code: ClassVar[str] = "toy_plugins.top_heavy:TopHeavy"


@options
class UnigramConfig(ScorerOptions):
    """Nats per token under the frequencies of tokens in the training rows."""

    name: ClassVar[str] = "toy_unigram"
    code: ClassVar[str] = "toy_plugins.unigram:build"
    larger_is_better: ClassVar[bool] = False
    trains: ClassVar[str] = "toy_plugins.unigram:train"

    added: Count = 1
    """Added to every count."""


@options
class PalindromesConfig(SourceOptions):
    """Strings of digits that read the same backwards."""

    name: ClassVar[str] = "toy_palindromes"
    code: ClassVar[str] = "toy_plugins.palindromes:Palindromes"
    has_rules: ClassVar[bool] = True

    length: Count = 6
    """Digits of a string."""
    num_documents: Count = 200
    """Strings."""
    seed: Seed = 0
    """Of the generator."""
