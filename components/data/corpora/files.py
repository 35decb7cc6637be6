"""Corpora that lie in files: the standard library, text, JSON lines, Parquet, the hub.

Text is read as bytes and decoded strictly, line by line where lines are documents, so that one bad
line is one bad document and not a failed file. Parquet and the hub go through ``datasets``, streaming.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from components.data.corpora.config import HubConfig, JsonlConfig, ParquetConfig, StdlibConfig, TextConfig
from components.data.corpora.listing import in_piece
from components.data.documents import BadDocument, Document
from components.errors import DataError

EXCERPT = 200


def opened(path: Path) -> IO[bytes]:
    """A file's bytes, unpacked where it is gzipped."""
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def decode(raw: bytes, id: str) -> Document | BadDocument:
    """Strict UTF-8."""
    try:
        return Document(id, raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        excerpt = raw[max(0, error.start - 40) : error.start + 40].decode("utf-8", "replace")
        return BadDocument(id, f"not UTF-8 at byte {error.start}", excerpt)


class Stdlib:
    """Python files below the standard library's folder, without installed packages."""

    symbols = ""

    def __init__(self, config: StdlibConfig):
        self.config = config

    def pieces(self, count: int) -> list[str]:
        return self.config.files().pieces(count)

    def read(self, piece: str) -> Iterator[Document | BadDocument]:
        for name, path in in_piece(piece):
            yield decode(path.read_bytes(), name)


class TextFiles:
    """One document a file, a line or a paragraph."""

    symbols = ""

    def __init__(self, config: TextConfig):
        self.config = config

    def pieces(self, count: int) -> list[str]:
        return self.config.files().pieces(count)

    def read(self, piece: str) -> Iterator[Document | BadDocument]:
        for name, path in in_piece(piece):
            with opened(path) as file:
                raw = file.read()
            if self.config.document == "file":
                yield decode(raw, name)
                continue
            separator = b"\n" if self.config.document == "line" else b"\n\n"
            for number, part in enumerate(raw.replace(b"\r\n", b"\n").split(separator), 1):
                if part.strip():
                    yield decode(part, f"{name}:{number}")


def record_document(record: Any, id: str, config: JsonlConfig | ParquetConfig | HubConfig) -> Document | BadDocument:
    """A document from a mapping of fields."""
    wanted = [config.text_field] + [f for f in (config.prompt_field, config.label_field) if f]
    if not isinstance(record, dict):
        return BadDocument(id, "not an object", str(record)[:EXCERPT])
    absent = [f for f in wanted if record.get(f) is None]
    if absent:
        return BadDocument(id, f"no field {absent[0]!r} (it has {', '.join(map(str, record))})"[:EXCERPT])
    label = record[config.label_field] if config.label_field else None
    if label is not None and not isinstance(label, int):
        return BadDocument(id, f"label {label!r} is not an integer")
    prompt = str(record[config.prompt_field]) if config.prompt_field else ""
    return Document(id, str(record[config.text_field]), prompt, label)


class JsonLines:
    """One object a line. A broken line is quarantined and does not take its neighbours with it."""

    symbols = ""

    def __init__(self, config: JsonlConfig):
        self.config = config

    def pieces(self, count: int) -> list[str]:
        return self.config.files().pieces(count)

    def read(self, piece: str) -> Iterator[Document | BadDocument]:
        for name, path in in_piece(piece):
            with opened(path) as lines:
                for number, line in enumerate(lines, 1):
                    if line.strip():
                        yield self.parse(line, f"{name}:{number}")

    def parse(self, line: bytes, id: str) -> Document | BadDocument:
        decoded = decode(line, id)
        if isinstance(decoded, BadDocument):
            return decoded
        try:
            record = json.loads(decoded.text)
        except json.JSONDecodeError as error:
            return BadDocument(id, f"broken JSON: {error.msg} at column {error.colno}", decoded.text[:EXCERPT])
        return record_document(record, id, self.config)


def as_stored(rows: Any) -> Any:
    """The same rows with pictures and sounds left alone: a file that says that a field is one has whoever reads it open
    whatever path or URL stands there."""
    return rows.decode(False) if rows.features else rows


class ParquetFiles:
    """Parquet through ``datasets``, streamed."""

    symbols = ""

    def __init__(self, config: ParquetConfig):
        self.config = config

    def pieces(self, count: int) -> list[str]:
        return self.config.files().pieces(count)

    def read(self, piece: str) -> Iterator[Document | BadDocument]:
        from datasets import load_dataset

        for name, path in in_piece(piece):
            number = -1
            try:
                rows = as_stored(load_dataset("parquet", data_files=str(path), split="train", streaming=True))
                for number, record in enumerate(rows):
                    yield record_document(dict(record), f"{name}:{number}", self.config)
            except (OSError, ValueError) as error:  # ArrowInvalid is a ValueError
                yield BadDocument(f"{name}:{number + 1}", f"the rest cannot be read: {error}"[:EXCERPT])


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
