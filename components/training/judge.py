"""What rollouts of a training are rewarded by: the rules of the corpus, or the row's own answer."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from components.data.corpora.config import SourceOptions
from components.data.documents import RuledCorpus
from components.data.tokenizer import load_tokenizer
from components.objectives.base import Judge


def match(tokens: Tensor, clean: Tensor) -> Tensor:
    """1 where a rollout is the data's row, 0 elsewhere."""
    return (tokens == clean).all(-1).double()


def judge_of(source: SourceOptions | None, tokenizer: Path | None) -> Judge:
    """By the rules of a corpus whose rows have no prompt, else by the one right answer."""
    if source is None or tokenizer is None or not source.has_rules or source.prompted():
        return match
    decode = load_tokenizer(tokenizer).decode
    corpus: RuledCorpus = source.load()(source)

    def obeys(tokens: Tensor, clean: Tensor) -> Tensor:
        return torch.tensor([float(corpus.obeys("", decode(row))) for row in tokens.tolist()], dtype=torch.float64)

    return obeys
