"""Options classes, the bounds that fields are given, and fields with short forms."""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, ClassVar, Protocol, TypeVar, dataclass_transform

import pydantic
from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

T = TypeVar("T")

MAX_WHOLE = 2**31 - 1
"""The largest whole number where an option does not say another: more is a slip, and would only be noticed late."""

Natural = Annotated[int, Field(ge=0, le=MAX_WHOLE)]
Count = Annotated[int, Field(ge=1, le=MAX_WHOLE)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Share = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]


@dataclass(frozen=True)
class Place:
    """Annotates a field that says where something lies. It is no part of an identity: what lies there is."""


Location = Annotated[str, Place()]


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
    choices: Mapping[str, type] | None = None
    """The classes by the names that a plain section chooses among, where it does."""

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
