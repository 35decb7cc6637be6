"""Plain values become options: the one parser of the house.

Plain values are validated as JSON, whose lists may be tuples and whose whole numbers may be floats; nothing else is
coerced.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError

from components.errors import ConfigError, Problem
from components.options.classes import as_plain, validate
from components.options.messages import problem_of

T = TypeVar("T")


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
            problems += [problem_of(kind, plain, path, e) for e in found if not is_told_below(e, found)]
            rest = without(plain, [tuple(e["loc"]) for e in found])
            lost = any(e["type"] == "missing_argument" or (e["type"] == "missing" and len(e["loc"]) == 1) for e in found)
            if lost or rest == plain:
                raise ConfigError(problems) from None  # there is no default to go on with
            plain = rest
    return validate(kind, {})


def is_told_below(error: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> bool:
    """A list whose one entry is wrong is said to be too short, too, which nobody could mend."""
    end = len(error["loc"])
    return any(len(e["loc"]) > end and e["loc"][:end] == error["loc"] for e in others)


def plain_of(options: Any) -> Any:
    """Options as plain values, from which ``parse`` makes them again."""
    return json.loads(json.dumps(options, default=as_plain))


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
