"""The configuration of a run: YAML by OmegaConf, then typed, then judged as a whole.

Files come first, overrides last. Every problem is collected, so that one message names them all,
with path, value, rule and remedy. There is no code in YAML: the only interpolation is ``${...}`` of
other values of the same file.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from components.errors import ConfigError, Problem
from pipelines.rules import judge
from pipelines.schema import RunConfig
from pipelines.typed import typed


def load_run(path: Path, overrides: list[str]) -> RunConfig:
    """Read, type and judge a run.

    Raises:
        ConfigError: with everything that is wrong.
    """
    raw = read_yaml(path)
    try:
        merged = OmegaConf.merge(OmegaConf.create(raw), OmegaConf.create(dotted(overrides)))
        plain = OmegaConf.to_container(merged, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{path} with overrides {overrides}: {first_line(error)}") from error
    if not isinstance(plain, dict):
        raise ConfigError(f"{path} holds no mapping; a run is a mapping of sections such as corpora and train.")
    problems: list[Problem] = []
    run = typed(RunConfig, {"name": path.stem, **sampler_files(plain, path.parent)}, "", problems)
    if not problems:
        problems += judge(run)
    if problems:
        raise ConfigError(problems)
    return run  # type: ignore[no-any-return]


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file over the one that it ``extends``, if any."""
    if not path.exists():
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.yaml")], 1)
        hint = f" Did you mean {path.parent / near[0]}?" if near else ""
        raise ConfigError(f"{path} does not exist.{hint} A run is a YAML file such as configs/runs/demo.yaml.")
    try:
        own = OmegaConf.load(path)
        plain: Any = OmegaConf.to_container(own, resolve=False)
    except (OmegaConfBaseException, OSError, UnicodeDecodeError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    except Exception as error:  # YAML errors have no common base that OmegaConf promises
        if type(error).__module__.startswith("yaml"):
            raise ConfigError(f"{path} is not YAML: {error}") from error
        raise
    plain = plain or {}
    if isinstance(plain, dict) and "extends" in plain:
        below = read_yaml(path.parent / str(plain.pop("extends")))
        plain = OmegaConf.to_container(OmegaConf.merge(OmegaConf.create(below), OmegaConf.create(plain)), resolve=False)
    return plain  # type: ignore[no-any-return]


def sampler_files(plain: dict[Any, Any], folder: Path) -> dict[Any, Any]:
    """The run with every sampler that is named by a YAML file read in. Files are looked for beside the run,
    then from the working directory."""
    samplers = plain.get("samplers")
    if not isinstance(samplers, dict):
        return plain
    read = dict(samplers)
    for name, sampling in samplers.items():
        given = sampling.get("sampler") if isinstance(sampling, dict) else None
        if isinstance(given, str) and given.endswith((".yaml", ".yml")):
            path = folder / given if (folder / given).exists() else Path(given)
            read[name] = {**sampling, "sampler": read_yaml(path)}
    return {**plain, "samplers": read}


def dotted(overrides: list[str]) -> dict[str, Any]:
    """``a.b=1`` as nested mappings.

    Raises:
        ConfigError: one of them is no override.
    """
    wrong = [o for o in overrides if "=" not in o]
    if wrong:
        raise ConfigError(f"{wrong[0]!r} is no override. Write path.to.value=new, e.g. runtime.root=/data/runs.")
    found: dict[str, Any] = OmegaConf.to_container(OmegaConf.from_dotlist(overrides))  # type: ignore[assignment]
    return found


def over(base: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """Nested options over nested options."""
    merged = OmegaConf.merge(OmegaConf.create(base), OmegaConf.create(options))
    return OmegaConf.to_container(merged, resolve=True)  # type: ignore[return-value]


def first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
