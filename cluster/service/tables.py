"""Tables that batch jobs left, for whoever looks at them: pages of rows, and single rows as streams tell them.

Only finished ``generate`` folders of one root are shown. A page is read from the row groups that hold its rows, and
of their columns from those that are shown.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, groupby
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
from fastapi import FastAPI, Request
from pydantic import Field

from cluster.service.errors import ApiError, refused
from components.data.tokenizer import Tokenizer, load_tokenizer
from components.errors import ConfigError, CorruptArtifact, ProsecoError
from components.options import Natural, json_schema, options, parse
from components.store.artifact import MANIFEST, read_manifest
from components.store.cache import local
from components.store.files import exists, folders
from components.store.links import by_link
from components.store.names import file_name
from components.store.samples import shard_file

SHOWN = ["text", "calls", "edits", "prompt", "sample_index", "seed", "row_id"]
"""Columns of a page."""
OPENED = [*SHOWN, "tokens", "call_positions", "stop_reason", "corrections", "trace"]
"""Columns of a row that is opened."""


@options
class Page:
    """Query of GET /v1/tables/{name}/rows."""

    offset: Natural = 0
    """The first row."""
    limit: Annotated[int, Field(ge=1, le=200)] = 50
    """Rows at most."""


@dataclass(frozen=True)
class Table:
    """The samples of a finished stage."""

    name: str
    label: str
    finished: str
    root: Path
    model_key: str
    shards: tuple[str, ...]

    def file(self, shard: str) -> Path:
        """The file of a shard. Raises CorruptArtifact where a link leads to one somewhere else."""
        path = shard_file(self.root / "generate" / self.name / "shards", shard)
        if by_link(path, self.root):
            raise CorruptArtifact(f"{path} is reached by a link, and only what lies in the root is shown. Copy it there.")
        return path

    @property
    def rows(self) -> int:
        return sum(num_rows(self.file(shard)) for shard in self.shards)

    @property
    def described(self) -> dict[str, Any]:
        return {"name": self.name, "label": self.label, "rows": self.rows, "finished": self.finished}

    def tokenizer(self) -> Tokenizer | None:
        """That of the model that made the rows, where it lies in the same root."""
        file = self.root / "export" / file_name(self.model_key, f"The manifest of {self.name}") / "tokenizer.json"
        return load_tokenizer(file) if exists(file) and not by_link(file, self.root) else None


@contextmanager
def opened(path: Path) -> Iterator[pq.ParquetFile]:
    """A shard. Raises CorruptArtifact where it is missing or damaged."""
    try:
        with pq.ParquetFile(local(path)) as file:
            yield file
    except (OSError, pa.ArrowInvalid) as error:
        raise CorruptArtifact(
            f"{path} is missing or damaged ({error}). Run its run again, or look at another."
        ) from error


@lru_cache(maxsize=1 << 16)
def num_rows(path: Path) -> int:
    """Rows of a shard, by its footer. A finished shard never changes."""
    with opened(path) as file:
        return int(file.metadata.num_rows)


def open_table(root: Path, name: str) -> Table | None:
    """The table of a folder of the root, or None where there is no finished one. A link to one is none."""
    folder = root / "generate" / name
    manifest = None if by_link(folder / MANIFEST, root) else read_manifest(folder)
    if manifest is None or manifest.stage != "generate":
        return None
    shards = tuple(manifest.info["shards"])
    return Table(name, manifest.label, manifest.finished, root, manifest.inputs.get("model", ""), shards)


def all_tables(root: Path) -> list[dict[str, Any]]:
    """The newest first. What is damaged is left out; opening it says why."""
    found = []
    for folder in folders(root / "generate"):
        with suppress(CorruptArtifact):
            table = open_table(root, folder.name)
            found += [] if table is None else [table.described]
    return sorted(found, key=lambda t: str(t["finished"]), reverse=True)


def find_table(root: Path, name: str) -> Table:
    """Raises ApiError where there is none of that name."""
    try:
        table = open_table(root, file_name(name, "The request"))
    except CorruptArtifact as error:
        raise ApiError(404, str(error), param="name", code="not_found") from None
    if table is None:
        raise ApiError(
            404, f"There is no finished table {name!r:.200}; GET /v1/tables names them.", param="name", code="not_found"
        )
    return table


def read_rows(table: Table, offset: int, limit: int, columns: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of a table in its order, fewer than ``limit`` at its end."""
    counts = [num_rows(table.file(shard)) for shard in table.shards]
    found: list[dict[str, Any]] = []
    for shard, start, count in zip(table.shards, accumulate(counts, initial=0), counts, strict=False):
        first, last = max(offset, start) - start, min(offset + limit, start + count) - start
        if first < last:
            for part in row_groups(table.file(shard), first, last, columns):
                found += part.to_pylist()
    return found


def row_groups(path: Path, first: int, last: int, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Rows ``first`` to ``last`` of a file, of each row group that has some."""
    with opened(path) as file:
        if lost := [name for name in columns if name not in file.schema_arrow.names]:
            raise CorruptArtifact(f"{path} has no column {lost[0]!r}: it was made by another version of proseco.")
        sizes = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
        for group, start in enumerate(accumulate(sizes[:-1], initial=0)):
            low, high = max(first - start, 0), min(last - start, sizes[group])
            if low < high:
                yield file.read_row_group(group, columns=list(columns)).slice(low, high - low)


def events_of(row: Mapping[str, Any], tokenizer: Tokenizer | None) -> list[dict[str, Any]]:
    """A row as the stream of its request would have told it: what it started from, its edits, and how it ended.

    Of a row whose trace was not kept its corrections are known only: it starts from what they changed, and what else
    was written afterwards is told at its end.
    """
    tokens = list(row["tokens"])
    edits = row["trace"] if row["trace"] is not None else row["corrections"] or []
    known = {number: piece(number, tokenizer) for number in {*tokens, *(e[k] for e in edits for k in ("old", "new"))}}
    canvas = [*tokens]
    for e in reversed(edits):
        canvas[e["position"]] = e["old"]
    mask_id = None if tokenizer is None else tokenizer.mask_id
    start = {"index": 0, "tokens": canvas, "pieces": [known[t] for t in canvas], "mask_id": mask_id}
    events: list[dict[str, Any]] = [{"object": "text_completion.start", **start}]
    now = [*canvas]
    for call, group in groupby(edits, key=lambda e: e["call"]):
        found = [{"reason": reason_of(e, mask_id), **e, "text": known[e["new"]]} for e in group]
        for e in found:
            now[e["position"]] = e["new"]
        events.append({"object": "text_completion.edit", "index": 0, "call": call, "edits": found})
    last = [
        {"position": i, "old": old, "new": new, "text": known[new], "confidence": None, "reason": "fill"}
        for i, (old, new) in enumerate(zip(now, tokens, strict=True))
        if old != new
    ]
    if last:
        events.append({"object": "text_completion.edit", "index": 0, "call": row["calls"], "edits": last})
    made = {name: row[name] for name in ("row_id", "tokens", "calls", "call_positions", "edits")}
    choice = {"index": 0, "text": row["text"], "finish_reason": row["stop_reason"], "proseco": made}
    return [*events, {"object": "text_completion", "choices": [choice]}]


def reason_of(correction: Mapping[str, Any], mask_id: int | None) -> str:
    """Of an edit that was kept without its reason, which only corrections are."""
    return "remask" if correction["new"] == mask_id else "replace"


def piece(token: int, tokenizer: Tokenizer | None) -> str | None:
    """A token as text; None for the mask, and where nobody knows."""
    return None if tokenizer is None or token == tokenizer.mask_id else tokenizer.decode([token], stop_at_end=False)


def read_page(query: Mapping[str, str]) -> Page:
    """Raises ApiError where a query says what is not allowed."""
    try:
        return parse(Page, {k: int(v) if v.isdecimal() and len(v) < 19 else v for k, v in query.items()})
    except ConfigError as error:
        raise refused(error) from None


QUERY = [{"name": name, "in": "query", "schema": shape} for name, shape in json_schema(Page)["properties"].items()]


def add_tables(app: FastAPI, root: Path | None, errors: dict[int | str, dict[str, Any]]) -> None:
    """The routes. Without a root there are no tables.

    Args:
        errors: descriptions of answers that are errors.
    """

    @app.get("/v1/tables", responses=errors)
    async def tables() -> dict[str, Any]:
        """The finished tables, newest first."""
        found = [] if root is None else await asyncio.to_thread(all_tables, root)
        return {"object": "list", "data": found}

    @app.get("/v1/tables/{name}/rows", openapi_extra={"parameters": QUERY}, responses=errors)
    async def page(name: str, request: Request) -> dict[str, Any]:
        """Rows of a table, in its order."""
        asked = read_page(request.query_params)

        def read() -> dict[str, Any]:
            table = find_table(require(root), name)
            return {"total": table.rows, "data": read_rows(table, asked.offset, asked.limit, SHOWN)}

        return {"object": "list", "offset": asked.offset, **await told(read)}

    @app.get("/v1/tables/{name}/rows/{number}", responses=errors)
    async def row(name: str, number: str) -> dict[str, Any]:
        """One row, as the events of the stream that would have written it, and what of its edits was kept."""

        def read() -> dict[str, Any]:
            table = find_table(require(root), name)
            found = read_rows(table, int(number), 1, OPENED) if number.isdecimal() and len(number) < 19 else []
            if not found:
                text = f"The table has {table.rows} rows, counted from 0, and no row {number!r:.40}."
                raise ApiError(404, text, param="number", code="not_found")
            kept = next((name for name in ("trace", "corrections") if found[0][name] is not None), "nothing")
            return {"kept": kept, "data": events_of(found[0], table.tokenizer())}

        return {"object": "list", **await told(read)}


async def told(read: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a thread read. Raises ApiError where a file can not be read."""
    try:
        return await asyncio.to_thread(read)
    except ProsecoError as error:
        raise refused(error) from None


def require(root: Path | None) -> Path:
    """Raises ApiError where no tables are served."""
    if root is None:
        raise ApiError(404, "This service shows no tables; start it with --tables ROOT.", code="not_found")
    return root
