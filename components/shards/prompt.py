"""What samples start from, as token ids. Without torch, because it is part of what a stage's key is made of."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Prompt:
    """What a sample starts from, and its number among the samples of that prompt."""

    index: int
    pieces: tuple[tuple[int, ...] | int, ...] = ()
    """Token ids that stay, and numbers of positions to write, in order. What is left of the row after the last
    piece is written, too."""
    label: int | None = None
    """Class of the row, for networks with classes."""
