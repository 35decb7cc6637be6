"""What rollouts of a training are rewarded by: the rules of the corpus, or the row's own answer."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from components.data.corpora.config import SourceOptions
from components.data.documents import RuledCorpus
from components.data.tokenizer import load_tokenizer
from components.objectives.base import Reward


def match(tokens: Tensor, clean: Tensor) -> Tensor:
    """1 where a rollout [N, L] is the data's row [N, L], 0 elsewhere: [N] float64."""
    return (tokens == clean).all(-1).double()


def reward_of(source: SourceOptions | None, tokenizer: Path | None) -> Reward:
    """The reward by the rules of a corpus, or by the one right answer where it has none or gives a puzzle.

    Args:
        source: options of the corpus, or None.
        tokenizer: file of the tokenizer, or None.
    """
    if source is None or tokenizer is None or not source.has_rules or source.prompted():
        return match
    decode = load_tokenizer(tokenizer).decode
    corpus: RuledCorpus = source.load()(source)

    def obeys(tokens: Tensor, clean: Tensor) -> Tensor:
        return torch.tensor([float(corpus.obeys("", decode(row))) for row in tokens.tolist()], dtype=torch.float64)

    return obeys
