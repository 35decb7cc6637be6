"""Ways to judge samples. Each gives numbers for every row; larger ``quality`` is better."""

from components.plugins import Plugin
from components.scorers.config import (
    DistinctConfig,
    EntropyConfig,
    JudgeConfig,
    LocalizationConfig,
    NelboConfig,
    ValidityConfig,
)

SCORERS: dict[str, Plugin] = {
    "validity": Plugin(
        ValidityConfig, "components.scorers.validity:build", "does the row obey the rules of its puzzle?",
        needs=("puzzle_corpus",),
    ),
    "nelbo": Plugin(
        NelboConfig, "components.scorers.nelbo:build", "likelihood bound under the model itself, with standard error",
        "Simple and Effective Masked Diffusion Language Models, arXiv 2406.07524", needs=("model",),
    ),
    "localization": Plugin(
        LocalizationConfig, "components.scorers.localization:build",
        "likelihood bound of a network on noisy embeddings", "Discrete Stochastic Localization, arXiv 2602.16169",
        needs=("model",),
    ),
    "judge": Plugin(
        JudgeConfig, "components.scorers.judge:build", "generative perplexity under a separately trained n-gram model",
        "Ney, Essen and Kneser 1994 (absolute discounting)", needs=("judge",),
    ),
    "entropy": Plugin(EntropyConfig, "components.scorers.text:build_entropy", "unigram entropy of the row's tokens"),
    "distinct": Plugin(
        DistinctConfig, "components.scorers.text:build_distinct", "share of distinct n-grams in the row",
        "A Diversity-Promoting Objective Function for Neural Conversation Models, arXiv 1510.03055",
    ),
}  # fmt: skip

METRICS: dict[str, tuple[str, bool]] = {
    "validity": ("valid", True),
    "judge": ("judge_nll", False),
    "nelbo": ("nelbo", False),
    "localization": ("localization", False),
    "entropy": ("entropy", True),
    "distinct": ("distinct_2", True),
}
"""Main column of each scorer, and whether larger is better."""

__all__ = ["METRICS", "SCORERS"]
