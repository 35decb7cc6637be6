"""Canvases: prompts and templates with holes, ready for a sampler.

A sample's id comes from the digest of its prompt and its index, not from the run or its place in it,
so the same sample is drawn wherever and whenever it is asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from components.data.tokenizer import Tokenizer
from components.errors import DataError
from components.samplers.contract import Row
from components.shards.prompt import Prompt


def canvas(prompt: Prompt, length: int, mask_id: int, trace: bool = False, seed: int = 0) -> Row:
    """A row of a prompt's tokens, and masks where something is to be written.

    Raises:
        DataError: the prompt leaves no room.
    """
    ids: list[int] = []
    fixed: list[bool] = []
    for piece in prompt.pieces:
        tokens = [mask_id] * piece if isinstance(piece, int) else piece
        ids += tokens
        fixed += [not isinstance(piece, int)] * len(tokens)
    holes = length - len(ids)
    if holes < 0 or (holes == 0 and all(fixed)):
        raise DataError(
            f"A prompt of {len(ids)} tokens, {str(ids)[:60]}, was given for rows of {length} positions, which leaves "
            f"none to write. Shorten it, or use a model trained on longer rows."
        )
    key = tuple(-1 if not kept else token for token, kept in zip(ids, fixed, strict=True))
    return Row(
        id=sample_id(key, prompt.label, prompt.index),
        canvas=(*ids, *[mask_id] * holes),
        fixed=(*fixed, *[False] * holes),
        label=prompt.label,
        trace=trace,
        seed=seed,
    )


def read_pieces(tokenizer: Tokenizer, pieces: Sequence[str | int]) -> tuple[tuple[int, ...] | int, ...]:
    """Texts and numbers of holes as a prompt's pieces."""
    return tuple(p if isinstance(p, int) else tuple(tokenizer.encode_batch([p])[0]) for p in pieces if p != "")


def sample_id(key: tuple[int, ...], label: int | None, index: int) -> int:
    """A 63-bit id of kept tokens (-1 at holes), label and index."""
    content = f"{','.join(map(str, key))}|{label}|{index}".encode()
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big") >> 1


def num_leading(row: Row) -> int:
    """Fixed positions at the start of a row: its prompt, without what a template fixes further on."""
    return next((i for i, fixed in enumerate(row.fixed) if not fixed), len(row.fixed))
