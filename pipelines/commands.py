"""The commands that run one stage: their options read, the stage made or found, its results in words."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cluster.config import RuntimeConfig
from components.data.prompts import PromptsConfig
from components.errors import ConfigError
from components.options import parse
from components.plugins import lookup
from components.samplers import PRESETS, SamplerConfig, read_sampler
from components.scorers import Scorers
from components.store.artifact import IDENTITY, MANIFEST, read_manifest
from components.store.files import at, exists
from components.store.samples import read_shard, shard_file
from pipelines.config.load import dotted, over, read_yaml
from pipelines.config.schema import GenerateConfig
from pipelines.graph.progress import Screen
from pipelines.graph.runner import execute
from pipelines.graph.stage import Stage
from pipelines.stages.spec import PAGE
from pipelines.workflows import one_stage

BATCH_ROWS = 512
"""Rows of a shard where a command says nothing: large, so that what a shard costs besides its rows is little."""


def named_sampler(name: str, changes: dict[str, Any]) -> SamplerConfig:
    """A preset, or a sampler's YAML file, with changes.

    Raises:
        ConfigError: an option is unknown or wrong.
    """
    if name.endswith((".yaml", ".yml")):
        return read_sampler(over(read_yaml(Path(name)), changes))
    lookup(PRESETS, name, "sampler preset")
    return read_sampler(over({"preset": name}, changes))


def runtime_of(root: str, device: str, dtype: str, plain: Any) -> RuntimeConfig:
    """Where a command computes: its own options, and those of ``runtime.`` over them.

    Raises:
        ConfigError: an option is unknown or wrong.
    """
    config = parse(RuntimeConfig, {"root": root, "device": device, "dtype": dtype, **(plain or {})}, "runtime")
    if wrong := [dataclasses.replace(p, path=f"runtime.{p.path}") for p in config.problems()]:
        raise ConfigError(wrong)
    return config


def generate_of(plain: Any) -> GenerateConfig:
    """How many samples. Raises ConfigError where an option is unknown or wrong."""
    config = parse(GenerateConfig, plain, "generate")
    if wrong := [dataclasses.replace(p, path=f"generate.{p.path}") for p in config.problems()]:
        raise ConfigError(wrong)
    return config


def make(stage: Stage, config: RuntimeConfig) -> Path:
    """Run a stage, or find that it was made. Returns its folder."""
    screen = Screen()
    if all(f.state == "fresh" for f in execute(stage.label, [stage], config, screen)):
        screen.say("all of it was made before")
    return stage.folder(at(config.root))


def prompts_of(path: Path | None, plain: Any) -> PromptsConfig | None:
    """A user's file, with what the overrides say of its fields. Raises ConfigError where an option is wrong."""
    if path is None:
        return None
    return parse(PromptsConfig, {"path": str(path), **(plain or {})}, "prompts")


def generate(
    model: Path,
    overrides: list[str],
    sampler: str,
    root: str,
    num_samples: int,
    prompts: Path | None,
    seed: int,
    length: int,
    num_shown: int,
    scorers: str = "",
    device: str = "auto",
    dtype: str = "auto",
) -> Iterator[str]:
    """Make the samples and yield what to print. The same call resumes, or finds them made."""
    changes = dotted(overrides)
    runtime = runtime_of(root, device, dtype, changes.pop("runtime", None))
    allowed = bool(changes.pop("allow_untrained", False))
    asked = prompts_of(prompts, changes.pop("prompts", None))
    plain = {"num_samples": num_samples, "seeds": [seed], "num_traced": 0, "shard_rows": BATCH_ROWS}
    how = generate_of(plain | changes.pop("generate", {}))
    columns = parse(Scorers, [name for name in scorers.split(",") if name], "scorers")  # type: ignore[arg-type]
    config = named_sampler(sampler, changes)
    stage = one_stage.sampling(model, config, how, asked, length, allowed, columns, runtime)
    folder = make(stage, runtime)
    manifest = read_manifest(folder)
    assert manifest is not None
    info = manifest.info
    lost = f", {info['quarantined']} quarantined" if info["quarantined"] else ""
    yield f"{info['samples']} samples{lost} in {folder}, {info['calls']:.2f} network calls each on average"
    yield f"page: {folder / PAGE}"
    first = shard_file(folder / "shards", info["shards"][0])
    for row in read_shard(first, ["row_id", "prompt", "text"]).slice(0, num_shown).to_pylist():
        yield f"[{row['row_id']}] {row['prompt']}{row['text']}"


def score(
    samples: Path,
    model: Path | None,
    scorers: str,
    overrides: tuple[str, ...],
    root: str,
    device: str = "auto",
    dtype: str = "auto",
) -> dict[str, float]:
    """Score a folder of samples, or the texts of a file, and return the means.

    Raises:
        StoreError: the folder holds no finished samples.
        ConfigError: texts are scored by which model?
    """
    changes = dotted(list(overrides))
    runtime = runtime_of(root, device, dtype, changes.pop("runtime", None))
    fields = changes.pop("prompts", None)
    names = [name for name in scorers.split(",") if name]
    plain = {name: {} for name in names} | changes
    chosen = parse(Scorers, plain, "scorers")  # type: ignore[arg-type]
    if exists(samples / MANIFEST) or exists(samples / IDENTITY):
        stage = one_stage.scoring(samples, model, chosen, runtime)
    elif model is None:
        raise ConfigError(f"Which model should score the texts in {samples}? Give --model FOLDER.")
    else:
        texts = prompts_of(samples, fields)
        assert texts is not None
        stage = one_stage.scoring_texts(texts, model, chosen, runtime)
    manifest = read_manifest(make(stage, runtime))
    assert manifest is not None
    return dict(manifest.info["means"])
