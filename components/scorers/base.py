"""What a scorer is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from components.data.corpora.config import SourceOptions
from components.data.tokenizer import Tokenizer
from components.models.denoiser import Denoiser


@dataclass(frozen=True)
class ScoredRow:
    """A sample as a scorer sees it."""

    id: int
    prompt: str
    text: str
    """What was written, without prompt, end token and padding."""
    tokens: tuple[int, ...]
    num_prompt: int
    given: tuple[int, ...] = ()
    """Positions behind the prompt that nobody wrote: what a template fixed, and padding behind its end."""
    label: float | None = None
    """Class or value of the row."""


@dataclass(frozen=True)
class ScorerSetting:
    """What scorers may need; each takes what its options say that it reads."""

    tokenizer: Tokenizer
    source: SourceOptions | None = None
    """The corpus whose rules the rows should obey."""
    model: Denoiser | None = None
    """The model that made the samples, or another one to score with."""
    trained: Mapping[str, Path] = field(default_factory=dict)
    """Folders of what scorers that ``train`` were trained to, by the scorer's name."""
    seed: int = 0
    device: str = "cpu"
    """Where the model is."""


Columns = dict[str, list[float]]
Scorer = Callable[[list[ScoredRow]], Columns]
Build = Callable[[Any, ScorerSetting], Scorer]
Train = Callable[[Any, NDArray[np.int64], Tokenizer, Path], None]
"""(options, training rows of all corpora [n, L], tokenizer, folder to write to)."""


def is_written(rows: Sequence[ScoredRow], device: str) -> Tensor:
    """Which positions of rows of one length were written [B, L] bool, padding that was written included: bounds are of these."""
    found = torch.ones(len(rows), len(rows[0].tokens), dtype=torch.bool)
    for mine, row in zip(found, rows, strict=True):
        mine[: row.num_prompt] = False
        mine[list(row.given)] = False
    return found.to(device)


def labels_of(rows: Sequence[ScoredRow], device: str) -> Tensor | None:
    """Classes or values of rows [B] float, NaN for none; None where no row has one."""
    if all(row.label is None for row in rows):
        return None
    return torch.tensor([torch.nan if row.label is None else row.label for row in rows], device=device)


def written(row: ScoredRow, tokenizer: Tokenizer) -> list[int]:
    """Ids after the prompt, up to the end token, without padding."""
    ids = []
    for token in row.tokens[row.num_prompt :]:
        if token == tokenizer.end_id:
            break
        if token != tokenizer.pad_id:
            ids.append(token)
    return ids
