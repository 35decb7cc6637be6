"""Best against best: at nearly equal calls the best sampler of each model, and what edits can have to do with it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from components.evaluation.frontier import Z95

TOLERANCE = 0.03
"""Calls are nearly equal when they differ by at most this share of one of them."""

Row = Mapping[str, Any]
R = TypeVar("R", bound=Row)


def as_measured(row: Row) -> tuple[float, float, float]:
    """The metric of a row and its interval as they were measured; ``quality`` is negated where smaller is better."""
    quality, low, high = (float(row[name]) for name in ("quality", "quality_low", "quality_high"))
    return (quality, low, high) if row["larger_is_better"] else (-quality, -high, -low)


@dataclass(frozen=True)
class Pair:
    """The best row of another model and that of the first one, at nearly equal calls."""

    row: Row
    reference: Row

    @property
    def gain(self) -> float:
        return float(self.row["quality"] - self.reference["quality"])


def best_pairs(results: Sequence[Row]) -> list[Pair]:
    """Every pair once, by calls. The reference is the model that is named first.

    Around the calls of each row the best row of each model is taken. It is chosen by the very samples that it is
    shown with, so with many rows at one budget both sides flatter themselves a little.
    """
    first = results[0]["model"]
    others = [m for m in dict.fromkeys(r["model"] for r in results) if m != first]
    found: dict[tuple[int, int], Pair] = {}
    for calls in sorted({r["calls"] for r in results}):
        near = [r for r in results if abs(r["calls"] - calls) <= TOLERANCE * calls]
        best = {m: max(own, key=lambda r: r["quality"]) for m in (first, *others) if (own := of_model(near, m))}
        for model in others:
            if first in best and model in best:
                pair = Pair(best[model], best[first])
                found.setdefault((id(pair.row), id(pair.reference)), pair)
    return list(found.values())


def best_of_budgets(results: Sequence[R]) -> list[R]:
    """The best row of each budget, by calls. A budget is what costs nearly as much as its cheapest row."""
    budgets: list[list[R]] = []
    for row in sorted(results, key=lambda r: r["calls"]):
        if budgets and row["calls"] <= budgets[-1][0]["calls"] * (1 + TOLERANCE):
            budgets[-1].append(row)
        else:
            budgets.append([row])
    return [max(rows, key=lambda r: r["quality"]) for rows in budgets]


def of_model(rows: Sequence[Row], model: str) -> list[Row]:
    return [r for r in rows if r["model"] == model]


def ratio(pair: Pair) -> tuple[float, float, float] | None:
    """Ratio of two shares with its 95% interval, by the delta method on its logarithm (Katz and others, 1978), the
    samples of all seeds pooled. None where the quality is no share, or one of them is 0."""
    rows = (pair.row, pair.reference)
    if not all(r["is_share"] and r["quality"] > 0 for r in rows):
        return None
    value = rows[0]["quality"] / rows[1]["quality"]
    variance = sum((1 - r["quality"]) / (r["quality"] * r["num_samples"]) for r in rows)
    spread = math.exp(Z95 * math.sqrt(variance))
    return value, value / spread, value * spread


def difference(pair: Pair) -> tuple[float, float, float]:
    """Difference of the qualities with its 95% interval, from the halves of both intervals."""
    half = math.hypot(*((r["quality_high"] - r["quality_low"]) / 2 for r in (pair.row, pair.reference)))
    return pair.gain, pair.gain - half, pair.gain + half


def due_to_edits(row: Row) -> float:
    """The most of a share that edits can have brought: all of it that lies in samples with an edit. A sample without
    one would be the same if edits were forbidden, because its draws depend on nothing that an edit changes. (Not so
    in a search of several chains, where a chain that was edited may have displaced another.)"""
    return float(row["edited"] * (row["quality_edited"] or 0.0))


def in_words(pair: Pair) -> str:
    """What the pair says, and where the gain can come from."""
    row, reference, metric = pair.row, pair.reference, pair.row["metric"]
    said = (
        f"At {row['calls']:.1f} calls the best of {row['model']} is {row['sampler']} with {metric} {row['quality']:.3f}, "
        f"the best of {reference['model']} {reference['sampler']} with {reference['quality']:.3f}"
    )
    if (found := ratio(pair)) is not None:
        said += f": {found[0]:.2f} times ({found[1]:.2f} to {found[2]:.2f}). "
    else:
        value, low, high = difference(pair)
        said += f": {value:+.3f} ({low:+.3f} to {high:+.3f}). "
    said += f"{row['sampler']} made {row['edits']:.2f} edits a sample"
    if not row["edits"]:
        return said + ", so mending visible tokens has no part in this."
    said += f", in {row['edited']:.0%} of its samples. "
    if not row["is_share"] or pair.gain <= 0:
        return said + "There is no gain to explain." if pair.gain <= 0 else said.strip()
    most = due_to_edits(row)
    said += (
        f"The other samples would be the same without edits and alone make up {row['quality'] - most:.3f}, so edits "
        f"brought at most {most:.3f}: "
    )
    if most >= pair.gain:
        return said + f"by these numbers they may account for all of the gain of {pair.gain:.3f}."
    return said + (
        f"at least {1 - most / pair.gain:.0%} of the gain of {pair.gain:.3f} has nothing to do with mending visible tokens."
    )
