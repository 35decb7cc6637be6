"""Options: frozen, typed and bounded values, and the one door through which plain values become options.

A run's YAML, the command line, the Python API and HTTP all come in here, so that a wrong name, type or value
gets the same message everywhere, with path, value, rule and remedy. pydantic does the typing: strict, unknown
names forbidden, bounds beside each field. Plain values are validated as JSON, whose lists may be tuples and whose
whole numbers may be floats, and nothing else is coerced.
"""

from components.options.classes import (
    MAX_WHOLE,
    Count,
    Location,
    Natural,
    NonNegative,
    Positive,
    Reads,
    Seed,
    Share,
    adapter,
    malformed,
    not_in,
    options,
    validate,
)
from components.options.describe import describe, json_schema
from components.options.messages import nearest
from components.options.parse import collect, parse, plain_of
from components.options.walk import identifying

__all__ = [
    "MAX_WHOLE",
    "Count",
    "Location",
    "Natural",
    "NonNegative",
    "Positive",
    "Reads",
    "Seed",
    "Share",
    "adapter",
    "collect",
    "describe",
    "identifying",
    "json_schema",
    "malformed",
    "nearest",
    "not_in",
    "options",
    "parse",
    "plain_of",
    "validate",
]
