"""Which combinations of parts make sense. Nothing is run to know it."""

from __future__ import annotations

import dataclasses

from components.errors import Problem
from components.samplers.config import SamplerConfig


def problems(config: SamplerConfig, path: str) -> list[Problem]:
    """All broken rules of one sampler. Bounds of single options were checked when it was made."""
    found = [problem for part in config.parts().values() for problem in part.fits(config)]
    found += config.blocks.fits(config)
    return [dataclasses.replace(problem, path=f"{path}.{problem.path}") for problem in found]
