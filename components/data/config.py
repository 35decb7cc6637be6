"""Options of corpora, tokenizers and packing, without torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from components.errors import Problem


@dataclass(frozen=True)
class LatinSquareConfig:
    """Squares of size x size symbols in which no row or column repeats one; written row by row."""

    size: int = 5
    num_documents: int = 40000
    seed: int = 0


@dataclass(frozen=True)
class SudokuConfig:
    """Solved grids, or puzzles with the givens as prompt."""

    size: Literal[4, 6, 9] = 4
    num_documents: int = 20000
    givens: int = 0
    """0 writes whole grids; otherwise the prompt is the puzzle (0 for empty) and the text its solution."""
    seed: int = 0


@dataclass(frozen=True)
class CodingConfig:
    """Strings of groups; each group holds permuted copies of one symbol. A group is valid if they agree."""

    groups: int = 4
    copies: int = 4
    symbols: int = 6
    num_documents: int = 20000
    seed: int = 0


@dataclass(frozen=True)
class PatchesConfig:
    """Images as tokens: smooth blobs on a grid of side x side patches, each one of so many grey levels."""

    side: int = 8
    levels: int = 6
    num_documents: int = 20000
    seed: int = 0


@dataclass(frozen=True)
class AdditionConfig:
    """``a+b=`` as prompt, the sum as text, least significant digit last."""

    min_digits: int = 3
    max_digits: int = 8
    num_documents: int = 20000
    seed: int = 0


@dataclass(frozen=True)
class StdlibConfig:
    """Python files of the running interpreter's standard library."""

    max_documents: int = 0
    """0 takes all; otherwise this many, spread evenly."""
    include_tests: bool = False


@dataclass(frozen=True)
class TextConfig:
    """One document a file, or one a line."""

    path: str = ""
    """A file, a folder, or a glob. ``$PROSECO_DATA`` stands for that setting."""
    document: Literal["file", "line", "paragraph"] = "file"


@dataclass(frozen=True)
class JsonlConfig:
    path: str = ""
    text_field: str = "text"
    prompt_field: str = ""
    """Set it for fine-tuning: the prompt is kept clean and out of the loss."""
    label_field: str = ""


@dataclass(frozen=True)
class ParquetConfig:
    path: str = ""
    text_field: str = "text"
    prompt_field: str = ""
    label_field: str = ""


@dataclass(frozen=True)
class HubConfig:
    name: str = ""
    subset: str = ""
    split: str = "train"
    revision: str = ""
    text_field: str = "text"
    prompt_field: str = ""
    label_field: str = ""
    max_documents: int = 0
    """0 reads to the end."""


@dataclass(frozen=True)
class CorpusConfig:
    """One corpus of a run."""

    source: Any = field(default_factory=LatinSquareConfig)
    weight: float = 1.0
    """Share in a training batch, relative to the other corpora."""
    validation_share: float = 0.02
    test_share: float = 0.0
    """Documents are split by a hash of their content: equal documents are never in two splits."""
    max_bad_share: float = 0.01
    """Largest share of documents that may be quarantined before the stage stops."""


@dataclass(frozen=True)
class TokenizerConfig:
    """How text becomes ids."""

    kind: Literal["characters", "symbols", "smiles", "bpe", "file"] = "characters"
    """``characters`` and ``symbols`` collect the alphabet of the corpus (symbols split at spaces too);
    ``bpe`` trains byte-level merges on it; ``file`` loads a tokenizer.json."""
    vocab_size: int = 4096
    path: str = ""
    train_documents: int = 20000
    """Documents that the tokenizer is trained on, per corpus."""
    fast: Literal["auto", "never"] = "auto"
    """Encode by gigatoken where it is installed and gives the same ids on a sample of the corpus."""


@dataclass(frozen=True)
class RowsConfig:
    """How documents become rows of one length."""

    length: int = 25
    layout: Literal["packed", "document"] = "document"
    """``packed`` joins documents with an end token and cuts; ``document`` gives each a row of its own."""
    end_token: bool = False
    """End each document with the end token (always so when packed)."""
    pad_in_loss: bool = True
    """Learn the padding after a document. Without it a generated row knows no end."""
    pieces: int = 4
    """The corpus is cut into this many pieces, each one task. Part of the identity: it decides
    where packed rows begin."""

    def problems(self, path: str) -> list[Problem]:
        found = []
        if self.length < 1:
            found.append(Problem(f"{path}.length", self.length, "at least 1", "set the tokens of a row"))
        if self.pieces < 1:
            found.append(Problem(f"{path}.pieces", self.pieces, "at least 1", "4 suits two cores"))
        return found
