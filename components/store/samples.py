"""Sample and score shards: Parquet files with one schema, each published once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from components import faults
from components.errors import CorruptArtifact
from components.store.cache import local
from components.store.files import create_text, digest_file, exists, publishing, read_json, remove
from components.store.names import file_name

TRACE = pa.list_(
    pa.struct(
        [
            ("call", pa.int32()),
            ("tick", pa.int32()),
            ("position", pa.int32()),
            ("old", pa.int32()),
            ("new", pa.int32()),
            ("confidence", pa.float32()),
            ("reason", pa.string()),
        ]
    )
)
SAMPLES = pa.schema(
    [
        ("sample_id", pa.int64()),
        ("seed", pa.int64()),
        ("index", pa.int64()),
        ("prompt", pa.string()),
        ("label", pa.int32()),
        ("text", pa.string()),
        ("tokens", pa.list_(pa.int32())),
        ("num_prompt", pa.int32()),
        ("calls", pa.int32()),
        ("call_positions", pa.float64()),
        ("reward_calls", pa.int32()),
        ("edits", pa.int32()),
        ("deterministic", pa.bool_()),
        ("trace", TRACE),
    ]
)


def shard_file(folder: Path, name: str) -> Path:
    """The table of a shard. Raises CorruptArtifact where the name, which may come from a manifest, is none."""
    return folder / f"{file_name(name, f'The list of shards for {folder}')}.parquet"


def publish_shard(folder: Path, name: str, table: pa.Table, stage: str) -> dict[str, Any]:
    """Publish ``name.parquet`` and then its receipt ``name.json``, which makes it count.

    Whoever creates the receipt first wins; a later attempt at the same shard is discarded, and as
    rows are deterministic it held the same ones.
    """
    path = shard_file(folder, name)
    faults.point(f"{stage}.before_publish")
    with publishing(path) as private:
        # Dictionaries are what makes writing Parquet slow, and token ids gain nothing from them.
        pq.write_table(table, private, compression="zstd", use_dictionary=False)
        if stage == "generate":
            faults.point("generate.mid_publish")
    receipt = {"rows": table.num_rows, "sha256": digest_file(path)}
    if not create_text(folder / f"{name}.json", json.dumps(receipt)):
        receipt = read_receipt(folder / f"{name}.json") or receipt
    if stage == "generate":
        faults.point("generate.after_publish")
    return receipt


def shard_is_done(folder: Path, name: str) -> bool:
    """Is there a receipt whose file is really there, byte for byte? A damaged shard is made anew."""
    path, receipt = shard_file(folder, name), folder / f"{name}.json"
    found = read_receipt(receipt)
    if found is not None and exists(path) and digest_file(path) == found["sha256"]:
        return True
    remove(receipt)
    return False


def read_receipt(path: Path) -> dict[str, Any] | None:
    """What a receipt says, or None where there is none that can be read."""
    found = read_json(path)
    return found if isinstance(found, dict) and isinstance(found.get("sha256"), str) else None


def read_shard(path: Path) -> pa.Table:
    """Raises CorruptArtifact if the file is not Parquet."""
    try:
        return pq.read_table(local(path))
    except (OSError, pa.ArrowInvalid) as error:
        raise CorruptArtifact(
            f"{path} is missing or damaged ({error}). Run `proseco gc --corrupt --delete`, then the same "
            f"command again: the stage is made anew from its inputs."
        ) from error


def read_shards(folder: Path, names: list[str]) -> pa.Table:
    """The shards of a stage as one table, in the given order."""
    return pa.concat_tables([read_shard(shard_file(folder, name)) for name in names])
