"""Options of the ground floor, without torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DrawConfig:
    """How a distribution is turned into a token."""

    temperature: float = 1.0
    """0 is argmax."""
    top_p: float = 1.0
    """Nucleus: the smallest set whose mass reaches top_p. The token that crosses is kept."""
    top_k: int = 0
    """Keep the k best tokens; 0 keeps all."""
