"""Who looks after a rank while it trains: the loop tells that it lives, and is told that it may soon be ended."""

from __future__ import annotations

from typing import Protocol


class Watch(Protocol):
    def beat(self) -> bool:
        """Called at every step. Returns whether a checkpoint is wanted now, which it is once for each reason."""


class Unwatched:
    """Nobody looks."""

    def beat(self) -> bool:
        return False
