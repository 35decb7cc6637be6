"""Walking along the types of options, as plain values choose them."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Literal

from pydantic.fields import FieldInfo

from components.options.classes import MAX_WHOLE, Place, Reads


def owner(kind: Any, plain: Any, place: tuple[int | str, ...]) -> Any:
    """The type at a place below ``kind``, as ``plain`` chose it."""
    for marker in markers(kind):
        kind, plain = marker.prepare(plain)
    kind = bare(kind)
    if not place:
        return kind
    step, rest = place[0], place[1:]
    below = plain.get(step) if isinstance(plain, Mapping) else None
    return owner(field_type(kind, step), below, rest)


def field_type(kind: Any, step: int | str) -> Any:
    """The annotation of one field, or of the values of a mapping or a list."""
    if dataclasses.is_dataclass(kind):
        fields: dict[str, Any] = hints(kind)  # type: ignore[arg-type]
        return fields.get(str(step), Any)
    arguments = typing.get_args(bare(kind))
    return arguments[-1] if typing.get_origin(bare(kind)) is dict else arguments[0] if arguments else Any


@cache
def hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind, include_extras=True)


@cache
def identifying(kind: type) -> tuple[str, ...]:
    """Names of the fields that say what a value is, and not where something lies."""
    found = hints(kind)
    return tuple(
        f.name
        for f in dataclasses.fields(kind)  # type: ignore[arg-type]
        if not any(isinstance(m, Place) for m in metadata(found[f.name]))
    )


def metadata(kind: Any) -> tuple[Any, ...]:
    """What annotates a type."""
    return getattr(kind, "__metadata__", ())


def constraints(kind: Any) -> list[Any]:
    """Bounds that annotate a type, or one of the types that it is made of."""
    found = [c for m in metadata(kind) if isinstance(m, FieldInfo) for c in m.metadata]
    return found + [c for a in typing.get_args(kind) if not isinstance(a, FieldInfo) for c in constraints(a)]


def markers(kind: Any) -> list[Reads]:
    return [m for m in metadata(kind) if isinstance(m, Reads)]


def bare(kind: Any) -> Any:
    """Without annotations and without "or nothing"."""
    if typing.get_origin(kind) is Annotated:
        return bare(typing.get_args(kind)[0])
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        return bare(next(a for a in typing.get_args(kind) if a is not type(None)))
    return kind


def literals(kind: Any) -> tuple[Any, ...]:
    return typing.get_args(bare(kind)) if typing.get_origin(bare(kind)) is Literal else ()


def names_of(kind: Any) -> list[str]:
    return sorted(f.name for f in dataclasses.fields(kind)) if dataclasses.is_dataclass(kind) else []


def type_at(kind: Any, plain: Any, place: tuple[int | str, ...]) -> Any:
    """The type of the field at a place, or of the field that holds it, such as a list."""
    for end in range(len(place), 0, -1):
        holder = owner(kind, plain, place[: end - 1])
        if str(place[end - 1]) in names_of(holder):
            return field_type(holder, place[end - 1])
    return Any


def default_of(kind: Any, plain: Any, place: tuple[int | str, ...]) -> str:
    """The default of the field at a place, where it is a plain one."""
    if not place:
        return ""
    holder = owner(kind, plain, place[:-1])
    fields = {f.name: f.default for f in dataclasses.fields(holder)} if dataclasses.is_dataclass(holder) else {}
    default = fields.get(str(place[-1]), dataclasses.MISSING)
    return repr(default) if isinstance(default, int | float | str) and default != "" else ""


def bounds(kind: Any) -> dict[str, float]:
    """The bounds of an annotated number, by ``ge``, ``gt``, ``le`` and ``lt``."""
    return {word: getattr(m, word) for m in constraints(kind) for word in ("ge", "gt", "le", "lt") if hasattr(m, word)}


def own(found: Mapping[str, float]) -> dict[str, float]:
    """Bounds without the one that all whole numbers have."""
    return {word: bound for word, bound in found.items() if bound != MAX_WHOLE}


def interval(found: Mapping[str, float]) -> str:
    """Bounds in words."""
    # Whole numbers are shown to the last digit: a value that is one too large must not look like the bound.
    shown = {word: str(bound) if isinstance(bound, int) else f"{bound:g}" for word, bound in found.items()}
    low, high = shown.get("ge", shown.get("gt")), shown.get("le", shown.get("lt"))
    if high is None:
        return f"at least {low}" if "ge" in found else f"more than {low}"
    if low is None:
        return f"at most {high}" if "le" in found else f"less than {high}"
    return f"in {'[' if 'ge' in found else '('}{low}, {high}{']' if 'le' in found else ')'}"


def dotted(path: str, place: tuple[int | str, ...]) -> str:
    for step in place:
        path = f"{path}[{step}]" if isinstance(step, int) else f"{path}.{step}" if path else str(step)
    return path
