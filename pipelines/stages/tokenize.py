"""Tokenize a corpus: one task a piece, one set of row files a task, one account of every document."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from components import faults
from components.data.config import CorpusConfig, RowsConfig
from components.data.corpora import open_corpus
from components.data.documents import BadDocument, Document
from components.data.packing import SPLITS, pack_piece
from components.data.rows import write_rows
from components.data.tokenizer import agrees, load_tokenizer
from components.errors import DataError
from components.store.files import children, digest_file, is_file, publish_text, publishing, remove
from components.store.names import file_name
from components.store.receipts import publish_receipt, read_receipt
from pipelines.graph.stage import Context
from pipelines.stages.spec import TokenizeSpec
from pipelines.stages.unchanged import require_unchanged

SAMPLED, SAMPLED_CHARACTERS = 64, 1024
"""Documents by which encoders are compared, and how much of the beginning of each: the slow one takes longer for a whole book
than the fast one for a library."""
RECEIPT = "piece-{}.json"
QUARANTINE = pa.schema([("id", pa.string()), ("reason", pa.string()), ("excerpt", pa.string())])


@dataclass(frozen=True)
class Piece:
    """One task, as plain values."""

    number: int
    name: str
    corpus: CorpusConfig
    rows: RowsConfig
    tokenizer: Path
    fast: bool
    folder: Path


def run(config: TokenizeSpec, context: Context) -> Mapping[str, Any]:
    require_unchanged([(config.corpus.source, config.content)])
    corpus = open_corpus(config.corpus.source)
    tokenizer = context.inputs["tokenizer"] / "tokenizer.json"
    names = corpus.pieces(config.rows.pieces)
    fast = config.fast == "auto" and fast_is_exact(tokenizer, corpus, names[0])
    pieces = [
        Piece(i, name, config.corpus, config.rows, tokenizer, fast, context.folder) for i, name in enumerate(names)
    ]
    context.progress.total(len(pieces), "pieces")
    receipts = context.cluster().map(tokenize_piece, pieces, lambda i, r: context.progress.advance())
    keep_if_unchanged(config, context.folder)
    total: Counter[str] = Counter()
    for receipt in receipts:
        total.update(receipt["counts"])
    placed = sum(total[f"{s}_documents"] for s in SPLITS)
    if placed + total["quarantined"] != total["documents"]:
        raise DataError(
            f"{total['documents']} documents came in, {placed} were placed and {total['quarantined']} quarantined: some were lost. Please report this."
        )
    check_quality(total, receipts, config.corpus, context)
    sums = {f"{s}_rows": sum(r["rows"][s] for r in receipts) for s in SPLITS}
    say_of_rows(sums, total, config, context)
    shards = {s: [f"{s}-{r['number']:05d}.arrow" for r in receipts if r["rows"][s]] for s in SPLITS}
    publish_text(
        context.folder / "rows.json",
        json.dumps({"length": config.rows.length, "pad_in_loss": config.rows.pad_in_loss, "shards": shards}, indent=1),
    )
    return {**{k: total[k] for k in ("documents", "quarantined", "unreadable_files", "cut", "tokens", "padding")}, **sums, "fast": fast}


def keep_if_unchanged(config: TokenizeSpec, folder: Path) -> None:
    """Give up the pieces where the corpus was changed while they were read."""
    try:
        require_unchanged([(config.corpus.source, config.content)])
    except DataError:
        for receipt in children(folder):
            if re.fullmatch(RECEIPT.format(r"\d+"), receipt.name):
                remove(receipt)
        raise


def fast_is_exact(tokenizer: Path, corpus: Any, piece: str) -> bool:
    """Is the fast encoder there, and does it give the same ids on documents of this corpus?"""
    candidate = load_tokenizer(tokenizer, fast=True)
    if candidate._fast is None:
        return False
    texts = [d.text[:SAMPLED_CHARACTERS] for d in islice(corpus.read(piece), SAMPLED) if isinstance(d, Document)]
    return agrees(candidate, texts)


def tokenize_piece(piece: Piece) -> dict[str, Any]:
    """One piece to row files; its receipt comes last, and a piece that has one is not done again."""
    receipt_path = piece.folder / RECEIPT.format(f"{piece.number:05d}")
    done = finished_piece(receipt_path, piece.folder)
    if done is not None:
        return done
    tokenizer = load_tokenizer(piece.tokenizer, piece.fast)
    packed = pack_piece(open_corpus(piece.corpus.source).read(piece.name), tokenizer, piece.rows, piece.corpus)
    faults.point("tokenize.before_shard")
    files = {}
    for split, rows in packed.rows.items():
        if len(rows):
            path = piece.folder / f"{split}-{piece.number:05d}.arrow"
            with publishing(path) as private:
                write_rows(private, rows)
            files[path.name] = digest_file(path)
    path = piece.folder / f"quarantine-{piece.number:05d}.parquet"
    with publishing(path) as private:
        pq.write_table(pa.Table.from_pylist([asdict(b) for b in packed.bad], QUARANTINE), private)
    files[path.name] = digest_file(path)
    faults.point("tokenize.after_shard")
    receipt = {
        "number": piece.number,
        "rows": {s: len(r) for s, r in packed.rows.items()},
        "counts": dict(packed.counts),
        "examples": [asdict(b) for b in packed.bad[:3]],
        "files": files,
    }
    publish_receipt(receipt_path, receipt)
    return receipt


def finished_piece(path: Path, folder: Path) -> dict[str, Any] | None:
    """The receipt of a finished piece, if its files are really there."""
    receipt = read_receipt(path, files=dict, rows=dict, counts=dict, examples=list)
    if receipt is None:
        return None
    for name, digest in receipt["files"].items():
        file = folder / file_name(name, path)
        if not is_file(file) or digest_file(file) != digest:
            return None
    return receipt


def say_of_rows(sums: Mapping[str, int], total: Counter[str], config: TokenizeSpec, context: Context) -> None:
    """Say what a reader of the numbers would not expect: cut documents, and a split that is empty and should not be."""
    if total["cut"]:
        context.progress.say(f"{total['cut']} of {total['documents']} documents were cut off after {config.rows.length} tokens")
    for split, share in (("validation", config.corpus.validation_share), ("test", config.corpus.test_share)):
        if share and not sums[f"{split}_rows"]:
            context.progress.say(
                f"The {split} split is empty: none of {total['documents']} documents fell into a share of {share:g}, and none "
                f"is divided. Take smaller documents (source.document=paragraph of a text), raise {split}_share, or set it to 0."
            )


def check_quality(total: Counter[str], receipts: list[dict[str, Any]], corpus: CorpusConfig, context: Context) -> None:
    """Say what was quarantined, and stop where it is too much."""
    if not total["documents"] or total["documents"] == total["quarantined"]:
        examples = [e for r in receipts for e in r["examples"]]
        why = f" The first reason: {BadDocument(**examples[0]).reason}." if examples else ""
        raise DataError(
            f"The corpus gave no usable document.{why} Look at the source, at rows.length and at the tokenizer."
        )
    if not total["quarantined"]:
        return
    share = total["quarantined"] / total["documents"]
    first = BadDocument(**next(e for r in receipts for e in r["examples"]))
    files = f", {total['unreadable_files']} of them whole files" if total["unreadable_files"] else ""
    message = (
        f"{total['quarantined']} of {total['documents']} documents were quarantined ({share:.1%}){files}; the first is "
        f"{first.id}: {first.reason}. All are in {context.folder}/quarantine-*.parquet"
    )
    if share > corpus.max_bad_share:
        raise DataError(
            f"{message}. That is more than max_bad_share = {corpus.max_bad_share:.1%}, so nothing was trained on the rest. "
            f"Mend the documents, raise rows.length if they are too long, or raise max_bad_share."
        )
    context.progress.say(message)
