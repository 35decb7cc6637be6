"""What samples start from, as token ids, and where a shard finds them. Without torch, because it is part of what a
stage's key is made of.

A shard is cut by reference: it names where its prompts lie and which of them it takes, so neither the driver nor a
message between machines ever holds them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from components.data.rows import TokenRows
from components.errors import CorruptArtifact
from components.store.cache import local
from components.store.samples import shard_file

HOLE = -1
"""Stands in a prompt's tokens for a position to write."""


@dataclass(frozen=True)
class Prompt:
    """What a sample starts from, and its number among the samples of that prompt."""

    index: int
    tokens: tuple[int, ...] = ()
    """Token ids that stay, and ``HOLE`` where something is to be written."""
    label: float | None = None
    """Class of the row, or value of its property, for networks that are conditioned on one."""
    occurrence: int = 0
    """How many equal prompts come before it in its file, so that its samples are others than theirs."""
    id: str = ""
    """By which its owner knows it."""
    fields: str | None = None
    """What else its owner said of it, as JSON."""
    tail: int = HOLE
    """What the rest of the row is: written, too, or padding behind a template, which ends where its last piece does."""


class PromptSource(Protocol):
    """Prompts of samples by the samples' numbers."""

    def take(self, start: int, stop: int) -> list[Prompt]:
        """The prompts of samples ``start`` to ``stop``, that one left out."""


def label_at(labels: Sequence[float], number: int) -> float | None:
    """The label of a sample by its number."""
    return labels[number % len(labels)] if labels else None


@dataclass(frozen=True)
class NoPrompts:
    """Samples of nothing but their labels."""

    labels: tuple[float, ...] = ()
    """Of the samples, in turn."""

    def take(self, start: int, stop: int) -> list[Prompt]:
        return [Prompt(i, label=label_at(self.labels, i)) for i in range(start, stop)]


@dataclass(frozen=True)
class CorpusPrompts:
    """The prompts of one split of tokenized rows, in order and again from the start, with their labels or others."""

    folder: Path
    split: str
    labels: tuple[float, ...] = ()

    def take(self, start: int, stop: int) -> list[Prompt]:
        rows = TokenRows(self.folder, self.split)
        block = rows.take(np.arange(start, stop) % len(rows))
        starts = zip(block.tokens, block.num_prompt, strict=True)
        own = [None] * len(block.tokens) if block.label is None else block.label.tolist()
        labels = [label_at(self.labels, start + i) if self.labels else label for i, label in enumerate(own)]
        return [Prompt(start + i, tuple(tokens[:n].tolist()), labels[i]) for i, (tokens, n) in enumerate(starts)]


PROMPTS = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("tokens", pa.list_(pa.int32())),
        ("label", pa.float64()),
        ("digest", pa.int64()),
        ("tail", pa.int32()),
        ("fields", pa.string()),
    ]
)
"""One prompt a row; ``tokens`` and ``tail`` hold ``HOLE`` where something is to be written, and equal prompts have equal digests."""
OCCURRENCES = "occurrences.npy"
"""Beside the parts where prompts repeat: how many equal ones come before each [prompts] int32."""


@dataclass(frozen=True)
class FilePrompts:
    """Prompts of a file as the prompts stage left them, each for several samples in a row."""

    folder: Path
    parts: tuple[tuple[str, int], ...]
    """Names of tables in ``shards`` and numbers of their prompts, in order."""
    num_samples: int
    """Of each prompt."""
    repeated: bool
    """Some prompts are equal."""

    def take(self, start: int, stop: int) -> list[Prompt]:
        first, last = start // self.num_samples, -(-stop // self.num_samples)
        records: list[dict[str, object]] = []
        begin = 0
        for name, count in self.parts:
            if begin < last and first < begin + count:
                table = read_part(shard_file(self.folder / "shards", name))
                records += table.slice(max(0, first - begin), min(last, begin + count) - max(first, begin)).to_pylist()
            begin += count
        before: Sequence[int] = [0] * len(records)
        if self.repeated:
            before = read_occurrences(self.folder / OCCURRENCES)[first:last].tolist()
        found = []
        for number in range(start, stop):
            record = records[number // self.num_samples - first]
            found.append(
                Prompt(
                    index=number % self.num_samples,
                    tokens=tuple(record["tokens"]),  # type: ignore[arg-type]
                    label=record["label"],  # type: ignore[arg-type]
                    occurrence=before[number // self.num_samples - first],
                    id=str(record["prompt_id"]),
                    fields=record["fields"],  # type: ignore[arg-type]
                    tail=record["tail"],  # type: ignore[arg-type]
                )
            )
        return found


def read_occurrences(path: Path) -> NDArray[np.int32]:
    """How many equal prompts come before each. Raises CorruptArtifact where the file does not say so."""
    try:
        return np.load(local(path), mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]
    except (OSError, ValueError) as error:
        raise CorruptArtifact(
            f"{path} is missing or damaged ({error}). Run `proseco gc --corrupt --delete`, then the same command again."
        ) from None


def read_part(path: Path) -> pa.Table:
    """Raises CorruptArtifact where it is no table of prompts."""
    try:
        return pq.read_table(local(path), schema=PROMPTS)
    except (OSError, pa.ArrowInvalid) as error:
        raise CorruptArtifact(
            f"{path} is missing or damaged ({error}). Run `proseco gc --corrupt --delete`, then the same command again."
        ) from error
