"""Every option below a type by its path, and what people mean by a path that they remember in part."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from components.options.describe import Description, describe
from components.options.walk import bare, hints, markers

NAME = "NAME"
"""Stands in a path for a name that whoever writes it gives."""


@dataclass(frozen=True)
class Place:
    """Where an option stands."""

    path: str
    option: Description
    holder: type
    """The class that it is an option of."""
    choice: str = ""
    """How a section chooses that class, where there are others; empty where there are none."""


def every_option(kind: Any, path: str = "", choice: str = "") -> Iterator[Place]:
    """All options below a type, each section before what is in it."""
    chosen = [m.choices for m in markers(kind) if m.choices is not None]
    plain = bare(kind)
    if typing.get_origin(plain) is dict:
        yield from every_option(typing.get_args(plain)[1], f"{path}.{NAME}")
    elif chosen:
        for name, card in chosen[0].items():
            yield from options_in(card, path, name)
    elif dataclasses.is_dataclass(plain):
        yield from options_in(plain, path, choice)  # type: ignore[arg-type]


def options_in(holder: type, path: str, choice: str) -> Iterator[Place]:
    """The options of a class, and those below them."""
    for option in describe(holder):
        place = f"{path}.{option.name}".removeprefix(".")
        yield Place(place, option, holder, choice)
        yield from every_option(hints(holder)[option.name], place, choice)


def meant(places: Iterable[Place], asked: str) -> list[Place]:
    """The places at a path, or else those whose path ends so. Names that one gives oneself may be any."""
    wanted = asked.strip(".").split(".")
    places = list(places)
    whole = [p for p in places if fits(p.path.split("."), wanted)]
    return whole or [p for p in places if fits(p.path.split(".")[-len(wanted) :], wanted)]


def fits(path: list[str], wanted: list[str]) -> bool:
    return len(path) == len(wanted) and all(a in (NAME, b) for a, b in zip(path, wanted, strict=True))


def below(places: Iterable[Place], section: str) -> list[Place]:
    """The options of the sections at a path, without those further down."""
    wanted = section.strip(".").split(".")
    return [p for p in places if fits(p.path.split(".")[:-1], wanted)]
