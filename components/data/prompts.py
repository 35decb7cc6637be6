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


def canvas(
    tokenizer: Tokenizer, length: int, index: int, prompt: str = "", label: int | None = None, trace: bool = False
) -> Row:
    """A prompt followed by masks.

    Raises:
        DataError: the prompt leaves no room.
    """
    ids = tokenizer.encode_batch([prompt])[0] if prompt else []
    if len(ids) >= length:
        raise DataError(
            f"The prompt {prompt[:60]!r} takes {len(ids)} of {length} positions and leaves none to write. "
            f"Shorten it, or use a model trained on longer rows."
        )
    holes = length - len(ids)
    return Row(
        id=sample_id(tuple(ids), label, index),
        canvas=(*ids, *[tokenizer.mask_id] * holes),
        fixed=(*[True] * len(ids), *[False] * holes),
        label=label,
        trace=trace,
    )
