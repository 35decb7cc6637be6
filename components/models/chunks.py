"""How much of the vocabulary's logits a loss makes at a time, without torch, so that a plan knows it, too."""

from __future__ import annotations

CHUNK = {"cpu": 1 << 22, "cuda": 1 << 28}
"""Logits of a chunk, by kind of device."""
FEWEST = 128
"""Positions of a chunk, however large the vocabulary is: fewer make products of matrices slow."""


def chunk_rows(device: str, vocab_size: int) -> int:
    """Positions of a chunk on a kind of device."""
    return max(FEWEST, CHUNK.get(device, CHUNK["cuda"]) // max(1, vocab_size))
