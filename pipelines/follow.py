"""What a run is at, from another terminal: read from its root alone, whoever makes it and wherever."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from components.store.artifact import IDENTITY, MANIFEST
from components.store.files import exists
from components.tracking import JOURNAL, written_metrics
from pipelines.graph.short import duration, in_short
from pipelines.graph.stage import Stage, in_order
from pipelines.job import SILENT_S
from pipelines.stages.spec import TrainSpec

EVERY_S = 2.0


@dataclass(frozen=True)
class Look:
    """How far a run was at a moment."""

    made: int
    total: int
    begun: tuple[str, ...]
    """A line for each stage that is begun and not made."""
    silent_s: float
    """Since one of these, or a stage's end, was last heard of."""

    @property
    def lines(self) -> list[str]:
        told = f"{self.made} of {self.total} stages are made"
        if self.made < self.total and self.silent_s > SILENT_S:
            told += f"; nothing was written for {duration(self.silent_s)}: if nobody runs it, `proseco run` goes on from here"
        return [told, *(f"  {line}" for line in self.begun)]


def follow(targets: Sequence[Stage], root: Path, every_s: float = EVERY_S) -> Iterator[Look]:
    """Looks at a run, one after the other, until all of it is made."""
    stages = in_order(list(targets))
    heard, before = time.monotonic(), None
    while True:
        left = [s for s in stages if not exists(s.folder(root) / MANIFEST)]
        begun = tuple(line_of(s, s.folder(root)) for s in left if exists(s.folder(root) / IDENTITY))
        now = (len(left), begun)
        if now != before:
            heard, before = time.monotonic(), now
        yield Look(len(stages) - len(left), len(stages), begun, time.monotonic() - heard)
        if not left:
            return
        time.sleep(every_s)


def line_of(stage: Stage, folder: Path) -> str:
    """What the journal of a stage says last."""
    rows = written_metrics(folder / JOURNAL)
    if not rows:
        return f"{stage.label}: begun"
    done = int(rows[-1]["step"])
    if isinstance(stage.config, TrainSpec):
        count, unit = stage.config.train.steps, "steps"
    else:
        count, unit = int(rows[-1].get("shards", done)), "shards"
    words = [f"{done}/{count} {unit}", left(rows, done, count), in_short(rows[-8:])]
    return f"{stage.label}: {', '.join(w for w in words if w)}"


def left(rows: list[dict[str, float]], done: int, count: int) -> str:
    """The time that is left, in words, by the pace of the last rows; empty where it is not known."""
    if "left_s" in rows[-1]:
        return f"{duration(rows[-1]['left_s'])} left"
    first = rows[max(0, len(rows) - 8)]
    steps, seconds = done - int(first["step"]), rows[-1]["time_s"] - first["time_s"]
    return f"{duration(seconds / steps * (count - done))} left" if steps > 0 and seconds > 0 else ""
