"""Ways to decode: presets, and the parts that they are made of."""

from components.samplers.catalogue import PARTS, needs, part_name
from components.samplers.config import SamplerConfig
from components.samplers.presets import PRESETS, changed, configured

__all__ = ["PARTS", "PRESETS", "SamplerConfig", "changed", "configured", "needs", "part_name"]
