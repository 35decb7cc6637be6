"""How a job of shards goes, or went: read from its folder, whoever drives it and wherever."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from components.errors import StoreError
from components.store.artifact import IDENTITY, MANIFEST, read_manifest
from components.store.files import exists, read_json
from components.tracking import JOURNAL, written_metrics
from pipelines.graph.short import duration

SILENT_S = 60.0
"""A job that wrote nothing for so long does not run, or its replicas hang."""


def describe(folder: Path) -> dict[str, Any]:
    """The numbers of a job, and its state: made, running, or silent.

    Raises:
        StoreError: the folder is none of a stage.
    """
    identity = read_json(folder / IDENTITY)
    if not isinstance(identity, dict):
        raise StoreError(
            f"{folder} is no folder of a stage (no {IDENTITY}). Give a run's YAML, or the folder that "
            f"`proseco generate` or `proseco score` names."
        )
    rows = written_metrics(folder / JOURNAL)
    last: dict[str, Any] = dict(rows[-1]) if rows else {}
    silent_s = time.time() - last.pop("time_s", 0.0)
    found = {"folder": str(folder), "label": identity.get("label", ""), "shards_done": last.pop("step", 0)} | last
    if exists(folder / MANIFEST):
        manifest = read_manifest(folder)
        assert manifest is not None
        plain = {k: v for k, v in manifest.info.items() if k not in ("shards", "corrections_by_position")}
        return found | plain | {"state": "made", "seconds": manifest.seconds, "left_s": 0.0}
    return found | {"state": "running" if silent_s < SILENT_S else "silent", "silent_s": silent_s}


def in_words(found: dict[str, Any]) -> Iterator[str]:
    """What a person wants to know of a job, one line each."""
    yield f"{found['label']}  {found['state']}  {found['folder']}"
    if found["state"] == "silent":
        yield f"nothing was written for {found['silent_s']:.0f} s: the same command goes on from here, wherever it is run"
    if "rows" not in found and "samples" not in found:
        return
    rows = found.get("samples", found.get("rows"))
    yield f"shards {found['shards_done']} of {found.get('shards', found['shards_done'])}, rows {rows}, quarantined {found['quarantined']}"
    if "rows_per_s" in found:
        left = f", {duration(found['left_s'])} left" if "left_s" in found else ""
        yield f"{found['rows_per_s']:.1f} rows a second{left}"
    if "calls" in found:
        yield (
            f"{found['calls']:.2f} calls and {found['edits']:.2f} corrections a row, "
            f"{found['calls_per_useful_token']:.3f} calls a useful token, padding waste {found['padding_waste']:.1%}"
        )
    if (exact := found.get("cache_exact")) is not None:
        computed = found["call_positions"] / max(1, found["samples"])
        yield f"{computed:.2f} rows computed a row, by a cache that is {'exact' if exact else 'not exact'} for this network"
    yield (
        f"corrections a second {found.get('corrections_per_s', 0.0):.1f}, oldest shard waits {found.get('queue_age_s', 0.0):.1f} s, "
        f"retries {found['retries']}, reissued {found['reissued']}"
    )
