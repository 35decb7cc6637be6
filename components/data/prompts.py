"""Files of prompts, or of texts to score, as people have them: read piece by piece, never as a whole.

What cannot be used is a ``BadDocument`` with a reason, and its neighbours are read on.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from components.data.corpora.delimited import table_rows
from components.data.corpora.files import decode
from components.data.corpora.listing import Files, below, in_piece, listed
from components.data.corpora.records import Record, json_lines, parquet_rows, parts_of
from components.data.documents import EXCERPT, BadDocument, Document
from components.errors import ConfigError, DataError
from components.options import Location, options, parse
from components.outside import MAX_FIELDS_BYTES, as_json, require_text
from components.store.content import Content

SUFFIXES = {
    "jsonl": (".jsonl", ".json", ".ndjson"),
    "csv": (".csv", ".tsv", ".tab"),
    "parquet": (".parquet",),
    "text": (".txt", ".md", ".rst", ".py"),
    "dataset": (".arrow",),
}
SAVED = ("dataset_dict.json", "state.json")
"""What `datasets` writes into a folder that it saves."""


@options
class PromptsConfig:
    """Where prompts are, and which of their fields mean what."""

    path: Location = ""
    """A file, a folder or a glob. The identity holds the names below it and what the files hold."""
    format: Literal["auto", "jsonl", "csv", "parquet", "text", "dataset"] = "auto"
    """JSON lines, CSV or TSV, Parquet, one prompt a line, or a folder saved by `datasets`; auto goes by names."""
    split: str = ""
    """Of a saved folder with several."""
    prompt_field: str = "prompt"
    """What is continued; where texts are scored, what comes before them."""
    template_field: str = "template"
    """Instead: a list of texts that stay, and of numbers of positions to write between them."""
    text_field: str = "text"
    """What is scored."""
    label_field: str = "label"
    """Class of the row, or value of its property, for networks that are conditioned on one."""
    id_field: str = "id"
    """By which its owner knows it; comes back as ``prompt_id``."""
    carried: Literal["all", "none"] = "all"
    """The other fields of a record come back with each of its samples, as JSON in the column ``fields``, or do not."""
    pieces: Annotated[int, Field(ge=1, le=1 << 16)] = 16
    """Files are dealt onto at most so many tasks."""

    def kind(self) -> str:
        """The format that ``auto`` comes to."""
        if self.format != "auto":
            return self.format
        if os.path.isdir(self.path):
            if any(os.path.exists(os.path.join(self.path, name)) for name in SAVED):
                return "dataset"
            suffixes = {Path(name.removesuffix(".gz")).suffix for name in below(self.path)}
        else:
            suffixes = {Path(self.path.removesuffix(".gz")).suffix}
        return next((kind for kind, known in SUFFIXES.items() if suffixes & set(known)), "text")

    def files(self) -> Files:
        """Raises DataError where there is none."""
        return listed(self.path, SUFFIXES[self.kind()])

    def content(self) -> Content:
        """What the files hold, which is part of the identity of all that is made of them."""
        return self.files().content()

    def cut(self) -> list[str]:
        """Names of pieces that can be read apart."""
        if self.kind() == "dataset":
            return [f"{i}/{self.pieces}" for i in range(self.pieces)]
        return self.files().pieces(self.pieces)

    def read(self, piece: str) -> Iterator[tuple[str, Record]]:
        """Where each record of a piece was found, and the record; always the same in the same order."""
        return READERS[self.kind()](self, piece)


def read_lines(config: PromptsConfig, piece: str) -> Iterator[tuple[str, Record]]:
    """Text lines that are not blank."""
    for name, path in in_piece(piece):
        for place, line in parts_of(path, name):
            found = decode(line, place)
            yield place, {config.prompt_field: found.text, config.text_field: found.text} if isinstance(found, Document) else found


def read_json_lines(config: PromptsConfig, piece: str) -> Iterator[tuple[str, Record]]:
    for name, path in in_piece(piece):
        yield from json_lines(path, name)


def read_tables(config: PromptsConfig, piece: str) -> Iterator[tuple[str, Record]]:
    for name, path in in_piece(piece):
        yield from table_rows(path, name, "", (config.label_field,))


def read_parquet(config: PromptsConfig, piece: str) -> Iterator[tuple[str, Record]]:
    for name, path in in_piece(piece):
        yield from parquet_rows(path, name, fields_of(config) if config.carried == "none" else ())


def read_saved(config: PromptsConfig, piece: str) -> Iterator[tuple[str, Record]]:
    """A folder saved by `datasets`, memory-mapped; pieces are ranges of its rows."""
    from datasets import DatasetDict, load_from_disk

    try:
        found = load_from_disk(config.path)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"{config.path} is no folder that `datasets` saved ({error}). Save it again.") from error
    if isinstance(found, DatasetDict):
        if config.split not in found:
            raise DataError(f"{config.path} has the splits {', '.join(found)}, not {config.split!r}. Set prompts.split.")
        found = found[config.split]
    place, count = map(int, piece.split("/"))
    table = found.with_format("arrow")  # which opens no picture or sound that a row names by its path or URL
    for number in range(place * len(found) // count, (place + 1) * len(found) // count):
        yield f"{number}", table[number].to_pylist()[0]


READERS = {"text": read_lines, "jsonl": read_json_lines, "csv": read_tables, "parquet": read_parquet, "dataset": read_saved}


def fields_of(config: PromptsConfig) -> list[str]:
    """The fields that mean something."""
    return [config.prompt_field, config.template_field, config.text_field, config.label_field, config.id_field]


Holes = Annotated[int, Field(ge=1)]


@options
class Entry:
    """One prompt."""

    prompt: str = ""
    """What is continued."""
    template: Annotated[tuple[str | Holes, ...], Field(min_length=1)] = ()
    """Instead: texts that stay, and numbers of positions to write between them."""
    text: str = ""
    """What is scored."""
    label: float | None = None
    """Class of the row, or value of its property, for networks that are conditioned on one."""
    id: str = ""
    """By which its owner knows it."""

    def pieces(self) -> tuple[str | int, ...]:
        """Texts and holes in order."""
        return self.template or (self.prompt,)


Wanted = Literal["prompts", "texts"]


@dataclass(frozen=True)
class Found:
    """An entry and where it was."""

    place: str
    entry: Entry
    fields: str | None = None
    """What else the record says, as JSON; None where that is nothing."""


def read_entries(config: PromptsConfig, piece: str, wanted: Wanted) -> Iterator[Found | BadDocument]:
    """What a piece holds, checked."""
    for place, record in config.read(piece):
        yield record if isinstance(record, BadDocument) else read_entry(config, place, record, wanted)


def read_entry(config: PromptsConfig, place: str, record: Mapping[str, Any], wanted: Wanted) -> Found | BadDocument:
    """A record as an entry, or why it is none."""
    needed = (config.prompt_field, config.template_field) if wanted == "prompts" else (config.text_field,)
    names = {"prompt": config.prompt_field, "label": config.label_field, "id": config.id_field}
    names["template" if wanted == "prompts" else "text"] = needed[-1]
    plain = {name: record[field] for name, field in names.items() if record.get(field) is not None}
    excerpt = str(dict(record))[:EXCERPT]
    if not any(record.get(field) is not None for field in needed):
        has = ", ".join(map(str, record))
        return BadDocument(place, f"no field {' or '.join(map(repr, needed))} (it has {has})", excerpt)
    if type(plain.get("id")) is int:
        plain["id"] = str(plain["id"])
    try:
        require_text(json.dumps(plain, ensure_ascii=False))
    except (ValueError, TypeError) as error:  # of Parquet, such as bytes, which are no text
        return BadDocument(place, str(error), excerpt)
    try:
        entry = parse(Entry, plain)
    except ConfigError as error:
        first = error.problems[0]
        return BadDocument(place, f"{first.path} = {first.value!r}: it must be {first.rule}", excerpt)
    if entry.prompt and entry.template:
        return BadDocument(place, "both a prompt and a template; one of them is meant", excerpt)
    try:
        return Found(place, entry, fields_in(config, record))
    except ValueError as error:
        return BadDocument(place, str(error), excerpt)


def fields_in(config: PromptsConfig, record: Mapping[str, Any]) -> str | None:
    """What a record says besides what has a column of its own, as JSON; a template is kept in it. Raises ValueError."""
    own = (config.prompt_field, config.text_field, config.label_field, config.id_field)
    rest = {name: value for name, value in record.items() if name not in own and value is not None}
    if config.carried == "none" or not rest:
        return None
    found = json.dumps(as_json(rest), ensure_ascii=False)
    require_text(found)
    if (size := len(found.encode())) > MAX_FIELDS_BYTES:
        raise ValueError(
            f"its other fields take {size} bytes, and at most {MAX_FIELDS_BYTES} come back with every sample: leave them out, "
            f"or set prompts.carried=none"
        )
    return found
