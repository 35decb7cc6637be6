"""Read a file of prompts, or of texts to score, once: what fits the model becomes a table that shards are cut from by
reference, and what does not is quarantined with a reason. In = out + quarantined.

Texts become the table of samples that were made by nobody, which the scoring stage reads like any other.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from components.data.documents import EXCERPT, BadDocument
from components.data.packing import batched
from components.data.prompts import Found, PromptsConfig, read_entries
from components.data.tokenizer import Tokenizer, load_tokenizer
from components.errors import DataError
from components.samplers.needs import strange_label
from components.shards.canvas import misfit, read_tokens, sample_id
from components.shards.prompt import HOLE, OCCURRENCES, PROMPTS, Prompt, read_part
from components.store.content import digest
from components.store.files import is_file, publish_bytes
from components.store.names import file_name
from components.store.receipts import publish_receipt, read_receipt
from components.store.samples import SAMPLES, publish_table, row_id, shard_file
from pipelines.graph.stage import Context
from pipelines.stages.spec import PromptsSpec
from pipelines.stages.tokenize import QUARANTINE
from pipelines.stages.unchanged import require_unchanged

PART_ROWS = {"prompts": 8192, "texts": 1024}
"""Rows of one file. Those of texts are what a replica scores at a time."""
PART_CHARACTERS = 1 << 22
"""Of the texts of one file, but where one alone has more."""


@dataclass(frozen=True)
class Piece:
    """One task, as plain values."""

    number: int
    name: str
    prompts: PromptsConfig
    spec: PromptsSpec
    tokenizer: Path
    folder: Path


def run(config: PromptsSpec, context: Context) -> Mapping[str, Any]:
    read = [(config.prompts, config.content)]
    require_unchanged(read)
    tokenizer = context.inputs["model"] / "tokenizer.json"
    names = config.prompts.cut()
    pieces = [Piece(i, n, config.prompts, config, tokenizer, context.folder) for i, n in enumerate(names)]
    context.progress.total(len(pieces), "pieces")
    cluster = context.cluster()
    receipts = cluster.map(read_piece, pieces, lambda number, receipt: context.progress.advance())
    require_unchanged(read)
    parts = [(name, rows) for receipt in receipts for name, rows in receipt["parts"]]
    kept, bad = sum(rows for _, rows in parts), sum(r["quarantined"] for r in receipts)
    examples = [BadDocument(**e) for r in receipts for e in r["examples"]]
    if not kept:
        why = f" The first: {examples[0].id}: {examples[0].reason}." if examples else ""
        raise DataError(f"{config.prompts.path} holds nothing that can be used; {bad} records were quarantined.{why}")
    if bad:
        context.progress.say(
            f"{bad} of {kept + bad} records were quarantined; the first is {examples[0].id}: {examples[0].reason}. "
            f"All are in {context.folder}/quarantine-*.parquet"
        )
    found: dict[str, Any] = {"documents": kept + bad, "prompts": kept, "quarantined": bad}
    if config.wanted == "texts":
        return found | {"samples": kept, "shards": [name for name, _ in parts]}
    (repeated,) = cluster.map(count_repeated, [(context.folder, tuple(parts))], lambda number, result: None)
    return found | {"repeated": repeated, "parts": parts}


def read_piece(piece: Piece) -> dict[str, Any]:
    """One piece to parts; its receipt comes last, and a piece that has one is not read again."""
    place = piece.folder / f"piece-{piece.number:05d}.json"
    if (done := finished_piece(place, piece.folder)) is not None:
        return done
    tokenizer = load_tokenizer(piece.tokenizer)
    parts: list[tuple[str, int]] = []
    files: dict[str, str] = {}
    bad: list[BadDocument] = []

    def publish(path: Path, table: pa.Table) -> None:
        publish_table(path, table)
        files[path.relative_to(piece.folder).as_posix()] = digest(path)

    entries = read_entries(piece.prompts, piece.name, piece.spec.wanted)
    for batch in batched(entries, PART_ROWS[piece.spec.wanted], characters, PART_CHARACTERS):
        bad += [e for e in batch if isinstance(e, BadDocument)]
        table, unfit = TABLES[piece.spec.wanted]([e for e in batch if isinstance(e, Found)], tokenizer, piece.spec)
        bad += unfit
        if table.num_rows:
            name = f"{piece.spec.wanted}-{piece.number:05d}-{len(parts):05d}"
            publish(shard_file(piece.folder / "shards", name), table)
            parts.append((name, table.num_rows))
    if bad:
        publish(
            piece.folder / f"quarantine-{piece.number:05d}.parquet",
            pa.Table.from_pylist([asdict(b) for b in bad], QUARANTINE),
        )
    receipt = {"parts": parts, "quarantined": len(bad), "examples": [asdict(b) for b in bad[:3]], "files": files}
    publish_receipt(place, receipt)
    return receipt


def characters(entry: Found | BadDocument) -> int:
    """Of an entry's texts."""
    if isinstance(entry, BadDocument):
        return 0
    return len(entry.entry.text) + sum(len(p) for p in entry.entry.pieces() if isinstance(p, str))


def finished_piece(place: Path, folder: Path) -> dict[str, Any] | None:
    """The receipt of a piece whose files are really there."""
    found = read_receipt(place, files=dict, parts=list, examples=list, quarantined=int)
    if found is None:
        return None
    for name, expected in found["files"].items():
        path = folder.joinpath(*(file_name(part, place) for part in name.split("/")))
        if not is_file(path) or digest(path) != expected:
            return None
    return found


Checked = tuple[pa.Table, list[BadDocument]]


def prompt_table(found: Sequence[Found], tokenizer: Tokenizer, spec: PromptsSpec) -> Checked:
    """Prompts as token ids, and those that the model cannot continue."""
    rows, bad = [], []
    for one in found:
        try:
            tokens = read_tokens(tokenizer, one.entry.pieces())
            tail = tokenizer.pad_id if one.entry.template else HOLE
            why = unusual(tokens, one.entry.label, tokenizer, spec) or misfit(tokens, spec.length, tail)
        except DataError as error:
            why = str(error)
        if why:
            bad.append(BadDocument(one.place, why, str(one.entry.pieces())[:EXCERPT]))
            continue
        id = sample_id(Prompt(0, tokens, one.entry.label))
        rows.append(
            {
                "prompt_id": one.entry.id or f"{id:016x}", "tokens": tokens, "label": one.entry.label, "digest": id, "tail": tail,
                "fields": one.fields,
            }
        )  # fmt: skip
    return pa.Table.from_pylist(rows, PROMPTS), bad


def text_table(found: Sequence[Found], tokenizer: Tokenizer, spec: PromptsSpec) -> Checked:
    """Texts as rows of a sample table, and those that the model cannot read."""
    rows, bad = [], []
    for one in found:
        prompt, text = (read_tokens(tokenizer, (t,)) for t in (one.entry.prompt, one.entry.text))
        tokens = (*prompt, *text)
        why = unusual(tokens, one.entry.label, tokenizer, spec)
        if len(tokens) > spec.length:
            why = f"{len(tokens)} tokens, and the model reads {spec.length}"
        if why or not text:
            bad.append(BadDocument(one.place, why or "an empty text", one.entry.text[:EXCERPT]))
            continue
        id = sample_id(Prompt(0, tokens, one.entry.label))
        rows.append(
            dict.fromkeys(SAMPLES.names)
            | {
                "row_id": row_id(id, 0), "prompt_id": one.entry.id or f"{id:016x}", "sample_index": 0, "seed": 0, "fields": one.fields,
                "prompt": one.entry.prompt, "text": one.entry.text, "label": one.entry.label,
                "tokens": [*tokens, *[tokenizer.pad_id] * (spec.length - len(tokens))], "num_prompt": len(prompt),
            }
        )  # fmt: skip
    return pa.Table.from_pylist(rows, SAMPLES), bad


TABLES = {"prompts": prompt_table, "texts": text_table}


def unusual(tokens: Sequence[int], label: float | None, tokenizer: Tokenizer, spec: PromptsSpec) -> str:
    """Why a model cannot be shown this; empty where it can."""
    if tokenizer.unknown_id in tokens:
        return f"it holds symbols that the vocabulary has not, at token {list(tokens).index(tokenizer.unknown_id)}"
    return strange_label(label, {"num_classes": spec.num_classes, "value_range": spec.values})


def count_repeated(asked: tuple[Path, tuple[tuple[str, int], ...]]) -> bool:
    """Write how many equal prompts come before each, where some are equal. Were there any?

    Equal prompts are counted by their owner's ids, and in the order of the file where these are equal, too: so the
    prompts of a file that is sorted otherwise have the same samples. In a task, because it holds all ids.
    """
    folder, parts = asked
    named = [read_part(shard_file(folder / "shards", name)).select(["digest", "prompt_id"]) for name, _ in parts]
    table = pa.concat_tables(named)
    table = table.append_column("place", pa.array(np.arange(table.num_rows)))
    ordered = table.sort_by([(name, "ascending") for name in ("digest", "prompt_id", "place")])
    digests = ordered["digest"].to_numpy()
    starts = np.flatnonzero(np.r_[True, digests[1:] != digests[:-1]])
    if len(starts) == len(digests):
        return False
    before = np.empty(len(digests), dtype=np.int32)
    before[ordered["place"].to_numpy()] = np.arange(len(digests)) - np.repeat(starts, np.diff(np.r_[starts, len(digests)]))
    held = io.BytesIO()
    np.save(held, before)
    publish_bytes(folder / OCCURRENCES, held.getvalue())
    return True
