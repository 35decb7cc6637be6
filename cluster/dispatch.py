"""Feeds a stream of items to whoever does them: a bounded number in flight, lost ones tried again, and the last
stragglers given to a second one.

Nothing grows with the number of items: they are drawn one by one, and results go to the watcher. An item may be done
twice, so what it does must be the same each time and count once; a shard is, by its receipt.
"""

from __future__ import annotations

import contextlib
import queue
import random
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from cluster.cluster import Stopped, Watcher

POLL_S = 0.5
REMEMBERED = 64
"""Durations of the last so many items say what is usual."""


Work = Callable[[Any, Callable[[str], None]], Any]
"""Does one item, and tells why whenever it tries it again."""


@dataclass(frozen=True)
class Straggling:
    """When an item that nothing else waits for is given to a second one."""

    times: float = 3.0
    """Of the usual duration."""
    at_least_s: float = 10.0


@dataclass
class Flight:
    """An item that is being done, perhaps twice."""

    number: int
    item: Any
    since: float
    attempts: int = 0
    """That have not come back."""


Landed = tuple[Flight, Any, BaseException | None]
"""An attempt that came back: with a result, or with an error."""


@dataclass
class Dispatch:
    """One stream of items."""

    work: Work
    watcher: Watcher
    width: Callable[[], int]
    """Items in flight at a time; asked again and again."""
    stopped: threading.Event
    straggling: Straggling = field(default_factory=Straggling)

    def __post_init__(self) -> None:
        self.flights: dict[int, Flight] = {}
        self.landed: queue.Queue[Landed] = queue.Queue()
        self.durations: deque[float] = deque(maxlen=REMEMBERED)

    def run(self, items: Iterable[Any]) -> None:
        """Have all items done.

        What ends the caller, such as Ctrl-C, is not kept waiting for what is in flight.

        Raises:
            Stopped: ``stopped`` was set.
        """
        waiting = enumerate(items)
        self.fill(waiting)
        while self.flights:
            with contextlib.suppress(queue.Empty):
                self.land(*self.landed.get(timeout=POLL_S))
            if self.stopped.is_set():
                raise Stopped
            if not self.fill(waiting):
                self.reissue()
            self.tell()

    def num_running(self) -> int:
        return sum(flight.attempts for flight in self.flights.values())

    def fill(self, waiting: Iterator[tuple[int, Any]]) -> bool:
        """Send items off while there is room. Is there perhaps another?"""
        while self.num_running() < self.width():
            found = next(waiting, None)
            if found is None:
                return False
            number, item = found
            self.flights[number] = Flight(number, item, time.monotonic())
            self.send(self.flights[number])
        return True

    def send(self, flight: Flight) -> None:
        """Begin an attempt, in a thread that nobody waits for where the run ends before it."""
        flight.attempts += 1

        def attempt() -> None:
            try:
                result = self.work(flight.item, lambda why: self.watcher.retried(flight.number, why))
            except BaseException as error:
                self.landed.put((flight, None, error))
            else:
                self.landed.put((flight, result, None))

        threading.Thread(target=attempt, daemon=True, name=f"dispatch-{flight.number}").start()

    def land(self, flight: Flight, result: Any, error: BaseException | None) -> None:
        """Take in what an attempt came to. The first that ends well counts; an error, where no other attempt is left."""
        if flight.number not in self.flights:  # the other attempt was faster
            return
        flight.attempts -= 1
        if error is not None and flight.attempts:
            return
        del self.flights[flight.number]
        if error is not None:
            raise error
        self.durations.append(time.monotonic() - flight.since)
        self.watcher.done(flight.number, result)

    def reissue(self) -> None:
        """Nothing is left to send: have idle hands do once more what takes unusually long."""
        if not self.durations:
            return
        patience_s = max(self.straggling.at_least_s, self.straggling.times * statistics.median(self.durations))
        for flight in self.flights.values():  # the oldest first
            late = flight.attempts == 1 and time.monotonic() - flight.since > patience_s
            if late and self.num_running() < self.width():
                self.watcher.reissued(flight.number)
                self.send(flight)

    def tell(self) -> None:
        """Say how many are in flight, and since when the oldest is."""
        oldest = min((flight.since for flight in self.flights.values()), default=time.monotonic())
        self.watcher.waits(len(self.flights), time.monotonic() - oldest)


def pause_s(attempt: int) -> float:
    """How long to wait before the next attempt: longer each time, and not all at once."""
    return random.uniform(0.5, 1.0) * min(30.0, 2.0**attempt)
