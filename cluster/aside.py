"""Work that is done aside, in a thread that nobody has to wait for: what it calls may never come back."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def aside(work: Callable[[], T]) -> Future[T]:
    """Begin some work. Whoever does not want to wait any longer leaves it to itself, and it ends with the process."""
    came: Future[T] = Future()

    def attempt() -> None:
        try:
            came.set_result(work())
        except BaseException as error:  # for whoever waits
            came.set_exception(error)

    threading.Thread(target=attempt, daemon=True, name="aside").start()
    return came
