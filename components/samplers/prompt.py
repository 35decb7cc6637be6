"""What a sample starts from, as plain values."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Prompt:
    """What to continue, and under which number."""

    index: int
    text: str = ""
    label: int | None = None
    template: tuple[str | int, ...] = ()
    """Instead of a text: pieces of text, and numbers of positions to write between them."""
