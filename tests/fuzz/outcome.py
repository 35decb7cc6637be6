"""The rule of all cases: a result, or a sentence; never another error, never longer than a while."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from components.errors import ProsecoError

CASE_S = 20
"""A case that takes longer hangs."""
PEAK_BYTES = 3 << 30
"""More is not taken by the process, whatever it reads; torch and the libraries of tables are 0.7 GB of it."""


class HangError(BaseException):
    """Not caught by whoever catches errors."""


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """Raises HangError where the block takes longer."""

    def late(*_: object) -> None:
        raise HangError(f"longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@dataclass
class Seen:
    """What became of the cases of a target."""

    counts: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0

    def judge(self, use: Callable[[], object]) -> None:
        """Raises whatever is neither a result nor a sentence."""
        started = time.monotonic()
        try:
            with within(CASE_S):
                use()
            self.counts["results"] += 1
        except ProsecoError as error:
            said = str(error)
            assert len(said) > 20, said
            said.encode()
            self.counts["refused"] += 1
        self.slowest = max(self.slowest, time.monotonic() - started)

    @property
    def cases(self) -> int:
        return self.counts.total()


def peak_bytes() -> int:
    """The most memory that this process has held."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
