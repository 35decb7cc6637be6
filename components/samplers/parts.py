"""The parts that a sampler is made of, loaded."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool
from torch import Tensor

from components.samplers.blocks import Blocks
from components.samplers.config import SamplerConfig
from components.samplers.contract import Extras, Vocabulary
from components.samplers.correctors.base import Corrector
from components.samplers.guard import Guard
from components.samplers.inputs.base import Inputs
from components.samplers.orders import Order
from components.samplers.owners import Owner
from components.samplers.schedules.base import Schedule
from components.samplers.state import State
from components.samplers.survey import Survey


@dataclass(frozen=True, kw_only=True)
class Parts:
    """See ``components.samplers.config.SamplerConfig`` for what each decides."""

    config: SamplerConfig
    mask_id: int
    corrector: Corrector
    schedule: Schedule
    order: Order
    inputs: Inputs
    guard: Guard
    survey: Survey
    blocks: Blocks

    @property
    def owners(self) -> tuple[Owner, ...]:
        """Those that keep fields in the state."""
        return self.schedule, self.corrector, self.inputs, self.guard, self.survey, self.blocks

    @property
    def reads(self) -> frozenset[str]:
        """Fields of the view that cost something and that some part reads."""
        limit = {"best_odds"} if self.config.guard.edit_share else set()
        left_out = {"left_out"} if self.corrector.reads_left_out else set()
        return self.order.reads | self.schedule.reads | self.corrector.reads | limit | left_out

    @property
    def picks_ahead(self) -> bool:
        """The positions of a tick are known before the network is asked."""
        return self.config.schedule.counts and not self.order.reads and not self.config.corrector.refills

    def ticks(self, length: int) -> int:
        """T for rows of this length."""
        return self.config.ticks(length)

    def masked(self, state: State) -> Bool[Tensor, "R L"]:
        """Positions that are still to be written."""
        return (state.tokens == self.mask_id) & ~state.fixed


def load_parts(config: SamplerConfig, vocabulary: Vocabulary, extras: Extras, survey: Survey) -> Parts:
    """The parts of a config. Raises SamplingError where one lacks what it needs of the network."""
    corrector: Corrector = config.corrector.load()(config.corrector)
    return Parts(
        config=config,
        mask_id=vocabulary.mask_id,
        corrector=corrector,
        schedule=config.schedule.load()(config.schedule, corrector, extras),
        order=config.unmask.load()(config.unmask),
        inputs=config.inputs.load()(config.inputs, extras),
        guard=Guard(config.guard),
        survey=survey,
        blocks=Blocks(config.blocks, vocabulary, extras.attention_block),
    )
