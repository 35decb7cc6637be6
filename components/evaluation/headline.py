"""What a comparison comes to, in one sentence and a small picture: for the top of a page and for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from components.evaluation.best import Pair, Row, as_measured, best_pairs, difference, ratio

BAR = 40
"""Characters of the longest bar of a terminal."""


@dataclass(frozen=True)
class Headline:
    """The pair of equal calls at which another model is ahead of the first one, or behind it, most surely."""

    pair: Pair | None
    best: Row
    """Of all, where no two models meet at a budget."""

    def __str__(self) -> str:
        if self.pair is None:
            return f"{self.best['sampler']} has {described(self.best)}; no two models were sampled at equal calls."
        row, reference = self.pair.row, self.pair.reference
        found = ratio(self.pair)
        value, low, high = found or difference(self.pair)
        compared = f"{value:.2f} times ({low:.2f} to {high:.2f})" if found else f"{value:+.3f} ({low:+.3f} to {high:+.3f}, more is better)"
        sure = low > (1 if found else 0) or high < (1 if found else 0)
        return (
            f"{row['sampler']} ({row['model']}) has {described(row)}; {reference['sampler']}, the best of {reference['model']}, "
            f"has {described(reference)}: {compared}" + ("." if sure else ", no sure difference.")
        )


def described(row: Row) -> str:
    """Quality with its interval, calls and diversity."""
    quality, low, high = as_measured(row)
    return f"{row['metric']} {quality:.3f} ({low:.3f} to {high:.3f}) at {row['calls']:.1f} calls, {row['unique']:.0%} of its samples different"


def headline(results: Sequence[Row]) -> Headline:
    """The headline of a comparison."""
    pairs = best_pairs(results)
    best = max(results, key=lambda r: r["quality"])
    return Headline(max(pairs, key=surely, default=None), best)


def surely(pair: Pair) -> float:
    """How far the pair's difference is from none, by the nearer end of its interval."""
    _, low, high = difference(pair)
    return max(low, -high)


def bars(results: Sequence[Row]) -> Iterator[str]:
    """The best row of each model and budget as lines of a terminal, the longest the best."""
    found: dict[tuple[str, int], Row] = {}
    for row in results:
        place = (row["model"], round(row["calls"]))
        if place not in found or found[place]["quality"] < row["quality"]:
            found[place] = row
    rows = sorted(found.values(), key=lambda r: (r["calls"], r["model"]))
    low = min(0.0, *(r["quality"] for r in rows)) if len(rows) > 1 else 0.0
    span = max(r["quality"] for r in rows) - low or 1.0
    names = max(len(r["model"]) for r in rows)
    for row in rows:
        length = round((row["quality"] - low) / span * BAR)
        yield f"{row['calls']:6.1f} calls  {row['model']:<{names}}  {'█' * length:<{BAR}} {as_measured(row)[0]:.3f}"
