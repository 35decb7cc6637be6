"""A scorer that is trained before it scores: frequencies of tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from components.data.tokenizer import Tokenizer
from components.scorers.base import Columns, ScoredRow, Scorer, ScorerSetting, written
from components.store.files import publishing
from toy_plugins.options import UnigramConfig

FILE = "unigram.npy"


def train(config: UnigramConfig, rows: NDArray[np.int64], tokenizer: Tokenizer, folder: Path) -> None:
    counts = np.bincount(rows[rows != tokenizer.pad_id], minlength=tokenizer.vocab_size) + config.added
    with publishing(folder / FILE) as private, private.open("wb") as file:
        np.save(file, counts / counts.sum())


def build(config: UnigramConfig, setting: ScorerSetting) -> Scorer:
    shares = np.load(setting.trained[config.name] / FILE)

    def score(rows: list[ScoredRow]) -> Columns:
        ids = [written(row, setting.tokenizer) for row in rows]
        return {config.column: [float(-np.log(shares[x]).mean()) if x else 0.0 for x in ids]}

    return score
