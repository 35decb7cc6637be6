"""Tables of text with a separator, such as CSV and TSV: one record a row, named by the first row.

A row with more or fewer fields than names is quarantined and its neighbours are read on. Fields may be quoted by ``"`` and
then hold separators and line breaks. Everything is text; a class or a value is read as the number it writes.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from components.data.corpora.records import TOO_LONG, Record, lost, opened, split, unpacks
from components.data.documents import BadDocument
from components.outside import MAX_DOCUMENT_BYTES

SEPARATORS = {".tsv": "\t", ".tab": "\t"}
"""Of files with these names; of others a comma."""


REASONS = {
    f"field larger than field limit ({MAX_DOCUMENT_BYTES})": f"a field is {TOO_LONG}",
    "unexpected end of data": "a quote is opened and never closed, up to the file's end",
}
"""What ``csv`` says, in our words."""


def separator_of(path: Path) -> str:
    """What stands between the fields of a file, by its name."""
    return SEPARATORS.get(Path(path.name.removesuffix(".gz")).suffix, ",")


def table_rows(path: Path, name: str, separator: str, numbers: Sequence[str]) -> Iterator[tuple[str, Record]]:
    """The record of each row, with its place; rows are counted from 1 behind the names.

    Args:
        separator: one character; empty goes by the file's name.
        numbers: fields that write numbers.
    """
    if bad := unpacks(path, name):
        yield name, bad
        return
    names: list[str] | None = None
    for number, fields in enumerate(rows(path, separator or separator_of(path))):
        place = f"{name}:{number}"
        if isinstance(fields, str):
            yield place, BadDocument(place, fields)
        elif names is None:
            names = [field.removeprefix("\ufeff").strip() for field in fields]
            if twice := next((n for n in names if names.count(n) > 1), None):
                yield name, lost(name, ValueError(f"two columns are named {twice!r}"))
                return
        elif len(fields) != len(names):
            reason = f"{len(fields)} fields, and the first row names {len(names)}"
            yield place, BadDocument(place, reason, ", ".join(fields))
        else:
            record = dict(zip(names, fields, strict=True))
            yield place, record | {n: number_in(record[n]) for n in numbers if n in record}


def rows(path: Path, separator: str) -> Iterator[list[str] | str]:
    """The fields of each row that is not blank; of one that cannot be read, why."""
    csv.field_size_limit(MAX_DOCUMENT_BYTES)
    with opened(path) as file:
        # What is no UTF-8 becomes half characters, which whoever reads the text refuses, and the rows around it stay.
        lines = (line.decode("utf-8", "surrogateescape") + "\n" for line in split(file, b"\n"))
        reader = csv.reader(lines, delimiter=separator, strict=True)
        while True:
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield REASONS.get(str(error), f"no row of a table: {error}")
                continue
            if any(field.strip() for field in fields):
                yield fields


def number_in(text: str) -> int | float | str:
    """The number that a field writes, or the field itself, which is then told of."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
