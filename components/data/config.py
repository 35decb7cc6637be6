"""Options of corpora, tokenizers and packing, without torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from components.data.corpora import CORPORA
from components.data.corpora.config import LatinSquareConfig, SourceOptions
from components.errors import Problem
from components.options import Count, Location, Share, options
from components.outside import MAX_LENGTH
from components.store.content import Content, content_of


@options
class CorpusConfig:
    """One corpus of a run."""

    source: Annotated[SourceOptions, CORPORA.slot()] = LatinSquareConfig()
    """Where its documents come from."""
    weight: Annotated[float, Field(gt=0, le=1e9)] = 1.0
    """Share in a training batch, relative to the other corpora."""
    validation_share: Annotated[float, Field(ge=0, lt=1)] = 0.02
    """Share of documents that trainings are validated on."""
    test_share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Documents are split by a hash of their content: equal documents are never in two splits."""
    max_bad_share: Share = 0.01
    """Largest share of documents that may be quarantined before the stage stops."""

    def problems(self) -> Iterator[Problem]:
        """Broken rules between options; paths begin below the corpus."""
        if self.validation_share + self.test_share >= 1:
            rule = "shares that leave something to train on"
            yield Problem("validation_share", (self.validation_share, self.test_share), rule, "0.02 is usual")
        for problem in self.source.problems():
            yield Problem(f"source.{problem.path}", problem.value, problem.rule, problem.remedy)


@options
class TokenizerConfig:
    """How text becomes ids."""

    kind: Literal["characters", "symbols", "smiles", "bpe", "file"] = "characters"
    """``characters`` and ``symbols`` collect the alphabet of the corpus (symbols split at spaces too);
    ``bpe`` trains byte-level merges on it; ``file`` loads a tokenizer.json."""
    vocab_size: Annotated[int, Field(ge=1, le=1 << 24)] = 4096
    """Entries of a trained vocabulary."""
    path: Location = ""
    """Of a tokenizer.json, for ``file``. The identity holds what is in it, not where it lies."""
    train_documents: Count = 20000
    """Documents that the tokenizer is trained on, per corpus."""
    fast: Literal["auto", "never"] = "auto"
    """Encode by gigatoken where it is installed and gives the same ids on a sample of the corpus."""

    def content(self) -> Content | None:
        """What a tokenizer.json that is given holds. Raises DataError where it cannot be read."""
        return content_of({"tokenizer.json": self.path}) if self.kind == "file" else None


@options
class RowsConfig:
    """How documents become rows."""

    length: Annotated[int, Field(ge=1, le=MAX_LENGTH)] = 25
    """Tokens of a row, and the most that one has."""
    layout: Literal["packed", "document"] = "document"
    """``packed`` joins documents with an end token and cuts; ``document`` gives each a row of its own."""
    end_token: bool = False
    """End each document with the end token (always so when packed)."""
    buckets: tuple[Count, ...] = ()
    """Lengths that shorter rows are filled up to with padding, each to the next one, where documents have rows of their
    own. Rows of several lengths are trained on side by side and no other padding is computed, so there may be many. Empty fills
    up all rows."""
    too_long: Literal["quarantine", "cut", "split"] = "quarantine"
    """What becomes of a document that is longer than a row, where each has a row of its own: told and left out, cut off
    (the row then has no end), or written on in further rows."""
    pad_in_loss: bool = True
    """Learn the padding after a document. Without it a generated row knows no end."""
    pieces: Annotated[int, Field(ge=1, le=1 << 16)] = 4
    """The corpus is cut into this many pieces, each one task. Part of the identity: it decides
    where packed rows begin."""

    def size_of(self, tokens: int) -> int:
        """Positions of the row of so many tokens."""
        return next((size for size in self.buckets if tokens <= size), self.length)

    def problems(self) -> Iterator[Problem]:
        """Broken rules between options; paths begin below the section."""
        if list(self.buckets) != sorted({b for b in self.buckets if b <= self.length}):
            yield Problem("buckets", self.buckets, f"growing lengths up to rows.length ({self.length})", "e.g. [64, 128, 256]")
        if self.layout == "packed":
            for option, value, default in (("buckets", self.buckets, ()), ("too_long", self.too_long, "quarantine")):
                if value != default:
                    yield Problem(option, value, "left at its default where rows are packed, which are all full", "drop it")
