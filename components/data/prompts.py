"""Canvases: prompts and templates with holes, ready for a sampler.

A sample's id comes from the digest of its prompt and its index, not from the run or its place in it,
so the same sample is drawn wherever and whenever it is asked for.
"""

from __future__ import annotations

import hashlib

from components.data.tokenizer import Tokenizer
from components.errors import DataError
from components.samplers.engine import Row


def sample_id(prompt: tuple[int, ...], label: int | None, index: int) -> int:
    """A 63-bit id."""
    content = f"{','.join(map(str, prompt))}|{label}|{index}".encode()
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big") >> 1


def num_leading(row: Row) -> int:
    """Fixed positions at the start of a row: its prompt, without what a template fixes further on."""
    return next((i for i, fixed in enumerate(row.fixed) if not fixed), len(row.fixed))


def canvas(
    tokenizer: Tokenizer,
    length: int,
    index: int,
    prompt: str = "",
    label: int | None = None,
    template: tuple[str | int, ...] = (),
    trace: bool = False,
) -> Row:
    """A prompt followed by masks, or a template with holes anywhere.

    Args:
        template: pieces of text that stay, and numbers of positions to write, in order; what is left of
            the row after the last piece is written, too.
    Raises:
        DataError: the prompt leaves no room.
    """
    pieces = template or (prompt,)
    ids: list[int] = []
    fixed: list[bool] = []
    for piece in pieces:
        found = (
            [tokenizer.mask_id] * piece
            if isinstance(piece, int)
            else (tokenizer.encode_batch([piece])[0] if piece else [])
        )
        ids += found
        fixed += [not isinstance(piece, int)] * len(found)
    holes = length - len(ids)
    if holes < 0 or (holes == 0 and all(fixed)):
        raise DataError(
            f"The {'template' if template else 'prompt'} {str(template or prompt)[:60]!r} takes {len(ids)} of {length} "
            f"positions and leaves none to write. Shorten it, or use a model trained on longer rows."
        )
    key = tuple(-1 if not kept else word for word, kept in zip(ids, fixed, strict=True))
    return Row(
        id=sample_id(key, label, index),
        canvas=(*ids, *[tokenizer.mask_id] * holes),
        fixed=(*fixed, *[False] * holes),
        label=label,
        trace=trace,
    )
