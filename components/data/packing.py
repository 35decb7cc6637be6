"""Documents of one piece to rows. Every document is in a row or in quarantine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from components.data.config import CorpusConfig, RowsConfig
from components.data.documents import EXCERPT, BadDocument, Document, split_of
from components.data.rows import PackedRow, RowBlock, block_of, width_of
from components.data.tokenizer import Ids, Tokenizer

T = TypeVar("T")
SPLITS = ("train", "validation", "test")
ENCODE_BATCH = 512
ENCODE_CHARACTERS = 1 << 19
"""Of the documents that are encoded at once: few enough that texts and ids stay in the caches of a core."""


@dataclass
class Laid:
    """Rows of one split in the making."""

    rows: list[PackedRow] = field(default_factory=list)
    """Of documents that have rows of their own."""
    batch: list[Ids] = field(default_factory=list)
    """Ids of the packed documents of a batch, one after the other."""
    stream: list[NDArray[np.integer]] = field(default_factory=list)
    """Those of the batches before, as narrow as they will lie."""

    def end_batch(self, width: type[np.integer]) -> None:
        if self.batch:
            self.stream.append(np.concatenate(self.batch, dtype=width, casting="unsafe"))
            self.batch = []


@dataclass
class PackedPiece:
    """What became of a piece."""

    rows: dict[str, RowBlock]
    bad: list[BadDocument]
    counts: Counter[str]
    """documents, quarantined, unreadable_files among these, cut, tokens, padding, and documents of each split."""


def pack_piece(
    documents: Iterable[Document | BadDocument], tokenizer: Tokenizer, rows: RowsConfig, corpus: CorpusConfig
) -> PackedPiece:
    """Encode, check and lay out the documents of one piece."""
    packed = PackedPiece({}, [], Counter())
    laid, width = {split: Laid() for split in SPLITS}, width_of(tokenizer.vocab_size)
    for batch in batched(documents, ENCODE_BATCH, size_of, ENCODE_CHARACTERS):
        packed.counts["documents"] += len(batch)
        good: list[Document] = []
        for document in batch:
            checked = check(document)
            if isinstance(checked, BadDocument):
                packed.bad.append(checked)
            else:
                good.append(checked)
        texts = tokenizer.encode_arrays([d.text for d in good])
        prompts = tokenizer.encode_arrays([d.prompt for d in good])
        for document, prompt, text in zip(good, prompts, texts, strict=True):
            split = split_of(document, corpus.validation_share, corpus.test_share)
            place(document, prompt, text, split, tokenizer, rows, packed, laid[split])
        for one in laid.values():
            one.end_batch(width)
    packed.rows = {split: finished(one, rows, tokenizer, packed) for split, one in laid.items()}
    packed.counts["quarantined"] = len(packed.bad)
    packed.counts["unreadable_files"] = sum(bad.whole_file for bad in packed.bad)
    return packed


def check(document: Document | BadDocument) -> Document | BadDocument:
    if isinstance(document, Document) and (not document.text or document.text.isspace()):
        return BadDocument(document.id, "empty")
    return document


def place(
    document: Document,
    prompt: Ids,
    text: Ids,
    split: str,
    tokenizer: Tokenizer,
    rows: RowsConfig,
    packed: PackedPiece,
    laid: Laid,
) -> None:
    """Put one encoded document into its split, or into quarantine."""
    if (text == tokenizer.unknown_id).any() or (prompt == tokenizer.unknown_id).any():
        packed.bad.append(
            BadDocument(document.id, "holds a symbol that the tokenizer does not know", document.text[:EXCERPT])
        )
        return
    end = np.array([tokenizer.end_id], dtype=np.uint32)
    if rows.layout == "packed":
        laid.batch += [prompt, text, end]
    else:
        ids = np.concatenate([prompt, text, end] if rows.end_token else [prompt, text])
        fits = len(ids) <= rows.length
        if not fits and (rows.too_long == "quarantine" or len(prompt) >= rows.length):
            tokens = f"a prompt of {len(prompt)}" if len(prompt) >= rows.length else f"{len(ids)}"
            packed.bad.append(BadDocument(document.id, f"{tokens} tokens do not fit into a row of {rows.length}", document.text[:EXCERPT]))
            return
        packed.counts["cut"] += not fits and rows.too_long == "cut"
        last = len(ids) if rows.too_long == "split" else 1
        for start in range(0, last, rows.length):
            part = ids[start : start + rows.length]
            size = rows.size_of(len(part))
            packed.counts["padding"] += size - len(part)
            laid.rows.append(PackedRow(part, len(prompt), document.label, size))
    kept = rows.length if rows.layout == "document" and rows.too_long == "cut" else len(prompt) + len(text)
    packed.counts["tokens"] += min(len(prompt) + len(text), kept)
    packed.counts[f"{split}_documents"] += 1


def finished(laid: Laid, rows: RowsConfig, tokenizer: Tokenizer, packed: PackedPiece) -> RowBlock:
    """The rows of a split; what is left of a stream is filled up."""
    if rows.layout == "document":
        return block_of(laid.rows, rows.length, tokenizer.pad_id, tokenizer.vocab_size)
    padding = -sum(map(len, laid.stream)) % rows.length
    packed.counts["padding"] += padding
    filled = [*laid.stream, np.full(padding, tokenizer.pad_id, dtype=width_of(tokenizer.vocab_size))]
    tokens = np.concatenate(filled).reshape(-1, rows.length)
    number = len(tokens)
    return RowBlock(tokens, np.zeros(number, dtype=np.int32), None, np.full(number, rows.length, dtype=np.int32))


def size_of(document: Document | BadDocument) -> int:
    """Characters of a document."""
    return len(document.text) + len(document.prompt) if isinstance(document, Document) else 0


def batched(
    items: Iterable[T], number: int, size: Callable[[T], int] = lambda item: 0, most: int = 0
) -> Iterator[list[T]]:
    """Lists of at most ``number`` items, and of at most ``most`` in size but for an item that is larger alone."""
    batch: list[T] = []
    total = 0
    for item in items:
        if batch and (len(batch) == number or total + size(item) > most):
            yield batch
            batch, total = [], 0
        batch.append(item)
        total += size(item)
    if batch:
        yield batch
