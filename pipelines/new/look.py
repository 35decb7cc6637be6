"""What is in somebody's data: format, fields, lengths, alphabet. Reads a sample of it, and says what it found."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from components.data.corpora import CORPORA, open_corpus
from components.data.corpora.config import CsvConfig, FileSource, JsonlConfig, ParquetConfig, RecordSource, TextConfig
from components.data.corpora.delimited import table_rows
from components.data.corpora.listing import Files, in_piece, listed
from components.data.corpora.records import Record, json_lines, opened, parquet_rows, unpacks
from components.data.documents import BadDocument, Document
from components.data.tokenizer import SMILES
from components.errors import ConfigError, DataError
from components.options import nearest, parse

FORMATS: tuple[type[FileSource], ...] = (JsonlConfig, CsvConfig, ParquetConfig, TextConfig)
RECORDS = 200
"""Of which the fields are told."""
SAMPLED = 2000
"""Documents that lengths and alphabet are taken from."""
START = 1 << 20
"""Bytes of plain text in which lines and paragraphs are counted."""
COUNTED = 200_000
"""Documents that are counted; more are "at least so many"."""
TEXTS = ("text", "smiles", "canonical_smiles", "response", "answer", "completion", "output", "content", "document", "body", "solution")
PROMPTS = ("prompt", "question", "instruction", "input", "query", "problem", "puzzle", "source")
"""Names that fields often have, the likeliest first."""

Kind = Literal["text", "pairs", "molecules", "puzzle"]


@dataclass(frozen=True)
class Field:
    """A field of records."""

    name: str
    kind: Literal["text", "number", "other"]
    low: float
    """Of texts the shortest, of numbers the smallest."""
    high: float
    written: bool = True
    """All values are texts, which numbers may be, too."""

    def __str__(self) -> str:
        spans = {"text": f"text of {self.low:.0f} to {self.high:.0f} characters", "number": f"numbers from {self.low:g} to {self.high:g}"}
        return f"{self.name} ({spans.get(self.kind, 'neither text nor numbers')})"


@dataclass(frozen=True)
class Looked:
    """What was found."""

    kind: Kind
    source: Mapping[str, Any]
    """As a run names it: ``corpora.NAME.source``."""
    documents: Sequence[Document]
    """A sample."""
    total: int
    """Documents that can be used, or the number at which the counting ended."""
    bad: int
    fields: Sequence[Field] = ()


def look(path: str, asked: Mapping[str, str], kind: str = "") -> Looked:
    """Look into a file, a folder or a glob.

    Args:
        asked: options of the source that are known already, such as ``text_field``; others are guessed.
        kind: what it is; empty guesses.
    Raises:
        ConfigError: there is no such field, or nothing to guess from.
        DataError: nothing can be read.
    """
    card = format_of(path)
    plain: dict[str, Any] = {"name": card.name, "path": path}
    fields: Sequence[Field] = ()
    files = parse(card, {"path": path}).files()
    if issubclass(card, RecordSource):
        fields = fields_of(records_of(card, files))
        plain |= {k: v for k, v in chosen(fields, asked).items() if v}
    elif wrong := [k for k in asked if k.endswith("_field") and asked[k]]:
        raise ConfigError(f"{path} is plain text, which has no fields, and {wrong[0]} = {asked[wrong[0]]!r} was given. Drop it.")
    else:
        plain["document"] = asked.get("document") or document_of(files)
    documents, total, bad = read(plain)
    return Looked(kind or guess(documents, plain), plain, documents, total, bad, fields)  # type: ignore[arg-type]


def generated(name: str) -> Looked:
    """Look at a corpus that is made and not read. Raises ConfigError where there is none of that name."""
    made = {n: card for n, card in CORPORA.items() if not issubclass(card, FileSource | RecordSource)}
    if name not in made:
        raise ConfigError(f"There is no file {name!r}, and no corpus of that name that is made here. {nearest(name, list(made))}")
    plain: dict[str, Any] = {"name": name} | ({"givens": 6} if name == "sudoku" else {})
    documents, total, bad = read(plain)
    return Looked("puzzle" if made[name].has_rules else "text", plain, documents, total, bad)


def format_of(path: str) -> type[FileSource]:
    """The kind of corpus whose files these are, by their names; those of a folder by most of them."""
    every = tuple(s for card in FORMATS for s in card.suffixes)
    found = listed(path, every).names if Path(path).is_dir() else (path,)
    counts = Counter(card for name in found for card in FORMATS if Path(str(name).removesuffix(".gz")).suffix in card.suffixes)
    return counts.most_common(1)[0][0] if counts else TextConfig


def records_of(card: type[FileSource], files: Files | None) -> Iterator[Record]:
    """The first records."""
    assert files is not None
    for name, path in in_piece(files.pieces(1)[0]):
        if card is CsvConfig:
            found = table_rows(path, name, "", ())
        else:
            found = json_lines(path, name) if card is JsonlConfig else parquet_rows(path, name, ())
        yield from (record for _, record in found)


def fields_of(records: Iterator[Record]) -> list[Field]:
    """The fields of the first records. Raises DataError where none can be read."""
    seen = list(islice(records, RECORDS))
    good = [r for r in seen if not isinstance(r, BadDocument)]
    if not good:
        why = f" The first: {seen[0].reason}." if seen and isinstance(seen[0], BadDocument) else ""
        raise DataError(f"No record can be read.{why} Give a file of records.")
    return [field_of(name, [r[name] for r in good if r.get(name) not in (None, "")]) for name in good[0]]


def field_of(name: str, values: list[Any]) -> Field:
    numbers = [n for v in values if (n := number(v)) is not None]
    if values and len(numbers) == len(values):
        return Field(name, "number", min(numbers), max(numbers), all(isinstance(v, str) for v in values))
    if values and all(isinstance(v, str) for v in values):
        return Field(name, "text", min(map(len, values)), max(map(len, values)))
    return Field(name, "other", 0, 0, False)


def number(value: Any) -> float | None:
    """A number, also where a table writes it as text."""
    try:
        return None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None


def chosen(fields: Sequence[Field], asked: Mapping[str, str]) -> dict[str, str]:
    """Which field means what: as asked, or by their names. Raises ConfigError for one that is not there."""
    names = {f.name: f for f in fields}
    for option, name in asked.items():
        if option.endswith("_field") and name and name not in names:
            raise ConfigError(f"There is no field {name!r} for {option}; there are {', '.join(map(str, fields))}.")
    texts = [f for f in fields if f.written]
    prompt = asked.get("prompt_field", "") or next((n for n in PROMPTS if n in names and names[n].written), "")
    rest = sorted((f for f in texts if f.name != prompt), key=lambda f: (f.kind != "text", -f.high))
    text = asked.get("text_field", "") or next((n for n in TEXTS if n in {f.name for f in rest}), rest[0].name if rest else "")
    if not text:
        raise ConfigError(f"Which field is the text? There are {', '.join(map(str, fields))}. Give --text-field.")
    given = {k: v for k, v in asked.items() if k in ("label_field", "value_field")}
    return {"text_field": text, "prompt_field": prompt if prompt != text else "", **given}


def document_of(files: Files | None) -> str:
    """What is a document of plain text: a file where there are many, else a line or a paragraph."""
    assert files is not None
    if len(files.names) >= 50:
        return "file"
    name, path = next(in_piece(files.pieces(1)[0]))
    if unpacks(path, name):
        return "line"
    with opened(path) as file:
        start = file.read(START).replace(b"\r\n", b"\n")
    lines, paragraphs = (sum(1 for part in start.split(separator) if part.strip()) for separator in (b"\n", b"\n\n"))
    return "paragraph" if 20 <= paragraphs < 0.7 * lines else "line"


def read(plain: Mapping[str, Any]) -> tuple[list[Document], int, int]:
    """A sample of the documents, and how many can be used and how many not. Raises DataError where none can."""
    source = CORPORA[plain["name"]](**{k: v for k, v in plain.items() if k != "name"})
    corpus = open_corpus(source)
    documents: list[Document] = []
    counts: Counter[bool] = Counter()
    first: BadDocument | None = None
    stride = 1
    for document in islice((d for piece in corpus.pieces(1) for d in corpus.read(piece)), COUNTED):
        if not isinstance(document, Document) or not document.text.strip():
            counts[False] += 1
            first = first or (document if isinstance(document, BadDocument) else BadDocument(document.id, "empty"))
            continue
        counts[True] += 1
        if counts[True] % stride == 0:  # evenly, because files are often sorted
            documents.append(document)
        if len(documents) == 2 * SAMPLED:
            documents, stride = documents[1::2], 2 * stride
    if not documents:
        why = f" The first: {first.id}: {first.reason}." if first else ""
        raise DataError(f"None of {counts[False]} documents can be used.{why} Look at the file, or name its fields.")
    return documents, counts[True], counts[False]


def guess(documents: Sequence[Document], plain: Mapping[str, Any]) -> Kind:
    """What the documents are."""
    if plain.get("prompt_field"):
        return "pairs"
    atoms = re.compile(f"(?:{SMILES})+")
    like = sum(bool(atoms.fullmatch(d.text)) and bool(re.search("[CNOcno]", d.text)) for d in documents)
    return "molecules" if like >= 0.95 * len(documents) else "text"
