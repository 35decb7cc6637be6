"""pydantic's errors as problems: path, value, rule and remedy."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from components.errors import Problem
from components.options.walk import bounds, default_of, dotted, interval, literals, names_of, own, owner, type_at


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
        known = [str(x) for x in literals(type_at(kind, plain, place))]
        return Problem(
            dotted(path, place), error["input"], f"one of {', '.join(known)}", nearest(error["input"], known)
        )
    if error["type"] in BOUNDS:
        found = bounds(type_at(kind, plain, place))
        rule = interval(found if error["type"].startswith("less_than") else own(found))
        remedy = "write such a number"
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
    "missing": lambda context, error: ("it must be given", "add it"),
    "tuple_type": of_type("a list", "write it in [brackets]"),
    "dict_type": of_type("a mapping", "write name: value below it"),
    "dataclass_type": of_type("a section with options", "write name: value below it"),
}


def kind_of(value: Any) -> str:
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", list: "a list"}
    return "nothing" if value is None else names.get(type(value), "a mapping")


def nearest(name: object, known: Sequence[str], otherwise: str = "choose one of them") -> str:
    near = difflib.get_close_matches(str(name), known, 1)
    return f"did you mean {near[0]}?" if near else otherwise
