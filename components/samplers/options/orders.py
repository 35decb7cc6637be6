"""Options of orders, without torch."""

from __future__ import annotations

from typing import ClassVar

from components import papers
from components.options import NonNegative, options
from components.plugins import Family
from components.samplers.options.card import OrderOptions

HERE = "components.samplers.orders"


@options
class RandomConfig(OrderOptions):
    """Uniformly random positions."""

    name: ClassVar[str] = "random"
    code: ClassVar[str] = f"{HERE}:RandomOrder"
    paper: ClassVar[str] = papers.MDLM
    random: ClassVar[bool] = True


@options
class ConfidenceConfig(OrderOptions):
    """Positions whose drawn token has the highest probability."""

    name: ClassVar[str] = "confidence"
    code: ClassVar[str] = f"{HERE}:ByConfidence"
    paper: ClassVar[str] = papers.MASKGIT
    by_confidence: ClassVar[bool] = True

    noise: NonNegative = 0.0
    """MaskGIT's choice temperature: Gumbel noise on the log-confidence, fading linearly to 0 over the ticks."""

    def as_is(self) -> bool:
        return self.noise == 0


@options
class MarginConfig(OrderOptions):
    """Positions with the largest gap between the best two probabilities."""

    name: ClassVar[str] = "margin"
    code: ClassVar[str] = f"{HERE}:ByMargin"
    paper: ClassVar[str] = papers.MARGIN


@options
class EntropyConfig(OrderOptions):
    """Positions with the lowest entropy."""

    name: ClassVar[str] = "entropy"
    code: ClassVar[str] = f"{HERE}:ByEntropy"
    paper: ClassVar[str] = papers.DREAM


ORDERS: Family[OrderOptions] = Family(
    "order", OrderOptions, RandomConfig, ConfidenceConfig, MarginConfig, EntropyConfig
)
