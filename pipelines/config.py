"""The configuration of a run: YAML by OmegaConf, then typed, then judged as a whole.

Files come first, overrides last. Every problem is collected, so that one message names them all,
with path, value, rule and remedy. There is no code in YAML: the only interpolation is ``${...}`` of
other values of the same file.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cluster.config import RuntimeConfig
from components.data import CORPORA
from components.data.config import CorpusConfig, RowsConfig, TokenizerConfig
from components.errors import ConfigError, Problem
from components.models.config import MODEL_PRESETS, ModelConfig
from components.objectives import OBJECTIVES, SUPERVISES_VISIBLE
from components.plugins import Plugin
from components.samplers import PARTS, PRESETS, SamplerConfig, needs
from components.scorers import SCORERS
from components.training.config import TrainConfig


@dataclass(frozen=True)
class SamplingConfig:
    """One sampler on one model, at one or several budgets."""

    model: str = ""
    """Name of the training whose export is sampled."""
    sampler: Any = field(default_factory=SamplerConfig)
    steps: tuple[int, ...] = ()
    """Budgets: the sampler is run once for each number of steps. Empty uses sampler.steps."""
    allow_untrained: bool = False
    """Run a sampler that the model was not trained for, as a control."""


@dataclass(frozen=True)
class GenerateConfig:
    """How many samples, and of what."""

    num_samples: int = 256
    """For each seed."""
    seeds: tuple[int, ...] = (0,)
    prompts: Literal["none", "validation", "test"] = "none"
    """Continue the prompts of that split, in order and again from the start, or nothing."""
    shard_rows: int = 256
    lanes: int = 64
    """Rows that share a forward. Part of the identity: the last bits of logits depend on it."""
    deterministic: bool = True
    num_traced: int = 4
    """Rows whose trajectory is kept, for the report."""

    def problems(self, path: str) -> list[Problem]:
        found = []
        for name in ("num_samples", "shard_rows", "lanes"):
            if getattr(self, name) < 1:
                found.append(Problem(f"{path}.{name}", getattr(self, name), "at least 1", "set it to 1 or more"))
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            found.append(Problem(f"{path}.seeds", self.seeds, "one or more different seeds", "e.g. [0, 1, 2]"))
        return found


@dataclass(frozen=True)
class RunConfig:
    """A whole run, from corpus to report."""

    name: str = ""
    corpora: dict[str, CorpusConfig] = field(default_factory=dict)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    rows: RowsConfig = field(default_factory=RowsConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: dict[str, TrainConfig] = field(default_factory=dict)
    generate: GenerateConfig = field(default_factory=GenerateConfig)
    samplers: dict[str, SamplingConfig] = field(default_factory=dict)
    scorers: dict[str, Any] = field(default_factory=dict)
    metric: str = ""
    """Column that the report ranks by; the first scorer's where empty."""
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)


METRICS: dict[str, tuple[str, bool]] = {
    "validity": ("valid", True),
    "judge": ("judge_nll", False),
    "nelbo": ("nelbo", False),
    "entropy": ("entropy", True),
    "distinct": ("distinct_2", True),
}
"""Main column of each scorer, and whether larger is better."""


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
    run = typed(RunConfig, {"name": path.stem, **plain}, "", problems)
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


def first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


# --- typing: plain values to frozen dataclasses --------------------------------------------------


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
    options: dict[str, Any] = {k: dict(v) for k, v in PRESETS[preset].defaults.items()}
    for name, given in value.items():
        if name in options and isinstance(given, Mapping):
            changes_part = "name" in given and given["name"] != options[name]["name"]
            options[name] = dict(given) if changes_part else options[name] | dict(given)
        elif name in PARTS and isinstance(given, str):
            options[name] = {"name": given}
        else:
            options[name] = given
    found: dict[str, Any] = {"preset": preset}
    for family in PARTS:
        found[family] = plugin(PARTS[family], options.pop(family), f"{path}.{family}", problems)
    options.pop("preset", None)
    rest = typed(SamplerConfig, options, path, problems)
    return dataclasses.replace(rest, **found)


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


# --- judging: rules inside sections and between them ---------------------------------------------


def judge(run: RunConfig) -> list[Problem]:
    """All broken rules of a typed run."""
    found = run.rows.problems("rows") + run.generate.problems("generate") + run.runtime.problems("runtime")
    for name, train in run.train.items():
        found += train.problems(f"train.{name}") + judge_training(run, name, train)
    found += judge_corpora(run) + judge_model(run)
    for name, sampling in run.samplers.items():
        found += judge_sampling(run, name, sampling)
    found += judge_scorers(run)
    if not run.name or not all(c.isalnum() or c in "-_." for c in run.name):
        found.append(Problem("name", run.name, "letters, digits, - _ .", "give the run such a name"))
    return found


def judge_corpora(run: RunConfig) -> list[Problem]:
    found = []
    if not run.corpora:
        found.append(
            Problem("corpora", {}, "at least one corpus", "e.g. corpora: {latin: {source: {name: latin_square}}}")
        )
    for name, corpus in run.corpora.items():
        path = f"corpora.{name}"
        if corpus.weight <= 0:
            found.append(Problem(f"{path}.weight", corpus.weight, "more than 0", "leave the corpus out instead"))
        shares = corpus.validation_share, corpus.test_share
        if min(shares) < 0 or sum(shares) >= 1:
            found.append(
                Problem(
                    f"{path}.validation_share",
                    shares,
                    "shares of 0 or more that leave something to train on",
                    "0.02 is usual",
                )
            )
        place = getattr(corpus.source, "path", None)
        if place == "" or getattr(corpus.source, "name", None) == "":
            found.append(
                Problem(f"{path}.source.{'path' if place == '' else 'name'}", "", "where the corpus is", "set it")
            )
        elif place and "$PROSECO_DATA" not in place and not Path(place).exists() and not any(c in place for c in "*?["):
            found.append(
                Problem(f"{path}.source.path", place, "a file, folder or glob that exists", f"look in {os.getcwd()}")
            )
    if run.tokenizer.kind == "file" and not Path(run.tokenizer.path).is_file():
        found.append(
            Problem(
                "tokenizer.path", run.tokenizer.path, "a tokenizer.json that exists", "set the path or another kind"
            )
        )
    return found


def judge_model(run: RunConfig) -> list[Problem]:
    model = run.model
    if model.preset not in MODEL_PRESETS:
        return [Problem("model.preset", model.preset, f"one of {', '.join(MODEL_PRESETS)}", "choose one of them")]
    found = []
    full = model.resolved()
    if full.heads < 1 or full.dim % full.heads or (full.dim // max(1, full.heads)) % 2:
        found.append(
            Problem(
                "model.heads", full.heads, f"divides dim ({full.dim}) into heads of even width", "change heads or dim"
            )
        )
    if 0 < model.num_positions < run.rows.length:
        found.append(
            Problem(
                "model.num_positions",
                model.num_positions,
                f"at least rows.length ({run.rows.length})",
                "raise it, or use 0",
            )
        )
    if not 0 <= model.dropout < 1:
        found.append(Problem("model.dropout", model.dropout, "in [0, 1)", "0 is usual"))
    return found


def judge_training(run: RunConfig, name: str, train: TrainConfig) -> list[Problem]:
    path, found = f"train.{name}", []
    seen, at = {name}, train.init_from
    while at:
        if at not in run.train:
            found.append(
                Problem(f"{path}.init_from", at, f"another training: {', '.join(run.train)}", "name one of them")
            )
            break
        if at in seen:
            found.append(
                Problem(f"{path}.init_from", train.init_from, "no training starts from itself", "break the circle")
            )
            break
        seen.add(at)
        at = run.train[at].init_from
    every = getattr(train.objective, "every", 1)
    workers = max(1, run.runtime.workers)  # zero of them is told elsewhere
    micro = run.runtime.micro_batch or -(-train.batch_rows // workers)
    if every > 1 and (micro % every or train.batch_rows % (workers * micro)):
        found.append(
            Problem(
                f"{path}.objective.every", every,
                f"divides the micro-batch ({micro}), and workers x micro-batch divides batch_rows ({train.batch_rows}), "
                "so that every process corrects equally many rows",
                "change every, runtime.micro_batch or batch_rows",
            )
        )  # fmt: skip
    if train.batch_rows < workers:
        found.append(
            Problem(f"{path}.batch_rows", train.batch_rows, f"at least one row a worker ({workers})", "raise it")
        )
    return found


def judge_sampling(run: RunConfig, name: str, sampling: SamplingConfig) -> list[Problem]:
    path = f"samplers.{name}"
    if sampling.model not in run.train:
        return [Problem(f"{path}.model", sampling.model, f"a training: {', '.join(run.train)}", "name one of them")]
    found = []
    for budget in budgets(sampling):
        found += budget.problems(f"{path}.sampler")
    objective = run.train[sampling.model].objective
    trained = next(n for n, p in OBJECTIVES.items() if p.config is type(objective))
    if (
        "visible_supervision" in needs(sampling.sampler)
        and trained not in SUPERVISES_VISIBLE
        and not sampling.allow_untrained
    ):
        found.append(
            Problem(
                f"{path}.sampler.corrector", type(sampling.sampler.corrector).__name__,
                f"a corrector that replaces tokens needs a model that was trained at visible positions; "
                f"{sampling.model!r} was trained with {trained}",
                f"sample a model trained with {' or '.join(sorted(SUPERVISES_VISIBLE))}, or set allow_untrained=true for a control",
            )
        )  # fmt: skip
    return found


def judge_scorers(run: RunConfig) -> list[Problem]:
    found = []
    for name in run.scorers:
        if name == "validity" and run.corpora:
            source = next(iter(run.corpora.values())).source
            kind = next(n for n, p in CORPORA.items() if p.config is type(source))
            if kind not in ("latin_square", "sudoku", "coding", "addition"):
                found.append(Problem("scorers.validity", kind, "the first corpus has rules", "drop the scorer"))
    if run.metric and run.metric not in run.scorers:
        found.append(Problem("metric", run.metric, f"one of the run's scorers: {', '.join(run.scorers)}", "name one"))
    if run.samplers and not run.scorers:
        found.append(Problem("scorers", {}, "at least one, to compare samplers by", "e.g. scorers: {entropy: {}}"))
    return found


def budgets(sampling: SamplingConfig) -> list[SamplerConfig]:
    """The sampler once for each of its budgets."""
    if not sampling.steps:
        return [sampling.sampler]
    return [dataclasses.replace(sampling.sampler, steps=steps) for steps in sampling.steps]
