"""Options of soft masks, which go around another objective, without torch."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from components import papers
from components.objectives.config.card import ObjectiveOptions
from components.objectives.config.heads import PrismConfig
from components.objectives.config.trunks import CmlmConfig, MdlmConfig, ProsecoConfig, SmartConfig
from components.options import Count, NonNegative, Share, options

HERE = "components.objectives"


@options
class SoftMaskConfig(ObjectiveOptions):
    """Another objective on soft inputs: masks mixed with what a first pass expects there."""

    name: ClassVar[str] = "soft_mask"
    code: ClassVar[str] = f"{HERE}.soft_mask:build"
    paper: ClassVar[str] = papers.SOFT

    base: Literal["mdlm", "proseco", "cmlm", "smart", "prism"] = "mdlm"
    """With its default options."""
    share: Share = 0.8
    """Share of rows with soft inputs; the others see hard masks."""
    top_k: Count = 3
    """Tokens kept of each distribution."""
    beta: NonNegative = 1.0
    """Weight of the mask itself."""

    def softened(self) -> ObjectiveOptions:
        """The objective below."""
        return BASES[self.base]

    def passes(self, steps: int) -> float:
        return 1 / 3 + self.softened().passes(steps)

    def model_changes(self) -> dict[str, Any]:
        return self.softened().model_changes()

    def smallest_time(self) -> float:
        return self.softened().smallest_time()

    def teaches_visible(self) -> bool:
        return self.softened().teaches_visible()


BASES: dict[str, ObjectiveOptions] = {
    card.name: card() for card in (MdlmConfig, ProsecoConfig, CmlmConfig, SmartConfig, PrismConfig)
}
"""What can be softened."""
