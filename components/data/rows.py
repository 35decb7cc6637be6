"""Rows of tokens on disk: Arrow files, memory-mapped, filled up to one length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from components.errors import CorruptArtifact
from components.store.cache import local
from components.store.files import read_object
from components.store.names import file_name


@dataclass(frozen=True)
class PackedRow:
    """A row of its own before it lies among others."""

    tokens: Sequence[int] | NDArray[np.integer]
    """Without the padding at its end."""
    num_prompt: int = 0
    label: float | None = None
    size: int = 0
    """Positions at its start that it has, the rest being filled up for the file's sake; 0 is all."""


@dataclass(frozen=True)
class RowBlock:
    """Rows as arrays: tokens [n, L], num_prompt [n], label [n] (a class or a value; NaN for none) or None, size [n]: the
    positions that a row has."""

    tokens: NDArray[np.integer]
    num_prompt: NDArray[np.int32]
    label: NDArray[np.float64] | None
    size: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.tokens)


def width_of(vocab_size: int) -> type[np.uint16 | np.uint32]:
    """What ids are kept in: 16 bits where they fit."""
    return np.uint16 if vocab_size <= 1 << 16 else np.uint32


def block_of(rows: list[PackedRow], length: int, pad_id: int, vocab_size: int) -> RowBlock:
    """Rows that were made one by one, filled up with padding."""
    tokens = np.full((len(rows), length), pad_id, dtype=width_of(vocab_size))
    for place, row in zip(tokens, rows, strict=True):
        place[: len(row.tokens)] = row.tokens
    return RowBlock(
        tokens,
        np.array([row.num_prompt for row in rows], dtype=np.int32),
        np.array([np.nan if row.label is None else row.label for row in rows], dtype=np.float64),
        np.array([row.size or length for row in rows], dtype=np.int32),
    )


def write_rows(path: Path, rows: RowBlock) -> None:
    """Write an Arrow IPC file."""
    columns = {
        "tokens": pa.FixedSizeListArray.from_arrays(pa.array(rows.tokens.reshape(-1)), rows.tokens.shape[1]),
        "num_prompt": pa.array(rows.num_prompt),
        "label": pa.nulls(len(rows), pa.float64()) if rows.label is None else pa.array(rows.label, from_pandas=True),
        "size": pa.array(rows.size),
    }
    table = pa.table(columns)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def read_rows_json(folder: Path) -> dict[str, Any]:
    """What a tokenized corpus says of itself. Raises CorruptArtifact where it is none."""
    try:
        info = read_object(folder / "rows.json")
        if {"length", "pad_in_loss", "shards"} - info.keys():
            raise ValueError("it does not say length, pad_in_loss and shards")
    except (OSError, ValueError) as error:
        raise CorruptArtifact(
            f"{folder / 'rows.json'} is missing or damaged ({error}). Give the folder of a tokenize stage, or run `proseco gc "
            f"--corrupt --delete` and the workflow again; the stage is then made anew."
        ) from None
    return info


class TokenRows:
    """The rows of one split of a tokenized corpus. Nothing is read before it is asked for."""

    def __init__(self, folder: Path, split: str):
        info = read_rows_json(folder)
        self.length: int = info["length"]
        self.pad_in_loss: bool = info["pad_in_loss"]
        self.blocks = [self._open(folder / file_name(name, folder / "rows.json")) for name in info["shards"][split]]
        self.ends = np.cumsum([len(b.tokens) for b in self.blocks], dtype=np.int64)

    def _open(self, path: Path) -> RowBlock:
        try:
            table = pa.ipc.open_file(pa.memory_map(str(local(path)))).read_all().combine_chunks()
        except (OSError, pa.ArrowInvalid) as error:
            raise CorruptArtifact(
                f"{path} cannot be read as an Arrow file ({error}). It is missing or damaged: run "
                f"`proseco gc --corrupt --delete` and the workflow again; the stage is then made anew."
            ) from None
        if not table.num_rows:
            empty = np.zeros(0, dtype=np.int32)
            return RowBlock(np.zeros((0, self.length), dtype=np.uint16), empty, None, empty)
        tokens = table["tokens"].chunk(0).flatten().to_numpy().reshape(-1, self.length)
        labels = table["label"].chunk(0)
        label = None if labels.null_count else labels.to_numpy()
        return RowBlock(tokens, table["num_prompt"].chunk(0).to_numpy(), label, table["size"].chunk(0).to_numpy())

    def highest_label(self) -> float | None:
        """The largest class or value; None where rows have none."""
        found = [float(block.label.max()) for block in self.blocks if block.label is not None and len(block.label)]
        return max(found, default=None)

    @property
    def uneven(self) -> bool:
        """Some rows are shorter than others."""
        return any(len(block.size) > 0 and block.size.min() < self.length for block in self.blocks)

    def sizes(self, index: NDArray[np.int64]) -> NDArray[np.int32]:
        """Positions of rows by number."""
        found = np.zeros(len(index), dtype=np.int32)
        for here, block, at in self._places(index):
            found[here] = block.size[at]
        return found

    def _places(self, index: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.bool_], RowBlock, NDArray[np.int64]]]:
        """(which of the numbers lie in a block, the block, their numbers in it), block by block."""
        block_of = np.searchsorted(self.ends, index, side="right")
        for number in np.unique(block_of):
            here = block_of == number
            block = self.blocks[number]
            yield here, block, index[here] - (self.ends[number] - len(block.tokens))

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def take(self, index: NDArray[np.int64]) -> RowBlock:
        """Rows by number, in the order asked for."""
        tokens = np.zeros((len(index), self.length), dtype=np.int64)
        num_prompt, size = np.zeros((2, len(index)), dtype=np.int32)
        label = np.zeros(len(index), dtype=np.float64)
        labelled = True
        for here, block, at in self._places(index):
            tokens[here], num_prompt[here], size[here] = block.tokens[at], block.num_prompt[at], block.size[at]
            if block.label is None:
                labelled = False
            else:
                label[here] = block.label[at]
        return RowBlock(tokens, num_prompt, label if labelled else None, size)
