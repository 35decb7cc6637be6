"""What a candidate has to show by one metric. Without arrays, because runs are read by it."""

from __future__ import annotations

from dataclasses import dataclass

MIN_PAIRS = 30
"""Fewer tell nothing by a normal interval."""


@dataclass(frozen=True)
class Rule:
    """What a candidate has to show by one metric."""

    metric: str
    """For people."""
    column: str
    larger_is_better: bool
    margin: float | None = None
    """How much worse it may be; None where it has to be better."""
