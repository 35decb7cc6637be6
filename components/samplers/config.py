"""A whole sampler: its parts, and what all parts share. Without torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from components.diffusion.config import DrawConfig
from components.errors import Problem
from components.options import Natural, NonNegative, Share, options
from components.outside import MAX_LENGTH
from components.samplers.options import CORRECTORS, INPUTS, ORDERS, SCHEDULES, SEARCHES
from components.samplers.options.card import (
    CorrectorOptions,
    InputOptions,
    OrderOptions,
    Part,
    ScheduleOptions,
    SearchOptions,
)
from components.samplers.options.correctors import NoCorrectorConfig
from components.samplers.options.inputs import HardConfig
from components.samplers.options.orders import RandomConfig
from components.samplers.options.schedules import AncestralConfig
from components.samplers.options.search import SingleConfig

Steps = Annotated[int, Field(ge=0, le=MAX_LENGTH)]


@options
class GuidanceConfig:
    """Classifier-free guidance: (1 + gamma) conditional - gamma unconditional, in every pass."""

    gamma: NonNegative = 0.0
    """0 is off and costs nothing; otherwise every call counts twice."""
    without: Literal["prompt", "label"] = "prompt"
    """What the unconditional half misses: the prompt, masked, or the row's class or value."""


@options
class BlocksConfig:
    """Write the row in blocks from left to right."""

    length: Natural = 0
    """Positions in a block; 0 is one block. They are counted from the first position that is not fixed; with
    model.attention_block from the attention block that it lies in, of which this is best a multiple."""
    early_end: bool = True
    """After an end token with nothing masked before it, fill the rest without calls."""
    cache: bool = False
    """Compute the block alone, and see the rest of the row by keys and values that were kept of it. They are kept anew when
    a token outside the block has changed, as where a block begins, or a corrector reads the whole row. Exact, but for
    rounding, of networks with model.attention_block and without model.time_conditioning. Of others not: what is outside
    does not see what was written in the block meanwhile."""
    refresh: Natural = 0
    """Calls after which they are kept anew in any case; 0 is never. A cache that is exact needs none."""

    def fits(self, sampler: SamplerConfig) -> Iterator[Problem]:
        """Broken rules with the parts; paths begin below the sampler."""
        if self.refresh and not self.cache:
            yield Problem("blocks.refresh", self.refresh, "0 where nothing is cached", "set blocks.cache=true, or drop it")
        if not self.cache:
            return
        rules = {
            "blocks.length": (self.length == 0, self.length, "at least 1, the window that is computed"),
            "inputs.name": (sampler.inputs.name != "hard", sampler.inputs.name, "hard inputs, which tell what has changed"),
            "search.name": (sampler.search.name != "single", sampler.search.name, "one chain a row, whose cache stays its own"),
            "guidance.gamma": (sampler.guidance.gamma > 0, sampler.guidance.gamma, "0: the unconditional half has no cache"),
            "corrector.name": (
                sampler.corrector.reads_more(),
                sampler.corrector.name,
                "one that reads logits of the row as it is, and no heads or rows with a token left out",
            ),
        }
        for path, (broken, value, rule) in rules.items():
            if broken:
                yield Problem(path, value, f"with blocks.cache {rule}", "change it, or set blocks.cache=false")


@options
class GuardConfig:
    """Limits that every corrector obeys. 0 is no limit."""

    edits_per_position: Natural = 0
    """How often one position may be changed back or over."""
    edit_share: Share = 0.0
    """Largest share of the row's writable positions that one call may change, one of them in any case."""
    cooldown: Natural = 0
    """Ticks after writing during which a token is left alone."""


@options
class SamplerConfig:
    """One sampler, made of parts."""

    preset: str = "mdlm"
    """The named sampler that these options started from; see docs/samplers.md."""
    steps: Steps = 32
    """T: unmasking ticks. Calls are counted by the engine; ticks without an event need none.
    0 takes as many as the row's length (twice that for schedules that end by themselves). With blocks, at least one
    for each."""
    schedule: Annotated[ScheduleOptions, SCHEDULES.slot()] = AncestralConfig()
    """How much is revealed by when."""
    unmask: Annotated[OrderOptions, ORDERS.slot()] = RandomConfig()
    """Which masked positions come first."""
    draw: DrawConfig = DrawConfig()
    """How a distribution is turned into a token."""
    corrector: Annotated[CorrectorOptions, CORRECTORS.slot()] = NoCorrectorConfig()
    """Which visible tokens change."""
    inputs: Annotated[InputOptions, INPUTS.slot()] = HardConfig()
    """What the network sees at a position."""
    search: Annotated[SearchOptions, SEARCHES.slot()] = SingleConfig()
    """How many chains a sample has, and which survive."""
    guidance: GuidanceConfig = GuidanceConfig()
    """How predictions are combined."""
    blocks: BlocksConfig = BlocksConfig()
    """Left to right in blocks."""
    guard: GuardConfig = GuardConfig()
    """Limits on corrections."""
    encoder: Literal["any", "dsl"] = "any"
    """The input encoder that the network must have; ``dsl`` reads noisy unit-norm embeddings."""

    def parts(self) -> dict[str, Part]:
        """The parts that a name chooses, by field."""
        return {
            "schedule": self.schedule,
            "unmask": self.unmask,
            "corrector": self.corrector,
            "inputs": self.inputs,
            "search": self.search,
        }

    def ticks(self, length: int) -> int:
        """T for rows of this length."""
        asked = self.steps or (2 * length if self.schedule.ends_itself() else length)
        return max(asked, self.num_blocks(length))

    def num_blocks(self, length: int) -> int:
        """The most blocks that a row of this length has."""
        return -(-length // self.blocks.length) if self.blocks.length else 1

    def with_steps(self, steps: int) -> SamplerConfig:
        """The same at another budget."""
        return dataclasses.replace(self, steps=steps)
