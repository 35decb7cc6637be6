"""May a candidate take the champion's place? A stated rule on differences between the two, row by row.

A difference counts in the direction in which the metric is better, so more is always better. Rows of one prompt are
averaged first, because they are no independent evidence; prompts, or rows where there are none, are paired: both models
wrote them from the same noise. The interval of the mean difference is the normal one.

The candidate wins where it is better with confidence by the chosen metric (the interval lies above 0), and not worse by
a margin with confidence by any guarded one (the interval lies above minus the margin). What can not be told apart is
not better, and what is not a number wins nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from components.evaluation.rule import MIN_PAIRS, Rule


@dataclass(frozen=True)
class Measured:
    """One rule, and what came out. ``difference`` counts as better, whichever way the metric goes."""

    metric: str
    margin: float | None
    champion: float
    candidate: float
    difference: float
    low: float
    high: float
    pairs: int
    holds: bool

    @property
    def words(self) -> str:
        """The rule, and whether it holds."""
        wanted = "better" if self.margin is None else f"not worse by more than {self.margin:g}"
        found = f"{self.difference:+.4g} ({self.low:+.4g} to {self.high:+.4g}) over {self.pairs}"
        return f"{self.metric}: {found}; wanted: {wanted}: {'holds' if self.holds else 'does not hold'}"


def compare(rule: Rule, champion: pa.Table, candidate: pa.Table, confidence: float, by_prompt: bool) -> Measured:
    """One rule on two tables of scores, whose rows are joined by ``row_id``.

    Args:
        by_prompt: average the rows of one ``prompt_id`` first.
    """
    mine, theirs = by_row(candidate, rule.column), by_row(champion, rule.column)
    # A row that neither has a number for says nothing of the two, one that only one of them has says too much.
    rows = sorted(r for r in mine.keys() & theirs.keys() if not math.isnan(mine[r]) or not math.isnan(theirs[r]))
    sign = 1.0 if rule.larger_is_better else -1.0
    differences = sign * np.array([mine[row] - theirs[row] for row in rows])
    if by_prompt:
        prompts = dict(zip(candidate["row_id"].to_pylist(), candidate["prompt_id"].to_pylist(), strict=True))
        differences = averaged(differences, [prompts[row] for row in rows])
    mean, low, high = interval(differences, confidence)
    limit = 0.0 if rule.margin is None else -rule.margin
    holds = len(differences) >= MIN_PAIRS and (low > limit if rule.margin is None else low >= limit)
    champions, candidates = ([side[row] for row in rows] or [math.nan] for side in (theirs, mine))
    return Measured(
        rule.metric, rule.margin, float(np.mean(champions)), float(np.mean(candidates)), mean, low, high,
        len(differences), bool(holds),
    )  # fmt: skip


def by_row(table: pa.Table, column: str) -> dict[str, float]:
    return dict(zip(table["row_id"].to_pylist(), table[column].to_pylist(), strict=True))


def averaged(values: NDArray[np.float64], groups: Sequence[Any]) -> NDArray[np.float64]:
    """The mean of each group."""
    _, inverse = np.unique(np.asarray(groups), return_inverse=True)
    return np.bincount(inverse, values) / np.bincount(inverse)


def interval(values: NDArray[np.float64], confidence: float) -> tuple[float, float, float]:
    """Mean, and the ends of its two-sided normal interval; no numbers where there are fewer than two values."""
    if len(values) < 2:
        return math.nan, math.nan, math.nan
    mean = float(values.mean())
    half = NormalDist().inv_cdf((1 + confidence) / 2) * float(values.std(ddof=1)) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def verdict(measured: Sequence[Measured]) -> tuple[bool, str]:
    """Does the candidate win, and why or why not, in words."""
    broken = [m.words for m in measured if not m.holds]
    return not broken, "; ".join(broken or [m.words for m in measured if m.margin is None])
