"""Everything that can be named in a configuration, as plain values."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from components.data import CORPORA
from components.objectives import OBJECTIVES
from components.plugins import Plugin
from components.samplers import PARTS, PRESETS, configured, part_name
from components.scorers import SCORERS
from components.store.fingerprint import canonical


def catalogue() -> dict[str, Any]:
    """Families of plug-ins by name."""
    noise = {
        "log_linear": {
            "summary": "alpha(t) = 1 - t; the weight is 1/t",
            "paper": "MDLM, arXiv 2406.07524",
            "needs": [],
            "options": {},
        },
        "cosine": {
            "summary": "alpha(t) = 1 - cos(pi (1 - t) / 2)",
            "paper": "MaskGIT, arXiv 2202.04200",
            "needs": [],
            "options": {},
        },
    }
    return {
        "samplers": {name: preset(name, plugin) for name, plugin in PRESETS.items()},
        "parts": {family: entries(plugins) for family, plugins in PARTS.items()},
        "objectives": entries(OBJECTIVES),
        "scorers": entries(SCORERS),
        "schedules": noise,
        "corpora": entries(CORPORA),
    }


def entries(plugins: Mapping[str, Plugin]) -> dict[str, Any]:
    return {
        name: {"summary": p.summary, "paper": p.paper, "needs": list(p.needs), "options": defaults(p.config)}
        for name, p in plugins.items()
    }


def defaults(config: type) -> dict[str, Any]:
    """Option names with their defaults."""
    assert dataclasses.is_dataclass(config)
    found: dict[str, Any] = canonical(config())
    found.pop("type")
    return found


def preset(name: str, plugin: Plugin) -> dict[str, Any]:
    config = configured(name, dict(plugin.defaults))
    parts = {family: part_name(family, getattr(config, family)) for family in PARTS}
    return {
        "summary": plugin.summary,
        "paper": plugin.paper,
        "needs": list(plugin.needs),
        "parts": parts,
        "options": canonical(dict(plugin.defaults)),
    }
