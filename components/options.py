"""Options: frozen, typed and bounded values, and the one door through which plain values become options.

A run's YAML, the command line, the Python API and HTTP all come in here, so that a wrong name, type or value
gets the same message everywhere, with path, value, rule and remedy. pydantic does the typing: strict, unknown
names forbidden, bounds beside each field. Plain values are validated as JSON, whose lists may be tuples and whose
whole numbers may be floats, and nothing else is coerced.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import json
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, Protocol, TypeVar, dataclass_transform

import pydantic
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from components.errors import ConfigError, Problem

T = TypeVar("T")

Natural = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Share = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field, Field))
def options(cls: type[T]) -> type[T]:
    """A frozen dataclass whose fields are checked whenever one is made, by a parser or in code."""
    config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
    checked: Any = pydantic.dataclasses.dataclass(frozen=True, config=config)(cls)
    return checked  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Reads:
    """Annotates a field that has short forms: ``prepare`` gives the type to read, and the full plain value.

    ``schema`` gives the JSON schema of all forms. Objects that are options already are kept as they are.
    """

    prepare: Callable[[Any], tuple[Any, Any]]
    schema: Callable[[], JsonSchemaValue]

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        def read(value: Any) -> Any:
            if dataclasses.is_dataclass(value) or has_objects(value):
                return value
            kind, plain = self.prepare(value)
            return validate(kind, plain)

        return core_schema.no_info_plain_validator_function(read)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: Any) -> JsonSchemaValue:
        return self.schema()

    # What is called again and again must be found in a cache, so the annotation is its own key.
    __hash__ = object.__hash__


@typing.runtime_checkable
class Named(Protocol):
    """Options that a plain section chooses by name."""

    name: ClassVar[str]


def has_objects(value: Any) -> bool:
    """A mapping of options by name, as code makes one."""
    return isinstance(value, Mapping) and any(dataclasses.is_dataclass(v) for v in value.values())


def not_in(known: Sequence[str], name: object, path: str = "") -> PydanticCustomError:
    """The error for a name that is not among those known; to be raised by ``Reads.prepare``."""
    return PydanticCustomError("unknown_name", "unknown", {"known": list(known), "name": name, "at": path})


def malformed(rule: str, remedy: str) -> PydanticCustomError:
    """The error for a value of the wrong form; to be raised by ``Reads.prepare``."""
    return PydanticCustomError("malformed", "malformed", {"rule": rule, "remedy": remedy})


@cache
def adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def validate(kind: Any, plain: Any) -> Any:
    """``plain`` as ``kind``. Raises pydantic's ValidationError."""
    return adapter(kind).validate_json(json.dumps(plain, default=as_plain))


def as_plain(value: Any) -> Any:
    """Options inside plain values as plain values; of anything else, what it looks like."""
    if not dataclasses.is_dataclass(value):
        return str(value)
    plain = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    return {"name": value.name, **plain} if isinstance(value, Named) else plain


def parse(kind: type[T], plain: Any, path: str = "") -> T:
    """Plain values as options.

    Raises:
        ConfigError: with everything that does not fit.
    """
    problems: list[Problem] = []
    found = collect(kind, plain, path, problems)
    if problems:
        raise ConfigError(problems)
    return found


def collect(kind: Any, plain: Any, path: str, problems: list[Problem]) -> Any:
    """The same, but what does not fit goes to ``problems`` and is left at its default, so that rules
    between options can be checked as well.

    Raises:
        ConfigError: something is not given that has no default.
    """
    for _ in range(MAX_PASSES):
        try:
            return validate(kind, plain)
        except ValidationError as error:
            found = error.errors(include_url=False)
            problems += [problem_of(kind, plain, path, e) for e in found]
            if any(e["type"] == "missing_argument" for e in found):
                raise ConfigError(problems) from None  # there is no default to go on with
            plain = without(plain, [tuple(e["loc"]) for e in found])
    return validate(kind, {})


MAX_PASSES = 8
"""A value that is dropped can bring to light at most a few levels of further ones."""


def without(plain: Any, places: list[tuple[int | str, ...]]) -> Any:
    """A copy of nested values without those at the given places; of a list, the whole list goes."""
    copied = json.loads(json.dumps(plain, default=as_plain))
    for place in places:
        at, parents = copied, []
        for step in place:
            parents.append((at, step))
            at = at.get(step) if isinstance(at, dict) else None
            if at is None:
                break
        # The deepest mapping that really holds the name loses it: short forms have no place of their own.
        for holder, step in reversed(parents):
            if isinstance(holder, dict) and step in holder:
                del holder[step]
                break
        else:
            return {}
    return copied


# --- errors in words --------------------------------------------------------------------------------


def problem_of(kind: Any, plain: Any, path: str, error: Mapping[str, Any]) -> Problem:
    """One of pydantic's errors as a problem with rule and remedy."""
    place = tuple(error["loc"])
    context = error.get("ctx", {})
    if error["type"] == "unknown_name":
        place, known = (*place, *([context["at"]] if context["at"] else [])), context["known"]
        return Problem(
            dotted(path, place), context["name"], f"one of {', '.join(known)}", nearest(context["name"], known)
        )
    if error["type"] == "malformed":
        return Problem(dotted(path, place), error["input"], context["rule"], context["remedy"])
    if error["type"] == "unexpected_keyword_argument":
        known = names_of(owner(kind, plain, place[:-1]))
        return Problem(
            dotted(path, place), error["input"], f"one of {', '.join(known)}", nearest(place[-1], known, "remove it")
        )
    if error["type"] == "literal_error":
        known = [str(x) for x in literals(field_type(owner(kind, plain, place[:-1]), place[-1]))]
        return Problem(
            dotted(path, place), error["input"], f"one of {', '.join(known)}", nearest(error["input"], known)
        )
    if error["type"] in BOUNDS:
        rule, remedy = interval(field_type(owner(kind, plain, place[:-1]), place[-1])), "write such a number"
    else:
        rule, remedy = RULES.get(error["type"], fallback)(context, error)
    default = default_of(kind, plain, place)
    remedy = f"{remedy}; the default is {default}" if default else remedy
    return Problem(dotted(path, place), error["input"], rule, remedy)


def fallback(context: Mapping[str, Any], error: Mapping[str, Any]) -> tuple[str, str]:
    return str(error["msg"]).removeprefix("Input should be "), "change it"


def of_type(rule: str, remedy: str) -> Callable[[Mapping[str, Any], Mapping[str, Any]], tuple[str, str]]:
    return lambda context, error: (f"{rule}, not {kind_of(error['input'])}", remedy)


BOUNDS = frozenset({"greater_than_equal", "greater_than", "less_than_equal", "less_than"})
RULES: dict[str, Callable[[Mapping[str, Any], Mapping[str, Any]], tuple[str, str]]] = {
    "finite_number": lambda context, error: ("a finite number", "write a number"),
    "int_type": of_type("a whole number", "write a number without a point"),
    "int_from_float": of_type("a whole number", "write a number without a point"),
    "float_type": of_type("a number", "write a number"),
    "bool_type": of_type("true or false", "write true or false"),
    "string_type": of_type("a text", "put it into quotes"),
    "string_pattern_mismatch": lambda context, error: ("letters, digits, - _ .", "rename it"),
    "string_too_long": lambda context, error: (f"at most {context['max_length']} characters", "shorten it"),
    "too_short": lambda context, error: (f"at least {context['min_length']} of them", "add one"),
    "missing_argument": lambda context, error: ("it must be given", "add it"),
    "tuple_type": of_type("a list", "write it in [brackets]"),
    "dict_type": of_type("a mapping", "write name: value below it"),
    "dataclass_type": of_type("a section with options", "write name: value below it"),
}


def kind_of(value: Any) -> str:
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", list: "a list"}
    return "nothing" if value is None else names.get(type(value), "a mapping")


def interval(kind: Any) -> str:
    """The bounds of an annotated number, in words."""
    found = {word: getattr(m, word) for m in constraints(kind) for word in ("ge", "gt", "le", "lt") if hasattr(m, word)}
    low = found.get("ge", found.get("gt"))
    high = found.get("le", found.get("lt"))
    if high is None:
        return f"at least {low:g}" if "ge" in found else f"more than {low:g}"
    if low is None:
        return f"at most {high:g}" if "le" in found else f"less than {high:g}"
    return f"in {'[' if 'ge' in found else '('}{low:g}, {high:g}{']' if 'le' in found else ')'}"


def nearest(name: object, known: Sequence[str], otherwise: str = "choose one of them") -> str:
    near = difflib.get_close_matches(str(name), known, 1)
    return f"did you mean {near[0]}?" if near else otherwise


def dotted(path: str, place: tuple[int | str, ...]) -> str:
    for step in place:
        path = f"{path}[{step}]" if isinstance(step, int) else f"{path}.{step}" if path else str(step)
    return path


# --- walking along the types ------------------------------------------------------------------------


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


def constraints(kind: Any) -> list[Any]:
    """Bounds that annotate a type, or one of the types that it is made of."""
    found = [c for m in getattr(kind, "__metadata__", ()) if isinstance(m, FieldInfo) for c in m.metadata]
    return found + [c for a in typing.get_args(kind) if not isinstance(a, FieldInfo) for c in constraints(a)]


def markers(kind: Any) -> list[Reads]:
    return [m for m in getattr(kind, "__metadata__", ()) if isinstance(m, Reads)]


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


def default_of(kind: Any, plain: Any, place: tuple[int | str, ...]) -> str:
    """The default of the field at a place, where it is a plain one."""
    if not place:
        return ""
    holder = owner(kind, plain, place[:-1])
    fields = {f.name: f.default for f in dataclasses.fields(holder)} if dataclasses.is_dataclass(holder) else {}
    default = fields.get(str(place[-1]), dataclasses.MISSING)
    return repr(default) if isinstance(default, int | float | str) and default != "" else ""


# --- descriptions -----------------------------------------------------------------------------------


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
    return f"{named} {interval(kind)}" if bare(kind) in (int, float) and constraints(kind) else named


@cache
def docstrings(kind: type) -> dict[str, str]:
    """Field name to the string literal that follows it, over the class and what it inherits."""
    import ast
    import textwrap

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
    return inlined(schema, schema.pop("$defs", {}))


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
