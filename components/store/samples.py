"""Tables of samples and scores: Parquet files, one a shard, each published once.

``SAMPLES`` is what every sample table holds, whichever sampler made it; ``docs/table.md`` says it for readers of the
files. Scores that were asked for with the samples follow as columns of their own. A table's files are whole by
themselves: `datasets`, DuckDB, pandas and polars open a folder of them as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from components import faults
from components.errors import CorruptArtifact
from components.outside import from_json
from components.store.cache import local
from components.store.content import digest
from components.store.files import digest_file, is_file, publishing, remove, size_of
from components.store.names import file_name
from components.store.receipts import create_receipt, read_receipt

SCHEMA_VERSION = 3
"""Raised when a column changes its name, type or meaning; in every file's metadata as ``proseco.schema``."""

CORRECTION = [
    ("call", pa.int32()),
    ("position", pa.int32()),
    ("old", pa.int32()),
    ("new", pa.int32()),
    ("confidence", pa.float32()),
]
CORRECTIONS = pa.list_(pa.struct(CORRECTION))
TRACE = pa.list_(pa.struct([*CORRECTION, ("tick", pa.int32()), ("reason", pa.string())]))
SAMPLES = pa.schema(
    [
        ("row_id", pa.string()),
        ("prompt_id", pa.string()),
        ("sample_index", pa.int64()),
        ("seed", pa.int64()),
        ("fields", pa.string()),
        ("prompt", pa.string()),
        ("label", pa.float64()),
        ("text", pa.string()),
        ("tokens", pa.list_(pa.int32())),
        ("num_prompt", pa.int32()),
        ("given", pa.list_(pa.int32())),
        ("calls", pa.int32()),
        ("call_positions", pa.float64()),
        ("reward_calls", pa.int32()),
        ("stop_reason", pa.string()),
        ("edits", pa.int32()),
        ("corrections", CORRECTIONS),
        ("trace", TRACE),
        ("model", pa.string()),
        ("sampler", pa.string()),
        ("run", pa.string()),
        ("deterministic", pa.bool_()),
    ],
    {"proseco.schema": str(SCHEMA_VERSION)},
)
RECEIPTS = "receipts"
"""The folder beside that of the tables."""
MADE_BY = b"proseco.made_by"
"""Metadata of a sample table: JSON of the sampler and how its forwards were made."""
KEYS = ("row_id", "prompt_id", "sample_index", "seed")
"""Columns by which rows of samples and of scores are joined."""
QUARANTINE = pa.schema([*(SAMPLES.field(name) for name in KEYS), ("reason", pa.string())])
"""Rows that were asked for and could not be made."""
REPEATED = ["label", "stop_reason", "model", "sampler", "run", "deterministic"]
"""Columns of few values. Elsewhere dictionaries are what makes writing Parquet slow, and token ids gain nothing."""


def row_id(sample_id: int, seed: int) -> str:
    """The name of a sample: what all its draws are a function of."""
    return f"{sample_id:016x}-{seed}"


def id_of(row_id: str) -> int:
    """The sample's id in a row's name. Raises ValueError where it is none."""
    return int(row_id.partition("-")[0], 16)


def shard_file(folder: Path, name: str) -> Path:
    """The table of a shard. Raises CorruptArtifact where the name, which may come from a manifest, is none."""
    return folder / f"{file_name(name, f'The list of shards for {folder}')}.parquet"


def receipt_file(folder: Path, name: str) -> Path:
    """The receipt of a shard, by which its table counts. Beside the folder of tables: libraries open that one as a whole."""
    return folder.with_name(RECEIPTS) / shard_file(folder, name).with_suffix(".json").name


def publish_table(path: Path, table: pa.Table) -> None:
    """Write a Parquet file at once."""
    with publishing(path) as private:
        repeated = [name for name in REPEATED if name in table.column_names]
        pq.write_table(table, private, compression="zstd", use_dictionary=repeated)


def publish_shard(
    folder: Path, name: str, table: pa.Table, stage: str, account: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Publish ``name.parquet`` and then its receipt, which makes it count.

    Whoever creates the receipt first wins; a later attempt at the same shard is discarded, and as
    rows are deterministic it held the same ones.

    Args:
        account: sums over the rows, for the receipt, so that nobody has to read the table for them.
    """
    path = shard_file(folder, name)
    faults.point(f"{stage}.before_publish")
    publish_table(path, table)
    if stage == "generate":
        faults.point("generate.mid_publish")
    receipt = {"rows": table.num_rows, "bytes": size_of(path), "sha256": digest_file(path), "account": account or {}}
    if not create_receipt(receipt_file(folder, name), receipt):
        receipt = shard_receipt(folder, name) or receipt
    if stage == "generate":
        faults.point("generate.after_publish")
    return receipt


def finished_shard(folder: Path, name: str) -> dict[str, Any] | None:
    """The receipt of a shard whose file is really there, byte for byte. A damaged shard loses its receipt, and is made
    anew."""
    path, found = shard_file(folder, name), shard_receipt(folder, name)
    if found is not None and is_file(path) and digest(path) == found["sha256"]:
        return found
    remove(receipt_file(folder, name))
    return None


def shard_receipt(folder: Path, name: str) -> dict[str, Any] | None:
    """What the receipt of a shard says, or None where there is none that can be read."""
    return read_receipt(receipt_file(folder, name), sha256=str, rows=int, account=dict)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Raises CorruptArtifact where what is read in the block is no Parquet file."""
    try:
        yield
    except (OSError, ValueError, pa.ArrowException) as error:
        raise CorruptArtifact(
            f"{path} is missing or damaged ({error}). Run `proseco gc --corrupt --delete`, then the same "
            f"command again: the stage is made anew from its inputs."
        ) from error


def read_shard(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """All or some columns of a table. Raises CorruptArtifact if the file is not Parquet, or lacks one."""
    with reading(path):
        found = pq.read_table(local(path), columns=None if columns is None else list(columns))
    if lost := [name for name in columns or () if name not in found.column_names]:
        raise CorruptArtifact(f"{path} has no column {lost[0]!r}: it was made by another version. Make the samples anew.")
    return found


def find_row(path: Path, row_id: str) -> dict[str, Any] | None:
    """The row of a name in a table, or None where it has none. Raises CorruptArtifact where it is no table."""
    with reading(path):
        found = pq.read_table(local(path), filters=[("row_id", "==", row_id)]).to_pylist()
    return found[0] if found else None


def made_by(path: Path) -> dict[str, Any]:
    """What a sample table says of how it was made. Raises CorruptArtifact where it says nothing."""
    with reading(path):
        said = (pq.read_schema(local(path)).metadata or {}).get(MADE_BY)
    if said is None:
        raise CorruptArtifact(f"{path} does not say how it was made: another version wrote it. Make the samples anew.")
    with reading(path):
        found = from_json(said)
        if not isinstance(found, dict):
            raise pa.ArrowInvalid("it does not say how it was made")
    return found


def scan_shards(folder: Path, names: Sequence[str], columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """The shards of a stage one by one, in the given order."""
    for name in names:
        yield read_shard(shard_file(folder, name), columns)


def read_shards(folder: Path, names: Sequence[str], columns: Sequence[str] | None = None) -> pa.Table:
    """The shards of a stage as one table, in the given order."""
    return pa.concat_tables(list(scan_shards(folder, names, columns)))
