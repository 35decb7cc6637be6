"""What a person sees of a run: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from components.tracking import read_metrics
from pipelines.graph.plan import Finding

POLL_S = 1.0
LINE_EVERY_S = 15.0


class Screen:
    """Writes to standard error, so that standard output holds results only."""

    def __init__(self, quiet: bool = False):
        self.console = Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)
        self.bars = self.console.is_terminal

    def say(self, message: str) -> None:
        self.console.print(message, markup=False)

    def stage(self, number: int, total: int, finding: Finding) -> None:
        self.say(f"[{number}/{total}] {finding.stage.label}  ({finding.state}) {finding.stage.key}")

    def finished(self, label: str, seconds: float, info: Mapping[str, Any]) -> None:
        shown = [
            f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}"
            for k, v in info.items()
            if isinstance(v, int | float)
        ]
        self.say(f"      done in {seconds:.1f} s" + (f": {', '.join(shown[:6])}" if shown else ""))

    @contextmanager
    def progress(self, label: str, journal: Path) -> Iterator[StageProgress]:
        """A bar, or a line now and then, for one stage."""
        if not self.bars:
            yield StageProgress(self, None, None)
            return
        columns = (
            TextColumn("      {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Bars(*columns, console=self.console, transient=True) as bars:
            yield StageProgress(self, bars, bars.add_task(label, total=None))


class StageProgress:
    """See ``pipelines.graph.stage.Progress``."""

    def __init__(self, screen: Screen, bars: Bars | None, task: Any):
        self.screen, self.bars, self.task = screen, bars, task
        self.unit, self.count, self.done = "", 0, 0
        self.last_line = time.monotonic()

    def total(self, count: int, unit: str) -> None:
        self.count, self.unit, self.done = count, unit, 0
        if self.bars is not None:
            self.bars.update(self.task, total=count, completed=0)

    def advance(self, count: int = 1) -> None:
        self.to(self.done + count)

    def to(self, done: int) -> None:
        self.done = done
        if self.bars is not None:
            self.bars.update(self.task, completed=done)
        elif time.monotonic() - self.last_line > LINE_EVERY_S:
            self.last_line = time.monotonic()
            self.screen.say(f"      {done}/{self.count} {self.unit}")

    def say(self, message: str) -> None:
        self.screen.say(f"      {message}")


@contextmanager
def following(journal: Path, progress: StageProgress | Any) -> Iterator[None]:
    """Inside, a thread follows a training's journal and moves the bar."""
    stop = threading.Event()

    def follow() -> None:
        while not stop.wait(POLL_S):
            rows = read_metrics(journal)
            if rows:
                progress.to(int(rows[-1]["step"]))

    thread = threading.Thread(target=follow, daemon=True, name="follow")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
