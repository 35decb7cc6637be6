"""What an option means, by its path or the end of it: the options of runs, of nights and comparisons, and of prompt files."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import cache

from components.data.prompts import PromptsConfig
from components.errors import ConfigError
from components.options import nearest
from components.options.find import NAME, Place, below, every_option, meant
from components.plugins import Card
from pipelines.config.nightly import NightlyConfig
from pipelines.config.schema import Comparison, RunConfig


@cache
def all_options() -> tuple[Place, ...]:
    """Those of a run first; then what only other workflows and commands have."""
    found = {(p.path, p.choice): p for p in every_option(RunConfig)}
    for kind in (NightlyConfig, Comparison):
        own = {f.name for f in dataclasses.fields(kind)} - {"run", "warm", "tasks"}
        for place in every_option(kind):
            if place.path.split(".")[0] in own:
                found.setdefault((place.path, place.choice), place)
    found |= {(p.path, p.choice): p for p in every_option(PromptsConfig, "prompts")}
    return tuple(found.values())


def told(asked: str) -> Iterator[str]:
    """What is known of a path, or of every option that ends so, with the options of a section below it.

    Raises:
        ConfigError: there is none of that name.
    """
    places = all_options()
    if not asked:
        yield from (line for p in places if "." not in p.path for line in in_brief(p))
        return
    found = meant(places, asked)
    if not found:
        last = asked.rsplit(".", 1)[-1]
        names = sorted({p.path.rsplit(".", 1)[-1] for p in places} - {NAME})
        raise ConfigError(f"No option is called {asked!r}. {nearest(last, names)} `proseco options` names the sections.")
    for place in found:
        yield from in_full(place)
    paths = dict.fromkeys(p.path for p in found)
    for inner in (p for path in paths for section in (path, f"{path}.{NAME}") for p in below(places, section)):
        yield from in_brief(inner)


def in_full(place: Place) -> Iterator[str]:
    """Everything about one option."""
    option = place.option
    yield place.path
    yield f"    {option.kind}; default {option.default}"
    yield f"    {' '.join(option.text.split())}"
    if place.choice:
        paper = place.holder.paper if issubclass(place.holder, Card) else ""
        yield f"    of {place.choice}" + (f" ({paper})" if paper else "")
    yield ""


def in_brief(place: Place) -> Iterator[str]:
    """A line for a list."""
    chosen = f" ({place.choice})" if place.choice else ""
    yield f"{place.path}{chosen}: {place.option.kind}, default {place.option.default}. {' '.join(place.option.text.split())}"
