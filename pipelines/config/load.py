"""The configuration of a run: YAML by OmegaConf, then typed, then checked as a whole.

Files come first, overrides last. Every problem is collected, so that one message names them all,
with path, value, rule and remedy. There is no code in YAML: the only interpolation is ``${...}`` of
other values of the same file.
"""

from __future__ import annotations

import dataclasses
import difflib
import io
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

import yaml
from omegaconf import OmegaConf
from omegaconf.basecontainer import BaseContainer
from omegaconf.errors import OmegaConfBaseException

from components.errors import ConfigError, Problem
from components.options import collect, nearest
from components.outside import MAX_RUN_BYTES, MAX_RUN_DEPTH, decoded, require_numbers, require_text
from pipelines.config import rules
from pipelines.config.nightly import NightlyConfig
from pipelines.config.schema import Comparison, RunConfig

Run = RunConfig | Comparison | NightlyConfig


def load_run(path: Path, overrides: list[str]) -> Run:
    """Read, type and check a run.

    Raises:
        ConfigError: with everything that is wrong.
    """
    raw = dated(read_yaml(path))
    plain = resolved(raw, dotted(overrides), f"{path} with overrides {overrides}")
    workflow = plain.pop("workflow", RunConfig.workflow)
    if not isinstance(workflow, str) or workflow not in READERS:
        known = list(READERS)
        raise ConfigError([Problem("workflow", workflow, f"one of {', '.join(known)}", nearest(workflow, known))])
    problems: list[Problem] = []
    run = READERS[workflow]({"name": path.stem, **plain}, path, problems)
    if problems:
        raise ConfigError(problems)
    return run


def dated(raw: dict[str, Any]) -> dict[str, Any]:
    """A nightly run that names no date is that of today, in UTC."""
    return {"date": datetime.now(UTC).date().isoformat(), **raw} if raw.get("workflow") == NightlyConfig.workflow else raw


def one_run(plain: dict[Any, Any], path: Path, problems: list[Problem], below: str = "") -> RunConfig:
    """A run typed and checked; what is wrong goes to ``problems`` under the path ``below``."""
    found: list[Problem] = []
    run: RunConfig = collect(RunConfig, with_files(plain, path.parent), "", found)
    # What did not fit stands at its default now, so rules about it would only confuse.
    wrong = [problem.path for problem in found]
    found += [p for p in rules.problems(run) if not any(related(p.path, path) for path in wrong)]
    problems += [dataclasses.replace(p, path=f"{below}{p.path}") for p in found]
    return run


def related(one: str, other: str) -> bool:
    """Is one of two paths below the other?"""
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")


def comparison(plain: dict[Any, Any], path: Path, problems: list[Problem]) -> Comparison:
    """Each task is what all have in common with its own sections over it."""
    own = ("tasks", "seeds", "one_seed")
    common = {k: v for k, v in plain.items() if k not in own}
    given = plain.get("tasks")
    given = sections_in(given, "tasks", problems) if isinstance(given, dict) else {}
    tasks = {n: one_run(over(common, c), path, problems, f"tasks.{n}.") for n, c in given.items()}
    head = {k: v for k, v in plain.items() if k in ("name", "seeds", "one_seed", "runtime")}
    made: Comparison = collect(Comparison, head, "", problems)
    if not tasks:
        problems.append(
            Problem("tasks", plain.get("tasks"), "at least one task", "e.g. tasks: {sudoku: {corpora: ...}}")
        )
    unknown = [n for n in made.one_seed if any(n not in t.train for t in tasks.values())]
    if unknown:
        problems.append(Problem("one_seed", unknown, "trainings of every task", "name trainings"))
    return dataclasses.replace(made, tasks=tasks)


def sections_in(plain: dict[Any, Any], path: str, problems: list[Problem]) -> dict[str, dict[Any, Any]]:
    """The values that are mappings or nothing; what is something else goes to ``problems``."""
    for name, value in plain.items():
        if value is not None and not isinstance(value, dict):
            problems.append(Problem(f"{path}.{name}" if path else str(name), value, "a section with options", "write name: value below it"))
    return {str(name): value or {} for name, value in plain.items() if value is None or isinstance(value, dict)}


def nightly(plain: dict[Any, Any], path: Path, problems: list[Problem]) -> NightlyConfig:
    """The sections of a run stand at the top; ``warm`` is what changes where there is a champion to start from."""
    own = {f.name for f in dataclasses.fields(NightlyConfig)} - {"name", "runtime"}
    given = sections_in({k: v for k, v in plain.items() if k in ("run", "warm")}, "", problems)
    sections = given.get("run") or {k: v for k, v in plain.items() if k not in own}
    run = one_run(sections, path, problems)
    warm = one_run(over(sections, given.get("warm", {})), path, [] if problems else problems, "warm.")
    head = {k: v for k, v in plain.items() if k in own | {"name", "runtime"} and k not in ("run", "warm")}
    found: list[Problem] = []
    made = dataclasses.replace(collect(NightlyConfig, head, "", found), run=run, warm=warm)
    problems += found or ([] if problems else made.problems())
    return made


NAMES = re.compile(r"[^.\[\]\s]+(\.[^.\[\]\s]+|\[[^.\[\]\s]+\])*")
"""Of nested values, as ``a.b`` or ``a[0].b``."""

READERS: dict[str, Callable[[dict[Any, Any], Path, list[Problem]], Run]] = {
    RunConfig.workflow: one_run,
    Comparison.workflow: comparison,
    NightlyConfig.workflow: nightly,
}
"""How the YAML of each workflow is read, by its field ``workflow``."""


def read_yaml(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A YAML file over the one that it ``extends``, if any.

    Args:
        above: files that extend this one.
    """
    if path.resolve() in above:
        raise ConfigError(f"{path} extends itself, by way of {len(above)} files. Take out one `extends`.")
    if not is_there(path):
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.yaml")], 1)
        hint = f" Did you mean {path.parent / near[0]}?" if near else ""
        raise ConfigError(f"{path} does not exist.{hint} A run is a YAML file such as configs/runs/demo.yaml.")
    try:
        if not path.is_file():
            raise ValueError("it is no file")
        with path.open("rb") as file:
            plain = from_yaml(file.read(MAX_RUN_BYTES + 1))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}. A run is a YAML file such as configs/runs/demo.yaml.") from error
    if "extends" in plain:
        below = read_yaml(path.parent / str(plain.pop("extends")), (*above, path.resolve()))
        plain = merged(below, plain, f"{path} over what it extends", resolve=False)
    return plain


def is_there(path: Path) -> bool:
    """Is there a file or folder of that name? A name that no file system takes is that of none."""
    try:
        return path.exists()
    except OSError:
        return False


def from_yaml(raw: bytes) -> dict[str, Any]:
    """The mapping that YAML holds, ``{}`` where it holds nothing. Raises ValueError where it is none, or breaks a limit."""
    text = within_limits(raw)
    try:
        plain: Any = OmegaConf.to_container(OmegaConf.load(io.StringIO(text)), resolve=False)
    except yaml.YAMLError as error:
        raise ValueError(f"it is not YAML: {error}") from None
    except OmegaConfBaseException as error:
        raise ValueError(first_line(error)) from None
    require_numbers(plain)
    if plain and not isinstance(plain, dict):
        raise ValueError("it holds no mapping")
    return plain or {}


def within_limits(raw: bytes) -> str:
    """The text of YAML that is neither too long nor nested too deeply to be read. Raises ValueError."""
    if len(raw) > MAX_RUN_BYTES:
        raise ValueError(f"it is longer than {MAX_RUN_BYTES >> 10} KiB")
    text, depth = decoded(raw), 0
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_RUN_DEPTH:
                raise ValueError(f"it is nested too deeply; at most {MAX_RUN_DEPTH} levels are read")
    except yaml.YAMLError as error:
        raise ValueError(f"it is not YAML: {error}") from None
    return text


def with_files(plain: dict[Any, Any], folder: Path) -> dict[Any, Any]:
    """The run with every sampler and training that names a YAML file read in.

    A sampler is then a path; a training is a path, or has a field ``file`` under its own fields. Files are
    looked for beside the run, then from the working directory.
    """

    def read(name: str) -> dict[str, Any]:
        return read_yaml(folder / name if (folder / name).exists() else Path(name))

    def is_file(value: Any) -> bool:
        return isinstance(value, str) and value.endswith((".yaml", ".yml"))

    found = dict(plain)
    if isinstance(samplers := plain.get("samplers"), dict):
        found["samplers"] = {
            n: {**s, "sampler": read(s["sampler"])} if isinstance(s, dict) and is_file(s.get("sampler")) else s
            for n, s in samplers.items()
        }
    if isinstance(trainings := plain.get("train"), dict):
        found["train"] = {n: read(t) if is_file(t) else t for n, t in trainings.items()}
        for name, training in found["train"].items():
            if isinstance(training, dict) and is_file(training.get("file")):
                own = {k: v for k, v in training.items() if k != "file"}
                found["train"][name] = over(read(training["file"]), own)
    return found


def dotted(overrides: list[str]) -> dict[str, Any]:
    """``a.b=1`` as nested mappings.

    Raises:
        ConfigError: one of them is no override.
    """
    found: dict[str, Any] = {}
    for override in overrides:
        name, given, value = override.partition("=")
        try:
            if not given or not NAMES.fullmatch(name) or name.count(".") >= MAX_RUN_DEPTH:
                raise ValueError("it names no value")
            require_text(override)
            within_limits(value.encode())
            own: Any = OmegaConf.to_container(OmegaConf.from_dotlist([override]))
            require_numbers(own)
        except (ValueError, OmegaConfBaseException, yaml.YAMLError) as error:
            raise ConfigError(
                f"{override[:100]!r} is no override: {first_line(error)}. Write path.to.value=new, e.g. runtime.root=/data/runs."
            ) from None
        found = merged(found, own, f"overrides {overrides}", resolve=False)
    return found


def over(base: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """Nested options over nested options."""
    return resolved(base, options, "a section")  # type: ignore[no-any-return]


def resolved(base: Any, options: Any, where: str) -> Any:
    """One over the other, with ``${...}`` as the value that it names.

    Raises:
        ConfigError: they do not go together, or there is no such value.
    """
    return merged(base, options, where, resolve=True)


def merged(base: Any, options: Any, where: str, resolve: bool) -> Any:
    """One over the other.

    OmegaConf's resolvers are switched off: a run of somebody else could read what stands in the environment, such as
    secrets, into a name or an address.

    Raises:
        ConfigError: they do not go together, or there is no such value.
    """
    if problem := clash(base, options):
        raise ConfigError([problem])
    try:
        with patch.object(BaseContainer, "_resolvers", {}):
            return OmegaConf.to_container(OmegaConf.merge(OmegaConf.create(base), OmegaConf.create(options)), resolve=resolve)
    except (OmegaConfBaseException, TypeError) as error:
        raise ConfigError(
            f"{where[:200]}: {first_line(error)}. ${{...}} names another value of the run, and nothing else."
        ) from error


def clash(base: Any, options: Any, path: str = "") -> Problem | None:
    """The first place at which a list stands over a section or a section over a list, which have nothing to merge."""
    if not isinstance(base, dict) or not isinstance(options, dict):
        return None
    for name, value in options.items():
        here, below = f"{path}.{name}" if path else str(name), base.get(name)
        if isinstance(below, dict) and isinstance(value, list):
            return Problem(here, value, "a section with options, not a list", "write name: value below it")
        if isinstance(below, list) and isinstance(value, dict):
            return Problem(here, value, "a list, not a section", "write it in [brackets]")
        if found := clash(below, value, here):
            return found
    return None


def first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
