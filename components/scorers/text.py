"""Scores of the text alone: unigram entropy and distinct n-grams. Report them beside any perplexity,
which falls when entropy does."""

from __future__ import annotations

import math
from collections import Counter

from components.scorers.base import Columns, ScoredRow, Scorer, ScorerSetting, written
from components.scorers.config import DistinctConfig, EntropyConfig


def build_entropy(config: EntropyConfig, setting: ScorerSetting) -> Scorer:
    def score(rows: list[ScoredRow]) -> Columns:
        return {"entropy": [entropy(written(row, setting.tokenizer)) for row in rows]}

    return score


def entropy(ids: list[int]) -> float:
    """Entropy in nats of the empirical distribution of ids; 0 for none."""
    total = len(ids)
    return -sum(n / total * math.log(n / total) for n in Counter(ids).values()) if total else 0.0


def build_distinct(config: DistinctConfig, setting: ScorerSetting) -> Scorer:
    def score(rows: list[ScoredRow]) -> Columns:
        return {config.column: [distinct(written(row, setting.tokenizer), config.n) for row in rows]}

    return score


def distinct(ids: list[int], n: int) -> float:
    """Distinct n-grams / n-grams; 0 where there is none."""
    grams = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0
