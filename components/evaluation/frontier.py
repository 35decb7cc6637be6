"""Quality against cost, one row per sampler and budget."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

SUMMARISED = ("text", "tokens", "seed", "calls", "call_positions", "reward_calls", "edits", "trace")
"""Columns of a sample table that are read."""
Z95 = 1.959963984540054


def summarise(samples: pa.Table, scores: pa.Table, column: str, larger_is_better: bool) -> dict[str, Any]:
    """One row of the comparison. ``quality`` is the mean of the column, negated where smaller is better.
    It is a share where every value is 0 or 1."""
    values = np.asarray(scores[column].to_numpy(), dtype=np.float64)
    quality = values if larger_is_better else -values
    is_share = larger_is_better and set(np.unique(values)) <= {0.0, 1.0}
    low, high = interval(values) if larger_is_better else (-end for end in reversed(interval(values)))
    texts = samples["text"].to_pylist()
    seeds = samples["seed"].to_numpy()
    unique = np.mean(
        [
            len({t for t, s in zip(texts, seeds, strict=True) if s == seed}) / np.sum(seeds == seed)
            for seed in np.unique(seeds)
        ]
    )
    calls = samples["calls"].to_numpy()
    return {
        "calls": float(calls.mean()),
        "call_positions": float(samples["call_positions"].to_numpy().mean()),
        "reward_calls": float(samples["reward_calls"].to_numpy().mean()),
        "metric": column,
        "larger_is_better": larger_is_better,
        "quality": float(quality.mean()),
        "quality_low": low,
        "quality_high": high,
        "is_share": is_share,
        "unique": float(unique),
        "entropy": float(np.mean(scores["entropy"].to_numpy()))
        if "entropy" in scores.column_names
        else pooled_entropy(samples),
        **what_edits_did(samples, quality),
        "num_samples": len(values),
        "seeds": sorted(int(s) for s in np.unique(seeds)),
    }


def what_edits_did(samples: pa.Table, quality: NDArray[np.float64]) -> dict[str, Any]:
    """Changes of visible tokens, replaced or masked again, and what became of the samples that had some.

    ``quality_edited`` and ``quality_unedited`` are None where there is no such sample. They compare different
    samples: hard rows are edited more often, so a lower quality of the edited does not mean that edits harm.
    ``traced_changes`` counts the positions of traced rows that were changed at least once, ``traced_kept`` those of
    them that end with another token than they had before the first change.
    """
    edits = samples["edits"].to_numpy()
    traced = [r for r in samples.select(["tokens", "trace"]).to_pylist() if r["trace"] is not None]
    stayed = [now != before for r in traced for now, before in changed_positions(r["tokens"], r["trace"])]
    return {
        "edits": float(edits.mean()),
        "edited": float(np.mean(edits > 0)),
        "quality_edited": mean_or_none(quality[edits > 0]),
        "quality_unedited": mean_or_none(quality[edits == 0]),
        "traced_changes": len(stayed),
        "traced_kept": sum(stayed),
    }


def changed_positions(tokens: Sequence[int], trace: Sequence[Mapping[str, Any]]) -> list[tuple[int, int]]:
    """(token at the end, token before its first change) of every position at which a visible token was changed."""
    before: dict[int, int] = {}
    for edit in trace:  # in the order in which they happened
        if edit["reason"] != "reveal":
            before.setdefault(edit["position"], edit["old"])
    return [(tokens[position], old) for position, old in before.items()]


def mean_or_none(values: NDArray[np.float64]) -> float | None:
    return float(values.mean()) if len(values) else None


T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365}
"""Two-sided 95% quantiles of Student's t by the number of values."""


def over_seeds(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """One row for the same sampler on networks of several training seeds: means, and Student's interval of the
    quality; of a single seed, the interval of its samples."""
    quality = np.array([r["quality"] for r in rows])
    merged = dict(rows[0]) | {"num_seeds": len(rows), "num_samples": sum(r["num_samples"] for r in rows)}
    for name in ("calls", "call_positions", "reward_calls", "quality", "unique", "entropy", "edits", "edited"):
        merged[name] = float(np.mean([r[name] for r in rows]))
    for name, shares in (("edited", [r["edited"] for r in rows]), ("unedited", [1 - r["edited"] for r in rows])):
        weights = [share * r["num_samples"] for share, r in zip(shares, rows, strict=True)]
        values = [r[f"quality_{name}"] or 0.0 for r in rows]
        merged[f"quality_{name}"] = float(np.average(values, weights=weights)) if sum(weights) else None
    for name in ("traced_changes", "traced_kept"):
        merged[name] = sum(r[name] for r in rows)
    if len(rows) > 1:
        half = T95.get(len(rows), Z95) * float(quality.std(ddof=1)) / math.sqrt(len(rows))
        low, high = merged["quality"] - half, merged["quality"] + half
        if all(r["quality_low"] >= 0 and r["quality_high"] <= 1 for r in rows):  # a share stays one
            low, high = max(0.0, low), min(1.0, high)
        merged["quality_low"], merged["quality_high"] = low, high
    return merged


def wilson(hits: NDArray[np.float64]) -> tuple[float, float]:
    """95% interval of a share (Wilson 1927): sane at 0 and 1."""
    n, p = len(hits), float(hits.mean())
    centre = (p + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 / (1 + Z95**2 / n) * math.sqrt(p * (1 - p) / n + Z95**2 / (4 * n * n))
    return centre - half, centre + half


def interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """95% interval of a mean, which is a share where every value is 0 or 1."""
    return wilson(values) if set(np.unique(values)) <= {0.0, 1.0} else normal(values)


def normal(values: NDArray[np.float64]) -> tuple[float, float]:
    """95% interval of a mean; a single value has none but itself."""
    mean = float(values.mean())
    half = Z95 * float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return mean - half, mean + half


def pooled_entropy(samples: pa.Table) -> float:
    """Entropy in nats of the tokens of all rows together."""
    tokens = np.concatenate([np.asarray(t) for t in samples["tokens"].to_pylist()])
    share = np.unique(tokens, return_counts=True)[1] / len(tokens)
    return float(-(share * np.log(share)).sum())
