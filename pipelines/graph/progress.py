"""What a person sees of a run: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from components.errors import without_passwords
from pipelines.graph.plan import Finding
from pipelines.graph.short import duration

LINE_EVERY_S = 15.0


class Screen:
    """Writes to standard error, so that standard output holds results only. Stages in several threads share it."""

    def __init__(self, quiet: bool = False):
        self.console = Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)
        self.bars: Bars | None = None
        """One for each running stage, on a terminal."""
        self.lock = threading.Lock()

    def say(self, message: str) -> None:
        self.console.print(without_passwords(message), markup=False)

    def stage(self, number: int, total: int, finding: Finding) -> None:
        self.say(f"[{number}/{total}] {finding.stage.label}  ({finding.state}) {finding.stage.key}")

    def finished(self, label: str, seconds: float, info: Mapping[str, Any]) -> None:
        shown = [
            f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}"
            for k, v in info.items()
            if isinstance(v, int | float)
        ]
        self.say(f"      {label} done in {seconds:.1f} s" + (f": {', '.join(shown[:6])}" if shown else ""))

    @contextmanager
    def progress(self, label: str, alive: Callable[[], None]) -> Iterator[StageProgress]:
        """A bar, or a line now and then, for one stage.

        Args:
            alive: called at every sign of progress; raises where the stage must not go on.
        """
        if not self.console.is_terminal:
            yield StageProgress(self, label, alive)
            return
        with self.lock:
            if self.bars is None:
                columns = (TextColumn("      {task.description}"), BarColumn(bar_width=20), MofNCompleteColumn())
                times = (TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}"))
                self.bars = Bars(*columns, *times, console=self.console, transient=True)
                self.bars.start()
            task = self.bars.add_task(label, total=None, note="")
        try:
            yield StageProgress(self, label, alive, self.bars, task)
        finally:
            with self.lock:
                self.bars.remove_task(task)
                if not self.bars.tasks:
                    self.bars.stop()
                    self.bars = None


class StageProgress:
    """See ``pipelines.graph.stage.Progress``."""

    def __init__(self, screen: Screen, label: str, alive: Callable[[], None], bars: Bars | None = None, task: Any = None):
        self.screen, self.label, self.alive, self.bars, self.task = screen, label, alive, bars, task
        self.unit, self.count, self.done, self.words = "", 0, 0, ""
        self.first: tuple[float, int] | None = None
        """When the first sign of progress was, and how far it was, for the time that is left."""
        self.last_line = time.monotonic()

    def total(self, count: int, unit: str) -> None:
        self.count, self.unit, self.done, self.first = count, unit, 0, None
        if self.bars is not None:
            self.bars.update(self.task, total=count, completed=0)

    def advance(self, count: int = 1) -> None:
        self.to(self.done + count)

    def to(self, done: int) -> None:
        self.alive()
        self.done = done
        if self.bars is not None:
            self.bars.update(self.task, completed=done)
        elif time.monotonic() - self.last_line > LINE_EVERY_S:
            self.last_line = time.monotonic()
            more = "".join(f", {words}" for words in (self.left(), self.words) if words)
            self.screen.say(f"      {self.label}: {done}/{self.count} {self.unit}{more}")
        if self.first is None:
            self.first = time.monotonic(), done

    def left(self) -> str:
        """The time that is left, in words; empty where it is not known yet."""
        if self.first is None or self.done <= self.first[1]:
            return ""
        each = (time.monotonic() - self.first[0]) / (self.done - self.first[1])
        return f"{duration(each * (self.count - self.done))} left"

    def note(self, words: str) -> None:
        """Numbers of the work, shown beside how far it is until there are newer ones."""
        self.words = words or self.words
        if self.bars is not None:
            self.bars.update(self.task, note=self.words)

    def say(self, message: str) -> None:
        self.screen.say(f"      {self.label}: {message}")
