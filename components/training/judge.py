"""What rollouts of a training are rewarded by: the rules of the corpus, or the row's own answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from components.data.tokenizer import load_tokenizer
from components.objectives.base import Judge
from components.scorers.validity import RULES


def match(tokens: Tensor, clean: Tensor) -> Tensor:
    """1 where a rollout is the data's row, 0 elsewhere."""
    return (tokens == clean).all(-1).double()


def judge_of(source: Any, tokenizer: Path | None) -> Judge:
    """By the rules of a corpus whose rows have no prompt, else by the one right answer."""
    rule = RULES.get(type(source))
    if rule is None or tokenizer is None or getattr(source, "givens", None) or not hasattr(source, "num_documents"):
        return match
    decode = load_tokenizer(tokenizer).decode

    def obeys(tokens: Tensor, clean: Tensor) -> Tensor:
        return torch.tensor([float(rule(source, "", decode(row))) for row in tokens.tolist()], dtype=torch.float64)

    return obeys
