"""Options of the ground floor, without torch."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from components import papers
from components.options import Natural, NonNegative, options
from components.plugins import Card, Family


@options
class DrawConfig:
    """How a distribution is turned into a token."""

    temperature: NonNegative = 1.0
    """0 is argmax."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Nucleus: the smallest set whose mass reaches top_p. The token that crosses is kept."""
    top_k: Natural = 0
    """Keep the k best tokens; 0 keeps all."""


@options
class NoiseOptions(Card):
    """alpha(t): what share of a row is kept at time t."""


@options
class LogLinearConfig(NoiseOptions):
    """alpha(t) = 1 - (1 - eps) t; the weight of the loss is 1/t."""

    name: ClassVar[str] = "log_linear"
    code: ClassVar[str] = "components.diffusion.schedule:log_linear"
    paper: ClassVar[str] = papers.MDLM

    eps: Annotated[float, Field(ge=0, lt=1)] = 1e-3
    """Share that is kept at t = 1."""


@options
class CosineNoiseConfig(NoiseOptions):
    """alpha(t) = 1 - cos(pi (1 - t) / 2)."""

    name: ClassVar[str] = "cosine"
    code: ClassVar[str] = "components.diffusion.schedule:cosine"
    paper: ClassVar[str] = papers.MASKGIT


NOISES: Family[NoiseOptions] = Family("noise schedule", NoiseOptions, LogLinearConfig, CosineNoiseConfig)
