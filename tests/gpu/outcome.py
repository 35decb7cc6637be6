"""One thing that was tried."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    part: str
    name: str
    ok: bool
    said: str
    """A number with its unit, or why it failed."""
    seconds: float


def tried(part: str, name: str, action: Callable[[], str]) -> Outcome:
    """What an action said, or the error that it ended with; no error of one hides the others."""
    start = time.perf_counter()
    try:
        ok, said = True, action()
    except Exception as error:
        ok, said = False, f"{type(error).__name__}: {error}"[:600]
    return Outcome(part, name, ok, said, round(time.perf_counter() - start, 3))
