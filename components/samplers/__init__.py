"""Ways to decode: presets, and the parts that they are made of."""

from components.samplers.config import SamplerConfig
from components.samplers.needs import needs
from components.samplers.options import PARTS
from components.samplers.presets import PRESETS, Sampler, preset, read_sampler

__all__ = ["PARTS", "PRESETS", "Sampler", "SamplerConfig", "needs", "preset", "read_sampler"]
