"""Options for people and for editors: what their docstrings say, and their JSON Schema."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import textwrap
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic.json_schema import JsonSchemaValue

from components.options.classes import adapter
from components.options.walk import bare, bounds, hints, interval, literals, own


@dataclass(frozen=True)
class Description:
    """One option, for people."""

    name: str
    kind: str
    default: str
    text: str


def describe(kind: type) -> Iterator[Description]:
    """The options of a class with the docstrings that stand under them in its source."""
    texts = docstrings(kind)
    defaults = kind()
    for f in dataclasses.fields(kind):
        value = getattr(defaults, f.name)
        shown = f"{type(value).__name__}" if dataclasses.is_dataclass(value) else json.dumps(value, default=str)
        yield Description(f.name, name_of(hints(kind)[f.name]), shown, texts.get(f.name, ""))


def name_of(kind: Any) -> str:
    """A type in words."""
    if choices := literals(kind):
        return ", ".join(map(str, choices))
    words = {int: "whole number", float: "number", str: "text", bool: "true or false"}
    named = words.get(bare(kind), "list" if typing.get_origin(bare(kind)) is tuple else "section")
    limits = own(bounds(kind))
    return f"{named} {interval(limits)}" if bare(kind) in (int, float) and limits else named


@cache
def docstrings(kind: type) -> dict[str, str]:
    """Field name to the string literal that follows it, over the class and what it inherits."""
    found: dict[str, str] = {}
    for cls in reversed(kind.__mro__[:-1]):
        body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, text in zip(body.body, body.body[1:], strict=False):
            literal = isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and literal:
                found[field.target.id] = inspect.cleandoc(str(text.value.value))  # type: ignore[attr-defined]
    return found


def json_schema(kind: Any) -> JsonSchemaValue:
    """The JSON Schema of a type, for editors. Nothing in it refers to anything, so it can stand inside another."""
    schema = adapter(kind).json_schema()
    schema = inlined(schema, schema.pop("$defs", {}))
    add_descriptions(schema, kind)
    return schema


def add_descriptions(schema: dict[str, Any], kind: Any) -> None:
    """Put the docstrings of fields, and of the options inside them, into a schema of a type."""
    kind = bare(kind)
    if typing.get_origin(kind) is dict:
        below = [schema.get("additionalProperties"), *schema.get("patternProperties", {}).values()]
        for inner in filter(lambda s: isinstance(s, dict), below):
            add_descriptions(inner, typing.get_args(kind)[1])
    if not dataclasses.is_dataclass(kind):
        return
    options: Any = kind
    for name, field in schema.get("properties", {}).items():  # of a field with short forms, each form has its own
        if name in hints(options):
            field["description"] = " ".join(docstrings(options).get(name, "").split())
            add_descriptions(field, hints(options)[name])


def inlined(schema: Any, definitions: Mapping[str, Any]) -> Any:
    """A schema with what it refers to in place."""
    if isinstance(schema, list):
        return [inlined(below, definitions) for below in schema]
    if not isinstance(schema, dict):
        return schema
    whole = {name: inlined(below, definitions) for name, below in schema.items() if name != "$ref"}
    if "$ref" in schema:
        whole |= inlined(definitions[schema["$ref"].removeprefix("#/$defs/")], definitions)
    return whole
