"""Batch jobs below a root as Prometheus sees them: what their journals say last, whoever drives them and wherever."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from components.store.artifact import MANIFEST
from components.store.files import exists, folders
from components.tracking import JOURNAL, written_metrics

STAGES = ("generate", "score")
FORGOTTEN_S = 24 * 3600.0
"""A job that wrote nothing for so long is told no more."""

Row = Mapping[str, float]
GAUGES: dict[str, tuple[str, Callable[[Row], float | None]]] = {
    "proseco_job_shards_left": ("Shards that are not made yet.", lambda r: r["shards"] - r["step"]),
    "proseco_job_seconds_left": ("Seconds to the end, at the rate so far.", lambda r: r.get("left_s")),
    "proseco_job_rows_per_second": ("Rows a second.", lambda r: r["rows_per_s"]),
    "proseco_job_corrections_per_second": ("Visible tokens changed a second.", lambda r: r["corrections_per_s"]),
    "proseco_job_calls_per_useful_token": (
        "Calls of the network / useful tokens.",
        lambda r: r["calls_per_useful_token"],
    ),
    "proseco_job_padding_waste": ("Idle lanes / lanes of all forwards.", lambda r: r["padding_waste"]),
    "proseco_job_queue_age_seconds": ("Age of the oldest shard that is being made.", lambda r: r["queue_age_s"]),
    "proseco_job_silent_seconds": ("Seconds since the job wrote anything.", lambda r: time.time() - r["time_s"]),
}
NEEDED = {
    "step", "time_s", "shards", "retries", "queue_age_s", "rows_per_s", "corrections_per_s",
    "calls_per_useful_token", "padding_waste",
}  # fmt: skip
"""What every journal of a job says. How long it will take is not known before its first shard is made."""


class Jobs(Collector):
    """Jobs that are not finished, as they were read last."""

    def __init__(self, root: Path | None):
        self.root = root
        self.rows: dict[str, Row] = {}

    async def read(self) -> None:
        """Read their journals anew."""
        if self.root is not None:
            self.rows = await asyncio.to_thread(last_rows, self.root)

    def collect(self) -> Iterable[Metric]:
        for name, (text, read) in GAUGES.items():
            gauge = GaugeMetricFamily(name, text, labels=["job"])
            for job, row in self.rows.items():
                if (value := read(row)) is not None:
                    gauge.add_metric([job], value)
            yield gauge
        retries = CounterMetricFamily("proseco_job_shard_retries", "Shards that were tried again.", labels=["job"])
        for job, row in self.rows.items():
            retries.add_metric([job], row["retries"])
        yield retries


def last_rows(root: Path) -> dict[str, Row]:
    """The last line of each journal, by ``stage/key``."""
    return {f"{folder.parent.name}/{folder.name}": row for folder in unfinished(root) if (row := last_row(folder))}


def unfinished(root: Path) -> Iterator[Path]:
    for stage in STAGES:
        for folder in folders(root / stage):
            if not exists(folder / MANIFEST):
                yield folder


def last_row(folder: Path) -> Row | None:
    """None where a job has said nothing, nothing lately, or what another version said."""
    rows = written_metrics(folder / JOURNAL)
    known = bool(rows) and rows[-1].keys() >= NEEDED and time.time() - rows[-1]["time_s"] < FORGOTTEN_S
    return rows[-1] if known else None
