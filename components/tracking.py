"""What the rest of the house may say about a running stage, and two ways to listen.

A tracker is told parameters, metrics and artifacts of one stage execution. The JSON-lines journal is
always written; MLflow, when it is there, is fed from the same calls (``cluster/mlflow_tracking.py``).
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol


class Tracker(Protocol):
    """One stage execution, as seen by whoever records it."""

    def params(self, values: Mapping[str, Any]) -> None: ...
    def metrics(self, values: Mapping[str, float], step: int) -> None: ...


class MemoryTracker:
    """Keeps everything in lists, for tests and for the Python API."""

    def __init__(self) -> None:
        self.seen_params: dict[str, Any] = {}
        self.seen_metrics: list[tuple[int, dict[str, float]]] = []

    def params(self, values: Mapping[str, Any]) -> None:
        self.seen_params.update(values)

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        self.seen_metrics.append((step, dict(values)))


class JsonlTracker:
    """Appends one JSON object a line and flushes it, so that another process can follow."""

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8")

    def params(self, values: Mapping[str, Any]) -> None:
        self._write({"params": dict(values)})

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        self._write({"step": step, **values})

    def _write(self, row: dict[str, Any]) -> None:
        self._file.write(json.dumps({"time_s": round(time.time(), 3), **row}) + "\n")
        self._file.flush()


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Metric rows of a journal; a later row of the same step replaces an earlier one (a resumed run
    repeats the steps after its last checkpoint), and a last line cut off by a kill is left out."""
    if not path.exists():
        return []
    merged: dict[int, dict[str, float]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if "step" in row:
            merged.setdefault(row["step"], {}).update(row)
    return [merged[step] for step in sorted(merged)]
