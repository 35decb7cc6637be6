"""One engine for everybody who wants rows of one network: their rows share forwards, and come and go while it runs.

The engine has a thread of its own, which is the only one that touches it; others leave notes and are told the results.
People wait on an event loop, and hear of all rows that a step concerned by one call of it; batch jobs wait in threads.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field

from components.errors import ProsecoError, SamplingError
from components.samplers.config import SamplerConfig
from components.samplers.contract import Edit, Row, Sample
from components.samplers.engine import BATCH, PEOPLE, Engine

log = logging.getLogger(__name__)

Outcome = Sample | SamplingError

POLL_S = 0.5
COUNT_EVERY_S = 0.2
"""How old ``SharedEngine.numbers`` may be while it works."""


class Busy(ProsecoError):
    """There is no room for more rows now."""


@dataclass(frozen=True)
class News:
    """What happened to a row: edits, or its end."""

    index: int
    """Place of the row in its request."""
    edits: tuple[Edit, ...] = ()
    outcome: Outcome | None = None


@dataclass(frozen=True)
class Numbers:
    """What an engine is at and has done so far. Pairs are of people and of batch jobs."""

    waiting: tuple[int, int] = (0, 0)
    running: tuple[int, int] = (0, 0)
    since: tuple[float | None, float | None] = (None, None)
    """When the oldest row that has not ended was asked for, in seconds of the monotonic clock of this machine."""
    rows: int = 0
    """Rows that have ended."""
    failed: int = 0
    calls: int = 0
    """Of the rows that have ended."""
    corrections: int = 0
    useful: int = 0
    """Tokens that were written and are in the text of their row."""
    inputs: int = 0
    """Inputs of forwards that rows asked for; what is more in a forward is padding."""


@dataclass(eq=False)
class Wanted:
    """One row of somebody, and who is told of it. Both are called in the thread of the engine."""

    sampler: SamplerConfig
    row: Row
    priority: int
    ended: Callable[[Row, Outcome], None]
    watch: Callable[[list[Edit]], None] | None = None
    since: float = field(default_factory=time.monotonic)
    ticket: int = -1
    """Below 0 until the engine has it."""


def num_written(row: Row, sample: Sample) -> int:
    """Positions of a row that were to be written."""
    return row.fixed.count(False)


class SharedEngine:
    """Steps an engine as long as there are rows. ``close`` ends its thread."""

    def __init__(
        self,
        engine: Engine,
        in_thread: Callable[[], None] = lambda: None,
        max_rows: int = 4096,
        useful: Callable[[Row, Sample], int] = num_written,
    ):
        """
        Args:
            in_thread: called once in the thread of the engine, to set it up.
            max_rows: of people, running or waiting.
            useful: tokens of a sample that were written and are in its text.
        """
        self.engine, self.in_thread, self.max_rows, self.useful = engine, in_thread, max_rows, useful
        self.numbers = Numbers()
        self._held = [0, 0]
        """Rows that have not ended, of each priority."""
        self._totals = {"rows": 0, "failed": 0, "calls": 0, "corrections": 0, "useful": 0}
        self._notes: list[Callable[[], None]] = []
        self._running: dict[int, Wanted] = {}
        self._post: dict[asyncio.AbstractEventLoop, list[Callable[[], None]]] = {}
        """What event loops are told after this step."""
        self._closing = False
        self._noted = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def close(self) -> None:
        """End the thread. Rows that have not ended get an error."""
        with self._noted:
            self._closing = True
            self._noted.notify()
        self._thread.join()

    # --- for others ------------------------------------------------------------------------------

    def run(
        self,
        sampler: SamplerConfig,
        rows: Sequence[Row],
        priority: int = BATCH,
        stop: threading.Event | None = None,
    ) -> dict[int, Sample | SamplingError]:
        """What rows ended with, by their ids; waits for all of them. For threads that are no event loop's.

        Raises:
            SamplingError: two of the rows have one id, or ``stop`` was set.
            Busy: the engine is about to stop.
        """
        if len({row.id for row in rows}) < len(rows):
            raise SamplingError("Two rows of one job have the same id, so one of their samples would be lost.")
        found: dict[int, Outcome] = {}
        done = threading.Event()

        def keep(row: Row, outcome: Outcome) -> None:
            found[row.id] = outcome
            if len(found) == len(rows):
                done.set()

        if rows:
            wanted = [Wanted(sampler, row, priority, keep) for row in rows]
            self._submit(wanted)
            try:
                while not done.wait(POLL_S):
                    if stop is not None and stop.is_set():
                        raise SamplingError("Whoever wanted these rows is gone.")
            finally:
                self._cancel(wanted)
        return found

    async def sample(
        self, sampler: SamplerConfig, rows: Sequence[Row], watched: bool = False, deadline_s: float | None = None
    ) -> AsyncGenerator[list[News], None]:
        """News of rows of people as they come, until all have ended, the first of them empty: they were taken in. With ``watched`` their edits, too. Who stops
        listening takes the rows along.

        Raises:
            Busy: there is no room for them now.
            TimeoutError: the deadline has passed.
        """
        loop, arrived = asyncio.get_running_loop(), asyncio.Event()
        news: list[News] = []

        def tell(found: News) -> None:
            def put() -> None:
                news.append(found)
                arrived.set()

            self._post.setdefault(loop, []).append(put)

        def wanted_of(index: int, row: Row) -> Wanted:
            watch = (lambda edits: tell(News(index, tuple(edits)))) if watched else None
            return Wanted(sampler, row, PEOPLE, lambda _, outcome: tell(News(index, outcome=outcome)), watch)

        wanted = [wanted_of(index, row) for index, row in enumerate(rows)]
        self._submit(wanted)
        left = len(rows)
        end = None if deadline_s is None else loop.time() + deadline_s
        try:
            yield []
            while left:
                await asyncio.wait_for(arrived.wait(), None if end is None else end - loop.time())
                arrived.clear()
                found, news[:] = list(news), []
                left -= sum(n.outcome is not None for n in found)
                yield found
        finally:
            if left:
                self._cancel(wanted)

    def _submit(self, wanted: Sequence[Wanted]) -> None:
        priority = wanted[0].priority
        with self._noted:
            if self._closing:
                raise Busy("This replica is about to stop. Ask again in a moment.")
            if priority == PEOPLE and self._held[PEOPLE] + len(wanted) > self.max_rows:
                raise Busy(
                    f"{self._held[PEOPLE]} rows are running or waiting here, and with {len(wanted)} more there would be "
                    f"more than limits.max_rows = {self.max_rows}. Ask again in a moment."
                )
            self._held[priority] += len(wanted)
            self._notes.append(lambda: self._take(wanted))
            self._noted.notify()

    def _cancel(self, wanted: Sequence[Wanted]) -> None:
        with self._noted:
            self._notes.append(lambda: self._drop(wanted))
            self._noted.notify()

    # --- in the thread of the engine -------------------------------------------------------------

    def _work(self) -> None:
        self.in_thread()
        counted = 0.0
        while True:
            with self._noted:
                self._noted.wait_for(lambda: self._notes or self._closing or not self.engine.idle)
                notes, self._notes = self._notes, []
            for note in notes:
                note()
            if self._closing:
                break
            ended = self.engine.step()
            for ticket, outcome in ended.items():
                self._end(self._running.pop(ticket), outcome)
            if notes or self.engine.idle or time.monotonic() - counted > COUNT_EVERY_S:
                counted = time.monotonic()
                self._count()
            self._deliver()
        for row in self._running.values():
            self._end(row, SamplingError("The replica was stopped before this row ended. Ask again."))
        self._deliver()

    def _take(self, wanted: Sequence[Wanted]) -> None:
        for row in wanted:
            row.ticket = self.engine.submit(row.sampler, row.row, row.priority, row.watch)
            self._running[row.ticket] = row

    def _drop(self, wanted: Sequence[Wanted]) -> None:
        for row in wanted:
            if self._running.pop(row.ticket, None) is not None:
                self.engine.cancel(row.ticket)
                self._let_go(row)

    def _let_go(self, wanted: Wanted) -> None:
        with self._noted:
            self._held[wanted.priority] -= 1

    def _end(self, wanted: Wanted, outcome: Outcome) -> None:
        self._let_go(wanted)
        self._totals["rows"] += 1
        if isinstance(outcome, SamplingError):
            self._totals["failed"] += 1
            log.error("row %d failed: %s", wanted.row.id, outcome, exc_info=outcome.__cause__)
        else:
            self._totals["calls"] += outcome.calls
            self._totals["corrections"] += outcome.edits
            self._totals["useful"] += self.useful(wanted.row, outcome)
        wanted.ended(wanted.row, outcome)

    def _deliver(self) -> None:
        """Tell every event loop what there is for it, by one call."""
        post, self._post = self._post, {}
        for loop, calls in post.items():
            if not loop.is_closed():
                loop.call_soon_threadsafe(call_all, calls)

    def _count(self) -> None:
        counts = [self.engine.num_rows(priority) for priority in (PEOPLE, BATCH)]
        since: dict[int, float] = {}
        for wanted in self._running.values():
            since.setdefault(wanted.priority, wanted.since)
            if len(since) == len(counts):
                break
        self.numbers = Numbers(
            waiting=(counts[PEOPLE][0], counts[BATCH][0]),
            running=(counts[PEOPLE][1], counts[BATCH][1]),
            since=(since.get(PEOPLE), since.get(BATCH)),
            inputs=self.engine.num_live,
            **self._totals,
        )


def call_all(calls: Sequence[Callable[[], None]]) -> None:
    for call in calls:
        call()
