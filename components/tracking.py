"""What the rest of the house may say about a running training, and the journal that writes it down.

The JSON-lines journal stands in the stage's folder and is followed while the stage runs: by the bar on the screen
and, where it is on, by MLflow (``pipelines/graph/live.py``).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from components.store.files import append_text, exists, read_bytes

JOURNAL = "metrics.jsonl"
"""Its name in the folder of a stage."""


class Tracker(Protocol):
    """Whoever records one stage execution."""

    def params(self, values: Mapping[str, Any]) -> None: ...
    def metrics(self, values: Mapping[str, float], step: int) -> None: ...


class JsonlTracker:
    """Appends one JSON object a line, each at once, so that another process can follow.

    Args:
        fence: raises where another run took this stage over: what a sleeper adds to a journal that is finished damages it.
    """

    def __init__(self, path: Path, fence: Callable[[], None] = lambda: None):
        self._path, self._fence = path, fence

    def params(self, values: Mapping[str, Any]) -> None:
        self._write({"params": dict(values)})

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        self._write({"step": step, **values})

    def _write(self, row: dict[str, Any]) -> None:
        self._fence()
        append_text(self._path, json.dumps({"time_s": round(time.time(), 3), **row}) + "\n")


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Metric rows of a journal; a later row of the same step replaces an earlier one (a resumed run
    repeats the steps after its last checkpoint), and a last line cut off by a kill is left out."""
    merged: dict[int, dict[str, float]] = {}
    for row in written_metrics(path):
        merged.setdefault(int(row["step"]), {}).update(row)
    return [merged[step] for step in sorted(merged)]


def written_metrics(path: Path) -> list[dict[str, float]]:
    """Metric rows of a journal as they were written, without lines that are not complete or can not be read; none where
    there is no journal."""
    found = []
    for line in read_bytes(path).splitlines() if exists(path) else ():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            found.append(row)
    return found
