"""Plug-ins: a family is a list of options classes, and an options class is the identity card of its plug-in.

The card names the code (imported only when the plug-in is used, so listing and planning need no torch), the paper,
what the plug-in needs of a model and what it fits with; nothing about it is written anywhere else. Each family
lists its own cards in one place; other distributions add theirs by an entry point of the group
``proseco.plugins`` that names a tuple of cards (see ``docs/extending.md``).
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, ClassVar, Generic, TypeVar

from pydantic.json_schema import JsonSchemaValue

from components.errors import ConfigError
from components.options import Reads, json_schema, malformed, nearest, not_in, options

GROUP = "proseco.plugins"


@options
class Card:
    """What every plug-in says of itself."""

    name: ClassVar[str] = ""
    """How a configuration names it."""
    code: ClassVar[str] = ""
    """Where the code is: ``"package.module:attribute"``, called with these options first."""
    paper: ClassVar[str] = ""

    @classmethod
    def summary(cls) -> str:
        """The first line of the class's own docstring."""
        return (inspect.getdoc(cls) or "").partition("\n")[0].rstrip(".")

    def load(self) -> Any:
        """Import and return the code."""
        return locate(self.code)


C = TypeVar("C", bound=Card)


def locate(code: str) -> Any:
    """The object at ``"package.module:attribute"``."""
    module, attribute = code.split(":")
    return getattr(importlib.import_module(module), attribute)


class Family(Mapping[str, type[C]], Generic[C]):
    """The cards of one kind by name: ours in the order given, then those of other distributions."""

    def __init__(self, kind: str, base: type[C], *own: type[C]):
        self.kind, self.base = kind, base
        self.own = {card.name: card for card in own}

    @property
    def cards(self) -> dict[str, type[C]]:
        """All of them. Raises ConfigError where two have one name."""
        found = dict(self.own)
        for card in foreign_cards():
            if issubclass(card, self.base) and found.setdefault(card.name, card) is not card:
                raise ConfigError(
                    f"{card.__module__}.{card.__qualname__} names itself {card.name!r}, and there is another "
                    f"{self.kind} of that name. Rename it, or uninstall its distribution."
                )
        return found

    def __getitem__(self, name: str) -> type[C]:
        return self.cards[name]

    def find(self, name: str) -> type[C]:
        """The card of that name. Raises ConfigError, with the nearest name, where there is none."""
        card: type[C] = lookup(self.cards, name, self.kind)
        return card

    def __iter__(self) -> Iterator[str]:
        return iter(self.cards)

    def __len__(self) -> int:
        return len(self.cards)

    def slot(self) -> Reads:
        """Annotates a field that holds the options of any of these. Plain, it is a name, or a section with
        ``name`` and that plug-in's options."""
        return Reads(self.choose, self.json_schema, self)

    def choose(self, value: Any) -> tuple[type[C], dict[str, Any]]:
        """The card that a plain section names, and its options."""
        section = {"name": value} if isinstance(value, str) else value
        if not isinstance(section, Mapping) or not isinstance(section.get("name"), str):
            raise malformed(f"a section with the name of a {self.kind}", f"name: one of {', '.join(self)}")
        name = section["name"]
        if name not in self.cards:
            raise not_in(list(self), name, "name")
        return self.cards[name], {k: v for k, v in section.items() if k != "name"}

    def json_schema(self) -> JsonSchemaValue:
        forms: list[JsonSchemaValue] = [{"enum": list(self)}]
        for name, card in self.items():
            schema = json_schema(card)
            schema["properties"] = {"name": {"const": name}, **schema.get("properties", {})}
            forms.append(schema | {"description": card.summary()})
        return {"anyOf": forms}


@lru_cache(maxsize=1)
def foreign_cards() -> tuple[type[Card], ...]:
    """The cards of other distributions. Raises ConfigError where an entry point does not hold them."""
    found: list[type[Card]] = []
    for entry in importlib.metadata.entry_points(group=GROUP):
        try:
            cards = tuple(entry.load())
        except (ImportError, AttributeError, TypeError) as error:
            raise ConfigError(
                f"The entry point {entry.name} = {entry.value} of the group {GROUP} cannot be loaded: {error}. "
                f"It must name a tuple of options classes. Mend that distribution, or uninstall it."
            ) from error
        wrong = [card for card in cards if not (isinstance(card, type) and issubclass(card, Card))]
        if wrong:
            raise ConfigError(
                f"The entry point {entry.name} = {entry.value} of the group {GROUP} holds {wrong[0]!r}, which is no "
                f"subclass of components.plugins.Card. Mend that distribution, or uninstall it."
            )
        found += cards
    return tuple(found)


def lookup(family: Mapping[str, Any], name: str, kind: str) -> Any:
    """``family[name]``, or an error that offers the nearest names.

    Raises:
        ConfigError: there is no such name.
    """
    if name in family:
        return family[name]
    raise ConfigError(f"There is no {kind} named {name!r}; {nearest(name, list(family))} Known: {', '.join(family)}.")
