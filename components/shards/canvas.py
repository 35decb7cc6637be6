"""Canvases: prompts and templates with holes, ready for a sampler.

A sample's id comes from the digest of its prompt and its index, not from the run or its place in it,
so the same sample is drawn wherever and whenever it is asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from components.data.tokenizer import Tokenizer
from components.errors import DataError
from components.outside import MAX_LENGTH
from components.samplers.contract import Row
from components.shards.prompt import HOLE, Prompt


def canvas(prompt: Prompt, length: int, mask_id: int, trace: bool = False, seed: int = 0) -> Row:
    """A row of a prompt's tokens, and masks where something is to be written.

    Raises:
        DataError: the prompt leaves no room.
    """
    if why := misfit(prompt.tokens, length, prompt.tail):
        raise DataError(why)
    tokens = (*prompt.tokens, *[prompt.tail] * (length - len(prompt.tokens)))
    return Row(
        id=sample_id(prompt),
        canvas=tuple(mask_id if t == HOLE else t for t in tokens),
        fixed=tuple(t != HOLE for t in tokens),
        label=prompt.label,
        trace=trace,
        seed=seed,
    )


def misfit(tokens: Sequence[int], length: int, tail: int = HOLE) -> str:
    """Why a prompt cannot begin a row of so many positions; empty where it can.

    Args:
        tail: see ``Prompt``.
    """
    if (len(tokens) < length and HOLE in (*tokens, tail)) or (len(tokens) == length and HOLE in tokens):
        return ""
    if tail != HOLE and HOLE not in tokens:
        return "A template of texts alone was given, which leaves nothing to write. Put a number of positions between them."
    return (
        f"A prompt of {len(tokens)} tokens, {str(list(tokens))[:60]}, was given for rows of {length} positions, which "
        f"leaves none to write. Shorten it, or use a model trained on longer rows."
    )


def read_tokens(tokenizer: Tokenizer, pieces: Sequence[str | int]) -> tuple[int, ...]:
    """Texts and numbers of holes as a prompt's tokens. Raises DataError where there are more holes than any row has."""
    holes = sum(p for p in pieces if isinstance(p, int))
    if holes > MAX_LENGTH:
        raise DataError(f"A template of {holes} positions to write was given; no row has more than {MAX_LENGTH}. Lower them.")
    texts = iter(tokenizer.encode_batch([p for p in pieces if isinstance(p, str)]))
    return tuple(t for p in pieces for t in ([HOLE] * p if isinstance(p, int) else next(texts)))


def sample_id(prompt: Prompt) -> int:
    """A 63-bit id of a prompt's tokens, label and occurrence, and of the sample's index."""
    label = None if prompt.label is None else f"{prompt.label:.17g}"  # a class is named without a point
    content = f"{','.join(map(str, prompt.tokens))}|{label}|{prompt.index}"
    content += f"|{prompt.occurrence}" if prompt.occurrence else ""
    return int.from_bytes(hashlib.blake2b(content.encode(), digest_size=8).digest(), "big") >> 1


def text_tokens(row: Row, tokens: Sequence[int], end_id: int) -> list[int]:
    """What a finished row says behind its prompt. An end token ends a text, but not before what a template fixed."""
    first = num_leading(row)
    found = list(tokens[first:])
    return [t for t in found if t != end_id] if any(row.fixed[first:]) else found


def num_leading(row: Row) -> int:
    """Fixed positions at the start of a row: its prompt, without what a template fixes further on."""
    return next((i for i, fixed in enumerate(row.fixed) if not fixed), len(row.fixed))


def given_by(row: Row) -> tuple[int, ...]:
    """Positions that a template fixed behind the prompt, with those behind its end."""
    first = num_leading(row)
    return tuple(i for i, fixed in enumerate(row.fixed) if fixed and i >= first)
