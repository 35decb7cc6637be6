"""Corpora that lie in files: the standard library, text, JSON lines, CSV, Parquet, the hub.

A document that cannot be used is quarantined with a reason, whatever is wrong with it, and so is a file that cannot be
read, as a whole. The hub goes through ``datasets``, streaming.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from components.data.corpora.config import (
    CsvConfig,
    HubConfig,
    JsonlConfig,
    ParquetConfig,
    RecordSource,
    StdlibConfig,
    TextConfig,
)
from components.data.corpora.delimited import table_rows
from components.data.corpora.listing import in_piece
from components.data.corpora.records import (
    Record,
    json_lines,
    label_in,
    parquet_rows,
    parts_of,
    text_in,
    value_in,
    whole_of,
)
from components.data.documents import EXCERPT, BadDocument, Document
from components.errors import DataError
from components.outside import decoded

SEPARATORS = {"line": b"\n", "paragraph": b"\n\n"}
"""What stands between documents of a text file."""


def decode(raw: bytes | BadDocument, id: str) -> Document | BadDocument:
    """Strict UTF-8."""
    if isinstance(raw, BadDocument):
        return raw
    try:
        return Document(id, decoded(raw))
    except ValueError as error:
        return BadDocument(id, str(error), raw[:EXCERPT].decode("utf-8", "replace"))


class Stdlib:
    """Python files below the standard library's folder, without installed packages."""

    symbols = ""

    def __init__(self, config: StdlibConfig):
        self.config = config

    def pieces(self, count: int) -> list[str]:
        return self.config.files().pieces(count)

    def read(self, piece: str) -> Iterator[Document | BadDocument]:
        for name, path in in_piece(piece):
            yield decode(whole_of(path, name), name)


class TextFiles:
    """One document a file, a line or a paragraph."""

    symbols = ""

    def __init__(self, config: TextConfig):
        self.config = config

    def pieces(self, count: int) -> list[str]:
        return self.config.files().pieces(count)

    def read(self, piece: str) -> Iterator[Document | BadDocument]:
        for name, path in in_piece(piece):
            if self.config.document == "file":
                yield decode(whole_of(path, name), name)
                continue
            for place, part in parts_of(path, name, SEPARATORS[self.config.document]):
                yield decode(part, place)


def record_document(record: Record, id: str, config: RecordSource) -> Document | BadDocument:
    """A document from a mapping of fields."""
    if isinstance(record, BadDocument):
        return record
    try:
        text = text_in(record, config.text_field)
        prompt = text_in(record, config.prompt_field) if config.prompt_field else ""
        label: float | None = label_in(record, config.label_field) if config.label_field else None
        if config.value_field:
            label = value_in(record, config.value_field)
    except ValueError as error:
        return BadDocument(id, str(error), str(record)[:EXCERPT])
    return Document(id, text, prompt, label)


class JsonLines:
    """One object a line. A broken line is quarantined and does not take its neighbours with it."""

    symbols = ""

    def __init__(self, config: JsonlConfig):
        self.config = config

    def pieces(self, count: int) -> list[str]:
        return self.config.files().pieces(count)

    def read(self, piece: str) -> Iterator[Document | BadDocument]:
        for name, path in in_piece(piece):
            for place, record in json_lines(path, name):
                yield record_document(record, place, self.config)


class TableFiles:
    """Rows of CSV and TSV files."""

    symbols = ""

    def __init__(self, config: CsvConfig):
        self.config = config

    def pieces(self, count: int) -> list[str]:
        return self.config.files().pieces(count)

    def read(self, piece: str) -> Iterator[Document | BadDocument]:
        numbers = (self.config.label_field, self.config.value_field)
        for name, path in in_piece(piece):
            for place, record in table_rows(path, name, self.config.separator, numbers):
                yield record_document(record, place, self.config)


def as_stored(rows: Any) -> Any:
    """The same rows with pictures and sounds left alone: a file that says that a field is one has whoever reads it open
    whatever path or URL stands there."""
    return rows.decode(False) if rows.features else rows


class ParquetFiles:
    """Rows of Parquet files."""

    symbols = ""

    def __init__(self, config: ParquetConfig):
        self.config = config

    def pieces(self, count: int) -> list[str]:
        return self.config.files().pieces(count)

    def read(self, piece: str) -> Iterator[Document | BadDocument]:
        fields = self.config.fields()
        for name, path in in_piece(piece):
            for place, record in parquet_rows(path, name, fields):
                yield record_document(record, place, self.config)


class HubDataset:
    """A dataset by name, streamed; pieces take every n-th document."""

    symbols = ""

    def __init__(self, config: HubConfig):
        self.config = config

    def pieces(self, count: int) -> list[str]:
        return [f"{i}/{count}" for i in range(count)]

    def read(self, piece: str) -> Iterator[Document | BadDocument]:
        from datasets import load_dataset

        first, step = map(int, piece.split("/"))
        c = self.config
        try:
            rows = load_dataset(c.dataset, c.subset or None, split=c.split, revision=c.revision or None, streaming=True)
        except Exception as error:
            raise DataError(
                f"The dataset {c.dataset!r} (subset {c.subset!r}, split {c.split!r}) cannot be opened: {error}. "
                f"Check the name and the network, or use a local corpus."
            ) from error
        for number, record in enumerate(as_stored(rows)):
            if c.max_documents and number >= c.max_documents:
                return
            if number % step == first:
                yield record_document(dict(record), f"{c.dataset}:{number}", c)
