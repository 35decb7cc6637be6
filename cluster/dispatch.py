"""Feeds a stream of items to whoever does them: a bounded number in flight, lost ones tried again, and the last
stragglers given to a second one.

Nothing grows with the number of items: they are drawn one by one, and results go to the watcher. An item may be done
twice, so what it does must be the same each time and count once; a shard is, by its receipt.
"""

from __future__ import annotations

import random
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
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
    attempts: set[Future[Any]] = field(default_factory=set)


@dataclass
class Dispatch:
    """One stream of items."""

    work: Work
    watcher: Watcher
    width: int
    """Items in flight at a time."""
    stopped: threading.Event
    straggling: Straggling = field(default_factory=Straggling)
    flights: dict[int, Flight] = field(default_factory=dict)
    durations: deque[float] = field(default_factory=lambda: deque(maxlen=REMEMBERED))

    def run(self, items: Iterable[Any]) -> None:
        """Have all items done.

        What ends the caller, such as Ctrl-C, is not kept waiting for what is in flight.

        Raises:
            Stopped: ``stopped`` was set.
        """
        queue = enumerate(items)
        self.threads = ThreadPoolExecutor(self.width, thread_name_prefix="dispatch")
        try:
            self.fill(queue)
            while self.flights:
                running = {future for flight in self.flights.values() for future in flight.attempts}
                finished, _ = wait(running, POLL_S, FIRST_COMPLETED)
                if self.stopped.is_set():
                    raise Stopped
                for future in finished:
                    self.land(future)
                if not self.fill(queue):
                    self.reissue()
                ages = [time.monotonic() - flight.since for flight in self.flights.values()]
                self.watcher.waits(len(ages), max(ages, default=0.0))
        finally:
            self.threads.shutdown(wait=False, cancel_futures=True)

    def num_running(self) -> int:
        return sum(len(flight.attempts) for flight in self.flights.values())

    def fill(self, queue: Iterator[tuple[int, Any]]) -> bool:
        """Send items off while there is room. Is there perhaps another?"""
        while self.num_running() < self.width:
            found = next(queue, None)
            if found is None:
                return False
            number, item = found
            self.flights[number] = Flight(number, item, time.monotonic())
            self.send(self.flights[number])
        return True

    def send(self, flight: Flight) -> None:
        number = flight.number
        again = lambda why: self.watcher.retried(number, why)  # noqa: E731
        flight.attempts.add(self.threads.submit(self.work, flight.item, again))

    def land(self, future: Future[Any]) -> None:
        """Take in what an attempt came to. The first that ends well counts; an error, where no other attempt is left."""
        flight = next((f for f in self.flights.values() if future in f.attempts), None)
        if flight is None:  # the other attempt was faster
            return
        flight.attempts.discard(future)
        if future.exception() is not None and flight.attempts:
            return
        del self.flights[flight.number]
        result = future.result()
        self.durations.append(time.monotonic() - flight.since)
        self.watcher.done(flight.number, result)

    def reissue(self) -> None:
        """Nothing is left to send: have idle hands do once more what takes unusually long."""
        if not self.durations:
            return
        patience_s = max(self.straggling.at_least_s, self.straggling.times * statistics.median(self.durations))
        for flight in sorted(self.flights.values(), key=lambda f: f.since):
            late = len(flight.attempts) == 1 and time.monotonic() - flight.since > patience_s
            if late and self.num_running() < self.width:
                self.watcher.reissued(flight.number)
                self.send(flight)


def pause_s(attempt: int) -> float:
    """How long to wait before the next attempt: longer each time, and not all at once."""
    return random.uniform(0.5, 1.0) * min(30.0, 2.0**attempt)
