"""Looks after one rank of a training: ends it where it hangs, and asks for a checkpoint where its machine is about to go.

A rank that waits for another that is stuck makes no step either, so all of them end, and whoever started them starts them
again from the newest checkpoint. What each thread was at is printed first.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

POLL_S = 1.0
HUNG = 75
"""Exit code of a rank that was ended because it made no step."""


class Watchdog:
    """See ``components.training.watch.Watch``.

    Args:
        hang_s: seconds without a step after which the process is ended; 0 never does.
        leaving: is the machine about to go?
    """

    def __init__(self, hang_s: float, leaving: Callable[[], bool] | None = None, end: Callable[[int], object] = os._exit):
        self.hang_s, self.leaving, self.end = hang_s, leaving, end
        self._last = time.monotonic()
        self._wanted = False
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True, name="watchdog")
        self._thread.start()

    def beat(self) -> bool:
        self._last = time.monotonic()
        wanted, self._wanted = self._wanted, False
        return wanted

    def close(self) -> None:
        self._closed.set()

    def _look(self) -> None:
        asked = False
        while not self._closed.wait(min(POLL_S, self.hang_s / 4 or POLL_S)):
            if self.hang_s and time.monotonic() - self._last > self.hang_s:
                print(f"no step in {self.hang_s:g} s (runtime.hang_s); this rank ends", file=sys.stderr, flush=True)
                faulthandler.dump_traceback(sys.stderr)
                self.end(HUNG)
                return
            if self.leaving is not None and not asked:
                with suppress(Exception):  # who can not be asked now is asked again
                    asked = self._wanted = self.leaving()
