"""Plain values to frozen dataclasses. What does not fit is collected, not raised one by one."""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

from components.data import CORPORA
from components.errors import Problem
from components.objectives import OBJECTIVES
from components.plugins import Plugin
from components.samplers import PARTS, PRESETS, SamplerConfig, changed, configured
from components.scorers import SCORERS


def typed(kind: Any, value: Any, path: str, problems: list[Problem]) -> Any:
    """``value`` as the dataclass ``kind``; what does not fit goes to ``problems`` and is left at its default."""
    if not isinstance(value, Mapping):
        problems.append(Problem(path, value, f"a section with the fields of {kind.__name__}", "write a mapping"))
        return kind()
    hints = typing.get_type_hints(kind)
    known = {f.name for f in dataclasses.fields(kind)}
    found = {}
    for name, given in value.items():
        below = f"{path}.{name}" if path else str(name)
        if name not in known:
            problems.append(unknown(below, str(name), given, known))
        elif (special := SPECIAL.get((kind.__name__, str(name)))) is not None:
            found[name] = special(given, below, problems)
        else:
            found[str(name)] = convert(hints[name], given, below, problems)
    return kind(**found)


def unknown(path: str, name: str, given: Any, known: set[str]) -> Problem:
    near = difflib.get_close_matches(name, known, 1)
    remedy = f"did you mean {near[0]}?" if near else "remove it"
    return Problem(path, given, f"one of {', '.join(sorted(known))}", remedy)


def convert(kind: Any, value: Any, path: str, problems: list[Problem]) -> Any:
    """One value as one type. Nothing is coerced but an int to a float."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return typed(kind, value, path, problems)
    if origin is Literal:
        if value not in arguments or type(value) is not type(next(a for a in arguments if a == value)):
            near = difflib.get_close_matches(str(value), [str(a) for a in arguments], 1)
            remedy = f"did you mean {near[0]}?" if near else "choose one of them"
            problems.append(Problem(path, value, f"one of {', '.join(map(str, arguments))}", remedy))
            return arguments[0]
        return value
    if origin is dict:
        if not isinstance(value, Mapping):
            problems.append(Problem(path, value, "a mapping of names to sections", "write a mapping"))
            return {}
        return {str(k): convert(arguments[1], v, f"{path}.{k}", problems) for k, v in value.items()}
    if origin is tuple:
        return convert_tuple(arguments, value, path, problems)
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        return convert(next(a for a in arguments if a is not type(None)), value, path, problems)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        remedy = "put it into quotes" if kind is str else f"write a {kind.__name__}"
        problems.append(Problem(path, value, f"a {kind.__name__}, not a {type(value).__name__}", remedy))
        return kind()
    if kind is float and not math.isfinite(value):
        problems.append(Problem(path, value, "a finite number", "write a number"))
        return 0.0
    return value


def convert_tuple(arguments: tuple[Any, ...], value: Any, path: str, problems: list[Problem]) -> tuple[Any, ...]:
    if not isinstance(value, list):
        value = [value]
    if arguments[-1] is not Ellipsis and len(value) != len(arguments):
        problems.append(Problem(path, value, f"{len(arguments)} values", "write a list of that length"))
        return tuple(a() for a in arguments)
    return tuple(convert(arguments[0], v, f"{path}[{i}]", problems) for i, v in enumerate(value))


def plugin(family: Mapping[str, Plugin], value: Any, path: str, problems: list[Problem], default: str = "") -> Any:
    """A section whose ``name`` chooses a plug-in and whose other fields are its options."""
    if isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, Mapping) or not isinstance(value.get("name", default or None), str):
        problems.append(Problem(path, value, "a section with a name", f"name: one of {', '.join(family)}"))
        return next(iter(family.values())).config()
    name = value.get("name", default)
    if name not in family:
        near = difflib.get_close_matches(name, family, 1)
        remedy = f"did you mean {near[0]}?" if near else "choose one of them"
        problems.append(Problem(f"{path}.name", name, f"one of {', '.join(family)}", remedy))
        return next(iter(family.values())).config()
    options = {k: v for k, v in value.items() if k != "name"}
    return typed(family[name].config, options, path, problems)


def sampler(value: Any, path: str, problems: list[Problem]) -> SamplerConfig:
    """A preset's options with the run's own over them."""
    if isinstance(value, str):
        value = {"preset": value}
    if not isinstance(value, Mapping):
        problems.append(Problem(path, value, "a section", "preset: one of " + ", ".join(PRESETS)))
        return SamplerConfig()
    preset = value.get("preset", "mdlm")
    if preset not in PRESETS:
        near = difflib.get_close_matches(str(preset), PRESETS, 1)
        remedy = f"did you mean {near[0]}?" if near else "choose one of them"
        problems.append(Problem(f"{path}.preset", preset, f"one of {', '.join(PRESETS)}", remedy))
        return SamplerConfig()
    base = configured(preset, dict(PRESETS[preset].defaults))
    given = changed(preset, {str(k): v for k, v in value.items() if k != "preset"})
    found = {f: plugin(PARTS[f], given.pop(f), f"{path}.{f}", problems) for f in PARTS if f in given}
    rest = typed(SamplerConfig, given, path, problems)
    found |= {name: getattr(rest, name) for name in given if hasattr(rest, name)}
    return dataclasses.replace(base, **found)


def scorers(value: Any, path: str, problems: list[Problem]) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        problems.append(
            Problem(path, value, "a mapping of scorers", f"e.g. {{entropy: {{}}}}; known: {', '.join(SCORERS)}")
        )
        return {}
    return {str(n): plugin(SCORERS, {"name": str(n), **(o or {})}, f"{path}.{n}", problems) for n, o in value.items()}


SPECIAL: dict[tuple[str, str], Any] = {
    ("CorpusConfig", "source"): lambda v, p, found: plugin(CORPORA, v, p, found),
    ("TrainConfig", "objective"): lambda v, p, found: plugin(OBJECTIVES, v, p, found),
    ("SamplingConfig", "sampler"): sampler,
    ("RunConfig", "scorers"): scorers,
}
