"""Records of files of somebody else: lines and Parquet, piece by piece and within limits.

What cannot be used is a ``BadDocument`` with a reason, and its neighbours are read on. A file that cannot be read to its
end gives no record at all: of what a damaged archive holds before the damage is noticed, nothing is known to be true.
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pydantic_core

from components.data.documents import EXCERPT, BadDocument
from components.outside import MAX_DEPTH, MAX_DOCUMENT_BYTES, from_json, require_flat, require_text

CHUNK = 1 << 20
BATCH_ROWS = 256
UNREADABLE = (OSError, EOFError, UnicodeDecodeError, zlib.error, pa.ArrowException)
"""What is raised where a file is not what its name says, or was cut off or changed."""
MAX_LABEL = 2**31 - 1
"""Rows hold labels in 32 bits."""
TOO_LONG = f"longer than {MAX_DOCUMENT_BYTES >> 20} MiB"

Record = dict[str, Any] | BadDocument


def opened(path: Path) -> IO[bytes]:
    """A file's bytes, unpacked where it is gzipped."""
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def unpacks(path: Path, name: str) -> BadDocument | None:
    """Why a file cannot be read; None where it can. What is gzipped is unpacked to the end, to see its checksum."""
    try:
        if path.suffix == ".gz" and not path.stat().st_size:
            raise EOFError("it is empty")
        with opened(path) as file:
            while path.suffix == ".gz" and file.read(CHUNK):
                pass
    except UNREADABLE as error:
        return lost(name, error)
    return None


def lost(name: str, error: BaseException) -> BadDocument:
    """A file that cannot be read, quarantined as a whole."""
    return BadDocument(name, f"the file cannot be read: {error}", whole_file=True)


def whole_of(path: Path, name: str) -> bytes | BadDocument:
    """All bytes of a file that is one document."""
    if bad := unpacks(path, name):
        return bad
    with opened(path) as file:
        raw = file.read(MAX_DOCUMENT_BYTES + 1)
    return raw if len(raw) <= MAX_DOCUMENT_BYTES else BadDocument(name, TOO_LONG)


def parts_of(path: Path, name: str, separator: bytes = b"\n") -> Iterator[tuple[str, bytes | BadDocument]]:
    """The places and bytes of what stands between separators and is not blank; of a longer one only that it is too long."""
    if bad := unpacks(path, name):
        yield name, bad
        return
    with opened(path) as file:
        for number, part in enumerate(split(file, separator), 1):
            place = f"{name}:{number}"
            if len(part) > MAX_DOCUMENT_BYTES:
                yield place, BadDocument(place, TOO_LONG, part[:CHUNK].decode("utf-8", "replace"))
            elif part and not part.isspace():
                yield place, part


def split(file: IO[bytes], separator: bytes) -> Iterator[bytes]:
    r"""The bytes between separators, with ``\r\n`` as ``\n``; no more than ``MAX_DOCUMENT_BYTES`` + 1 of each."""
    rest = b""
    while chunk := file.read(CHUNK):
        while chunk.endswith(b"\r") and (more := file.read(1)):
            chunk += more
        if b"\r" in chunk:
            chunk = chunk.replace(b"\r\n", b"\n")
        *ended, rest = (rest + chunk).split(separator)
        yield from (part[: MAX_DOCUMENT_BYTES + 1] for part in ended)
        if len(rest) > MAX_DOCUMENT_BYTES + 1:  # of its end the last byte stays, as a separator may begin with it
            rest = rest[: MAX_DOCUMENT_BYTES + 1] + b"\0" + rest[-1:]
    yield rest[: MAX_DOCUMENT_BYTES + 1]


def json_lines(path: Path, name: str) -> Iterator[tuple[str, Record]]:
    """The object of each line."""
    for place, line in parts_of(path, name):
        yield place, line if isinstance(line, BadDocument) else json_record(line, place)


def json_record(line: bytes, place: str) -> Record:
    """The object that a line holds."""
    try:
        found, wrong = parsed(line), "not an object"
    except ValueError as error:
        found, wrong = None, str(error)
    return found if isinstance(found, dict) else BadDocument(place, wrong, line[: 4 * EXCERPT].decode("utf-8", "replace"))


def parsed(line: bytes) -> Any:
    """What a line of JSON says, as ``from_json`` reads it, in half the time. Raises ValueError."""
    try:
        found = pydantic_core.from_json(line)
        require_flat(found, MAX_DEPTH)
    except ValueError:  # is told in the usual words; and Python reads half characters, which whoever reads the text refuses
        return from_json(line)
    return found


def parquet_rows(path: Path, name: str, fields: Sequence[str]) -> Iterator[tuple[str, Record]]:
    """Rows of a Parquet file, with those of the named columns that it has, or all where it has none of them."""
    try:
        for _ in batches(path, fields):  # read twice: see the module's second paragraph
            pass
    except UNREADABLE as error:
        yield name, lost(name, error)
        return
    number = 0
    for batch in batches(path, fields):
        for index in range(batch.num_rows):
            place = f"{name}:{number}"
            try:
                (record,) = batch.slice(index, 1).to_pylist()
            except (ValueError, OverflowError, pa.ArrowException) as error:  # such as bytes that are not UTF-8
                record = BadDocument(place, f"the row cannot be read: {error}")
            yield place, record
            number += 1


def batches(path: Path, fields: Sequence[str]) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(path) as file:
        known = {f.name for f in file.schema_arrow}
        yield from file.iter_batches(BATCH_ROWS, columns=[f for f in fields if f in known] or None)


def text_in(record: dict[str, Any], field: str) -> str:
    """A text of a record. Raises ValueError."""
    value = record.get(field)
    if value is None:
        raise ValueError(f"no field {field!r} (it has {', '.join(map(str, record))})")
    if not isinstance(value, str):
        raise ValueError(f"{field} is no text but of type {type(value).__name__}")
    if len(value) > MAX_DOCUMENT_BYTES:
        raise ValueError(f"{field} is {TOO_LONG}")
    if not value.isascii():
        require_text(value)
    return value


def value_in(record: dict[str, Any], field: str) -> float:
    """The value in a record. Raises ValueError."""
    value = record.get(field)
    if value is None:
        raise ValueError(f"no field {field!r} (it has {', '.join(map(str, record))})")
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(f"{field} = {str(value)[:40]!r} is no finite number")
    return float(value)


def label_in(record: dict[str, Any], field: str) -> int:
    """The class in a record. Raises ValueError."""
    value = record.get(field)
    if value is None:
        raise ValueError(f"no field {field!r} (it has {', '.join(map(str, record))})")
    if type(value) is not int or not 0 <= value <= MAX_LABEL:
        raise ValueError(f"{field} = {str(value)[:40]!r} is no whole number from 0 to {MAX_LABEL}")
    return value
