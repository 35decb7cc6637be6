"""Ways to score samples: numbers for every row. This list names them all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from components.options import Reads, json_schema, malformed
from components.plugins import Family
from components.scorers import config as c

SCORERS: Family[c.ScorerOptions] = Family(
    "scorer",
    c.ScorerOptions,
    c.ValidityConfig,
    c.NelboConfig,
    c.LocalizationConfig,
    c.NgramConfig,
    c.MoleculeConfig,
    c.EntropyConfig,
    c.DistinctConfig,
)

ByName = dict[str, Annotated[c.ScorerOptions, SCORERS.slot()]]


def named(value: Any) -> tuple[Any, Any]:
    """A mapping of scorers' names to their options, or a list of names."""
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        value = dict.fromkeys(value)
    if not isinstance(value, Mapping) or not all(o is None or isinstance(o, Mapping) for o in value.values()):
        raise malformed("a mapping of scorers to their options", f"e.g. {{entropy: {{}}}}; known: {', '.join(SCORERS)}")
    return ByName, {str(n): {"name": str(n), **(o or {})} for n, o in value.items()}


def named_schema() -> dict[str, Any]:
    """The JSON Schema of scorers by name, or of a list of names."""
    own = {name: {"anyOf": [{"type": "null"}, json_schema(card)]} for name, card in SCORERS.items()}
    sections = {"type": "object", "properties": own, "additionalProperties": False}
    return {"anyOf": [sections, {"type": "array", "items": {"enum": list(SCORERS)}}]}


Scorers = Annotated[ByName, Reads(named, named_schema)]
"""A field that holds several scorers by name."""

__all__ = ["SCORERS", "Scorers"]
