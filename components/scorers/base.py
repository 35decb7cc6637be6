"""What a scorer is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

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


def written(row: ScoredRow, tokenizer: Tokenizer) -> list[int]:
    """Ids after the prompt, up to the end token, without padding."""
    ids = []
    for token in row.tokens[row.num_prompt :]:
        if token == tokenizer.end_id:
            break
        if token != tokenizer.pad_id:
            ids.append(token)
    return ids
