"""Bytes from outside become plain values here, within limits, so that whatever stands behind need not ask again.

What is refused is a ValueError with the reason in words; who reads says which file or line it was, and what to do.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any

MAX_BYTES = 64 << 20
"""Of a JSON file of a root, such as a manifest."""
MAX_DOCUMENT_BYTES = 8 << 20
"""Of a document, a line or a prompt. A tokenizer takes about a hundred times as much memory as the text has."""
MAX_FIELDS_BYTES = 64 << 10
"""Of what a record of prompts says besides its prompt, which comes back with every sample of it."""
MAX_RUN_BYTES = 256 << 10
"""Of a YAML file or an override."""
MAX_DEPTH = 64
"""Mappings and lists inside one another."""
MAX_RUN_DEPTH = 32
"""The same, in YAML."""
MAX_LENGTH = 1 << 20
"""Positions of a row, and so ticks in which it is written."""
MAX_DIGITS = 19
"""Of whole numbers in requests; a seed has as many."""
MAX_ROWS = 10**9
"""Of a table of samples. Ids have 63 bits, and among more rows two would likely share one."""
MAX_SHARDS = 100_000
"""Of a table. Its manifest names and digests each, is read as a whole, and must stay below MAX_BYTES."""
MAX_BITS = 256
"""Of whole numbers in YAML, which has ways to write longer ones than Python can show."""


def decoded(raw: bytes) -> str:
    """Strict UTF-8. Raises ValueError."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}") from None


def from_json(text: str | bytes, levels: int = MAX_DEPTH, **numbers: Any) -> Any:
    """What JSON says. Raises ValueError where it is none, or is nested too deeply.

    Args:
        numbers: readers of numbers, as ``json.loads`` has them.
    """
    text = decoded(text) if isinstance(text, bytes) else text
    try:
        found = json.loads(text, **numbers)
    except json.JSONDecodeError as error:
        raise ValueError(f"broken JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise too_deep(levels) from None
    require_flat(found, levels)
    return found


def from_request(raw: bytes, levels: int) -> Any:
    """What JSON of a stranger says, without what JSON has no way to write, but Python reads: numbers that are not finite, or
    longer than any that is meant, and half characters. Raises ValueError."""
    found = from_json(raw, levels, parse_constant=not_finite, parse_float=finite, parse_int=short)
    require_text(json.dumps(found, ensure_ascii=False))
    return found


def require_flat(plain: Any, levels: int) -> None:
    """Raises ValueError where mappings and lists stand inside one another too deeply."""
    level = [plain]
    for _ in range(levels):
        level = [inner for value in level for inner in below(value) if isinstance(inner, dict | list)]
        if not level:
            return
    raise too_deep(levels)


def too_deep(levels: int) -> ValueError:
    return ValueError(f"it is nested too deeply; at most {levels} levels are read")


def not_finite(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON; write a finite one")


def finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is too large for a number; write a finite one")
    return value


def short(text: str) -> int:
    if len(text) > MAX_DIGITS + 1:
        raise ValueError(f"a whole number has {len(text)} digits; it may have {MAX_DIGITS}")
    return int(text)


def require_numbers(plain: Any) -> None:
    """Raises ValueError where a whole number is too long to be shown, let alone meant."""
    if isinstance(plain, int) and plain.bit_length() > MAX_BITS:
        raise ValueError(f"a whole number has more than {MAX_BITS} bits")
    for value in below(plain):
        require_numbers(value)


def below(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def as_json(value: Any) -> Any:
    """A value of a record as JSON has it: what JSON has no way to write becomes its text, such as a date, and what is no
    text or number either, such as the bytes of a picture or NaN, nothing."""
    if isinstance(value, dict):
        return {str(name): as_json(below) for name, below in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(below) for below in value]
    if isinstance(value, bytes) or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value if value is None or isinstance(value, str | int | float) else str(value)


def require_text(text: str) -> None:
    """Raises ValueError where a text holds half a character (a lone surrogate), which has no bytes in UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"no Unicode text: {error.reason} at {error.start}") from None


def printable(text: str) -> str:
    """A text that can be written down, with ``\\\\ud800`` for half a character."""
    return text.encode("utf-8", "backslashreplace").decode()
