"""Everything that can be named in a configuration, as plain values and as the tables of the documentation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from components.data.corpora import CORPORA
from components.diffusion.config import NOISES
from components.objectives import OBJECTIVES
from components.options import describe
from components.plugins import Card, Family
from components.samplers import PARTS, PRESETS, needs, preset
from components.scorers import SCORERS


def catalogue() -> dict[str, Any]:
    """Families of plug-ins by name."""
    return {
        "samplers": {name: named_sampler(name) for name in PRESETS},
        "parts": {field: entries(family) for field, family in PARTS.items()},
        "objectives": entries(OBJECTIVES),
        "scorers": entries(SCORERS),
        "schedules": entries(NOISES),
        "corpora": entries(CORPORA),
    }


def entries(family: Family[Any]) -> dict[str, Any]:
    return {name: entry(card) for name, card in family.items()}


def entry(card: type[Card]) -> dict[str, Any]:
    """One plug-in with its options, their defaults and what they mean."""
    options = {o.name: {"default": o.default, "values": o.kind, "meaning": o.text} for o in describe(card)}
    return {"summary": card.summary(), "paper": card.paper, "options": options}


def named_sampler(name: str) -> dict[str, Any]:
    config, named = preset(name), PRESETS[name]
    parts = {field: part.name for field, part in config.parts().items()}
    options: Mapping[str, Any] = named.options
    return {
        "summary": named.summary,
        "paper": named.paper,
        "needs": list(needs(config)),
        "parts": parts,
        "options": dict(options),
    }
