"""The scorer ``judge``, an n-gram model: interpolated absolute discounting over token ids, trained apart from the model.

    P_n(w | h) = max(c(h w) - d, 0) / c(h) + d * types(h) / c(h) * P_(n-1)(w | h')

Grams are exact 64-bit numbers in base V, sorted, so that counts are found by bisection and a file of
plain arrays is the whole model.
"""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from components.data.tokenizer import Tokenizer
from components.errors import ConfigError, CorruptArtifact, SamplingError
from components.scorers.base import Columns, ScoredRow, Scorer, ScorerSetting, written
from components.scorers.config import NgramConfig
from components.store.cache import local
from components.store.files import publish_bytes

Ints = NDArray[np.int64]
FILE = "ngram.npz"


def train(config: NgramConfig, rows: Ints, tokenizer: Tokenizer, folder: Path) -> None:
    """Count the grams of rows [n, L] and write them into the folder. Grams that hold padding do not count.

    Raises:
        ConfigError: a gram does not fit into 63 bits.
    """
    vocab_size = tokenizer.vocab_size
    if config.order * math.log2(vocab_size) >= 63:
        raise ConfigError(
            f"scorers.judge.order = {config.order} with {vocab_size} tokens does not fit into 63 bits; "
            f"use at most {int(63 / math.log2(vocab_size))}."
        )
    arrays: dict[str, Any] = {"vocab_size": np.int64(vocab_size), "discount": np.float64(config.discount)}
    for n in range(1, config.order + 1):
        codes, keep = grams(rows, n, vocab_size, tokenizer.pad_id)
        arrays[f"gram_{n}"], arrays[f"count_{n}"] = np.unique(codes[keep], return_counts=True)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    publish_bytes(folder / FILE, buffer.getvalue())


def grams(rows: Ints, n: int, vocab_size: int, pad_id: int) -> tuple[Ints, NDArray[np.bool_]]:
    """Codes [rows, L - n + 1] of all n-grams and whether they are free of padding."""
    width = rows.shape[1] - n + 1
    codes = np.zeros((rows.shape[0], width), dtype=np.int64)
    keep = np.ones_like(codes, dtype=bool)
    for i in range(n):
        part = rows[:, i : i + width]
        codes = codes * vocab_size + part
        keep &= part != pad_id
    return codes, keep


class Ngrams:
    """A trained model."""

    def __init__(self, path: Path):
        """Raises CorruptArtifact where the file is no such model."""
        try:
            with np.load(local(path), allow_pickle=False) as file:
                self.vocab_size, self.discount = int(file["vocab_size"]), float(file["discount"])
                self.order = max(int(k.removeprefix("gram_")) for k in file.files if k.startswith("gram_"))
                self.tables = {n: (file[f"gram_{n}"], file[f"count_{n}"]) for n in range(1, self.order + 1)}
        except (OSError, ValueError, TypeError, KeyError, BadZipFile) as error:
            raise CorruptArtifact(
                f"{path} is missing or damaged ({error}). Run `proseco gc --corrupt --delete`, then the same command again."
            ) from None
        self.total = int(self.tables[1][1].sum())
        # For each history: how often it was followed by anything, and by how many different tokens.
        self.histories = {}
        for n in range(2, self.order + 1):
            codes, first = np.unique(self.tables[n][0] // self.vocab_size, return_index=True)
            counts = np.add.reduceat(self.tables[n][1], first)
            types = np.diff(np.append(first, len(self.tables[n][0])))
            self.histories[n] = (codes, counts, types)

    def nll(self, ids: list[int]) -> float:
        """Nats of all of ids; the first tokens have the history that there is."""
        if not ids:
            return 0.0
        sequence = np.asarray(ids, dtype=np.int64)
        unigram = find(*self.tables[1], sequence)
        p = (unigram + 1) / (self.total + self.vocab_size)
        code = sequence.copy()
        for n in range(2, self.order + 1):
            history = code[:-1]
            code = history * self.vocab_size + sequence[n - 1 :]
            if not len(code):
                break
            codes, counts, types = self.histories[n]
            followed, kinds = find(codes, counts, history), find(codes, types, history)
            seen = find(*self.tables[n], code)
            with np.errstate(divide="ignore", invalid="ignore"):
                own = np.maximum(seen - self.discount, 0) / followed
                rest = self.discount * kinds / followed
            lower = p[n - 1 :]
            p = np.concatenate([p[: n - 1], np.where(followed > 0, own + rest * lower, lower)])
        return float(-np.log(p).sum())


def find(keys: Ints, values: Ints, wanted: Ints) -> Ints:
    """Values of the wanted keys, 0 where there is none."""
    if not len(keys):
        return np.zeros(len(wanted), dtype=np.int64)
    place = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], 0)


def build(config: NgramConfig, setting: ScorerSetting) -> Scorer:
    """Raises SamplingError where none was trained."""
    folder = setting.trained.get(config.name)
    if folder is None:
        raise SamplingError(
            f"The scorer {config.name!r} needs the folder of a trained n-gram model, and there is none here. A run with "
            f"{config.name!r} among its scorers trains one."
        )
    model = Ngrams(folder / FILE)

    def score(rows: list[ScoredRow]) -> Columns:
        ids = [written(row, setting.tokenizer) for row in rows]
        return {config.column: [model.nll(x) / max(1, len(x)) for x in ids]}

    return score
