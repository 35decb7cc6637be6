"""Options of the objectives, without torch."""

from components.objectives.config.card import ObjectiveOptions
from components.objectives.config.heads import (
    DscConfig,
    PolicyGrpoConfig,
    PolicyImitationConfig,
    PolicyOptions,
    PrismConfig,
)
from components.objectives.config.soft import SoftMaskConfig
from components.objectives.config.trunks import (
    CmlmConfig,
    DslConfig,
    MapetConfig,
    MdlmConfig,
    ProsecoConfig,
    SmartConfig,
)

__all__ = [
    "CmlmConfig",
    "DscConfig",
    "DslConfig",
    "MapetConfig",
    "MdlmConfig",
    "ObjectiveOptions",
    "PolicyGrpoConfig",
    "PolicyImitationConfig",
    "PolicyOptions",
    "PrismConfig",
    "ProsecoConfig",
    "SmartConfig",
    "SoftMaskConfig",
]
