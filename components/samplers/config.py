"""A whole sampler: its parts, and what all parts share. Without torch."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from pydantic import Field

from components.diffusion.config import DrawConfig
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
    """Positions in a block; 0 is one block."""
    early_end: bool = True
    """After an end token with nothing masked before it, fill the rest without calls."""


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
