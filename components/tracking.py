"""What the rest of the house may say about a running training, and the journal that writes it down.

The JSON-lines journal stands in the stage's folder and can be followed while the stage runs. MLflow, where it is on, is
fed from the journal once the stage has ended (``cluster/mlflow_tracking.py``).
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol


class Tracker(Protocol):
    """Whoever records one stage execution."""

    def params(self, values: Mapping[str, Any]) -> None: ...
    def metrics(self, values: Mapping[str, float], step: int) -> None: ...


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
