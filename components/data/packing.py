"""Documents of one piece to rows. Every document is in a row or in quarantine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from components.data.config import CorpusConfig, RowsConfig
from components.data.documents import BadDocument, Document, split_of
from components.data.rows import PackedRow
from components.data.tokenizer import Tokenizer

T = TypeVar("T")
SPLITS = ("train", "validation", "test")
ENCODE_BATCH = 512
ENCODE_CHARACTERS = 1 << 22
"""Of the documents that are encoded at once."""


@dataclass
class PackedPiece:
    """What became of a piece."""

    rows: dict[str, list[PackedRow]] = field(default_factory=lambda: {s: [] for s in SPLITS})
    bad: list[BadDocument] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    """documents, quarantined, unreadable_files among these, cut, tokens, padding, and documents of each split."""


def pack_piece(
    documents: Iterable[Document | BadDocument], tokenizer: Tokenizer, rows: RowsConfig, corpus: CorpusConfig
) -> PackedPiece:
    """Encode, check and lay out the documents of one piece."""
    packed = PackedPiece()
    tails: dict[str, list[int]] = {s: [] for s in SPLITS}
    for batch in batched(documents, ENCODE_BATCH, size_of, ENCODE_CHARACTERS):
        packed.counts["documents"] += len(batch)
        good: list[Document] = []
        for document in batch:
            checked = check(document)
            if isinstance(checked, BadDocument):
                packed.bad.append(checked)
            else:
                good.append(checked)
        texts = tokenizer.encode_batch([d.text for d in good])
        prompts = tokenizer.encode_batch([d.prompt for d in good])
        for document, prompt, text in zip(good, prompts, texts, strict=True):
            split = split_of(document, corpus.validation_share, corpus.test_share)
            place(document, prompt, text, split, tokenizer, rows, packed, tails[split])
    for split, tail in tails.items():
        if tail:
            packed.rows[split].append(pad(tail, 0, None, rows, tokenizer, packed))
    packed.counts["quarantined"] = len(packed.bad)
    packed.counts["unreadable_files"] = sum(bad.whole_file for bad in packed.bad)
    return packed


def check(document: Document | BadDocument) -> Document | BadDocument:
    if isinstance(document, Document) and not document.text.strip():
        return BadDocument(document.id, "empty")
    return document


def place(
    document: Document,
    prompt: list[int],
    text: list[int],
    split: str,
    tokenizer: Tokenizer,
    rows: RowsConfig,
    packed: PackedPiece,
    tail: list[int],
) -> None:
    """Put one encoded document into its split, or into quarantine."""
    if tokenizer.unknown_id in text or tokenizer.unknown_id in prompt:
        packed.bad.append(
            BadDocument(document.id, "holds a symbol that the tokenizer does not know", document.text[:200])
        )
        return
    if rows.layout == "packed":
        tail += [*prompt, *text, tokenizer.end_id]
        while len(tail) >= rows.length:
            packed.rows[split].append(PackedRow(tail[: rows.length]))
            del tail[: rows.length]
    else:
        ids = [*prompt, *text] + [tokenizer.end_id] * rows.end_token
        fits = len(ids) <= rows.length
        if not fits and (rows.too_long == "quarantine" or len(prompt) >= rows.length):
            tokens = f"a prompt of {len(prompt)}" if len(prompt) >= rows.length else f"{len(ids)}"
            packed.bad.append(BadDocument(document.id, f"{tokens} tokens do not fit into a row of {rows.length}", document.text[:200]))
            return
        packed.counts["cut"] += not fits and rows.too_long == "cut"
        last = len(ids) if rows.too_long == "split" else 1
        for start in range(0, last, rows.length):
            packed.rows[split].append(
                pad(ids[start : start + rows.length], len(prompt), document.label, rows, tokenizer, packed)
            )
    kept = rows.length if rows.layout == "document" and rows.too_long == "cut" else len(prompt) + len(text)
    packed.counts["tokens"] += min(len(prompt) + len(text), kept)
    packed.counts[f"{split}_documents"] += 1


def pad(
    ids: list[int], num_prompt: int, label: float | None, rows: RowsConfig, tokenizer: Tokenizer, packed: PackedPiece
) -> PackedRow:
    size = rows.size_of(len(ids))
    packed.counts["padding"] += size - len(ids)
    return PackedRow([*ids, *[tokenizer.pad_id] * (rows.length - len(ids))], num_prompt, label, size)


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
