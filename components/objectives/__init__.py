"""Ways to train. One file a paper; this list names them all."""

from components.objectives import config as c
from components.plugins import Family

OBJECTIVES: Family[c.ObjectiveOptions] = Family(
    "objective",
    c.ObjectiveOptions,
    c.MdlmConfig,
    c.ProsecoConfig,
    c.PrismConfig,
    c.DscConfig,
    c.CmlmConfig,
    c.SmartConfig,
    c.DslConfig,
    c.MapetConfig,
    c.PolicyImitationConfig,
    c.PolicyGrpoConfig,
    c.SoftMaskConfig,
)

__all__ = ["OBJECTIVES"]
