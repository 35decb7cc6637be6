"""What a scorer is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    """What scorers may need; each takes what it names in its plug-in."""

    tokenizer: Tokenizer
    source: Any
    """Config of the corpus whose rules the rows should obey."""
    model: Denoiser | None = None
    judge: Path | None = None
    """Folder of the judge."""
    seed: int = 0


Columns = dict[str, list[float]]
Scorer = Callable[[list[ScoredRow]], Columns]
Build = Callable[[Any, ScorerSetting], Scorer]


def written(row: ScoredRow, tokenizer: Tokenizer) -> list[int]:
    """Ids after the prompt, up to the end token, without padding."""
    ids = []
    for token in row.tokens[row.num_prompt :]:
        if token == tokenizer.end_id:
            break
        if token != tokenizer.pad_id:
            ids.append(token)
    return ids
