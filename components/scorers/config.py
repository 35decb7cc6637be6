"""Options of the scorers, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ValidityConfig:
    """1 where the row obeys the rules of its corpus, else 0."""


@dataclass(frozen=True)
class NelboConfig:
    """Nats per written token under the sampling model."""

    draws: int = 4
    """Stratified times, or numbers of masks, per row; two or more give a standard error."""
    estimator: Literal["time", "count"] = "time"
    """Two independent estimators of one bound: over times with weight 1/t, or over numbers n of masks with 1/n."""


@dataclass(frozen=True)
class LocalizationConfig:
    """Nats per written token under a network on noisy embeddings."""

    draws: int = 16
    """Stratified signal-to-noise ratios per row; two or more give a standard error."""


@dataclass(frozen=True)
class JudgeConfig:
    """Nats per token under an n-gram model of the training rows."""

    order: int = 3
    discount: float = 0.75


@dataclass(frozen=True)
class EntropyConfig:
    """Nats."""


@dataclass(frozen=True)
class DistinctConfig:
    """n of the n-grams."""

    n: int = 2
