"""Ray tasks over a fixed list of items."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.exceptions import RayTaskError

from cluster.cluster import Done, Stopped
from components.errors import ProsecoError

POLL_S = 0.5


def map_items(
    work: Callable[[Any], Any], items: Sequence[Any], done: Done, max_attempts: int, stopped: threading.Event
) -> list[Any]:
    """One task an item, results in the order of the items.

    A task whose process dies is tried again; an error that the user must mend ends the map at once.

    Raises:
        Stopped: ``stopped`` was set.
    """
    remote = ray.remote(call).options(num_cpus=1, max_retries=max_attempts - 1)
    waiting = {remote.remote(work, item): number for number, item in enumerate(items)}
    results: list[Any] = [None] * len(items)
    try:
        while waiting:
            ready, _ = ray.wait(list(waiting), num_returns=1, timeout=POLL_S)
            if stopped.is_set():
                raise Stopped
            if not ready:
                continue
            number = waiting.pop(ready[0])
            results[number] = ray.get(ready[0])
            done(number, results[number])
    except RayTaskError as error:
        raise cause_of(error) from None
    finally:
        for other in waiting:
            ray.cancel(other)
    return results


def call(work: Callable[[Any], Any], item: Any) -> Any:
    """Any callable as a task; Ray itself takes plain functions only."""
    return work(item)


def cause_of(error: RayTaskError) -> Exception:
    """The user's error inside a task's error, or the operating system's, or that error itself."""
    cause = error.cause
    return cause if isinstance(cause, ProsecoError | OSError) else error


def first_line(error: Exception) -> str:
    """What an error of Ray says before its advice."""
    return next((line.strip().rstrip(".") for line in str(error).splitlines() if line.strip()), type(error).__name__)
