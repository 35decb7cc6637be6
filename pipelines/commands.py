"""The commands that run one stage: their options read, the stage made or found, its results in words."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cluster.config import RuntimeConfig
from components.errors import ConfigError
from components.options import parse
from components.plugins import lookup
from components.samplers import PRESETS, SamplerConfig, read_sampler
from components.scorers import Scorers
from components.store.artifact import read_manifest
from components.store.files import at
from components.store.samples import read_shard, read_shards, shard_file
from pipelines.config.load import dotted, over, read_yaml
from pipelines.config.prompts import read_entries
from pipelines.config.schema import GenerateConfig
from pipelines.graph.progress import Screen
from pipelines.graph.runner import execute
from pipelines.graph.stage import Stage
from pipelines.workflows import one_stage


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


def make(stage: Stage, config: RuntimeConfig) -> Path:
    """Run a stage, or find that it was made. Returns its folder."""
    screen = Screen()
    if all(f.state == "fresh" for f in execute(stage.label, [stage], config, screen)):
        screen.say("all of it was made before")
    return stage.folder(at(config.root))


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
    device: str = "auto",
    dtype: str = "auto",
) -> Iterator[str]:
    """Make the samples and yield what to print. The same call resumes, or finds them made."""
    changes = dotted(overrides)
    runtime = runtime_of(root, device, dtype, changes.pop("runtime", None))
    allowed = bool(changes.pop("allow_untrained", False))
    config = named_sampler(sampler, changes)
    plain = {"num_samples": num_samples, "seeds": [seed], "num_traced": 0}
    how = parse(GenerateConfig, plain, "generate")
    stage = one_stage.sampling(model, config, how, read_entries(prompts), length, allowed, runtime)
    folder = make(stage, runtime)
    manifest = read_manifest(folder)
    assert manifest is not None
    shards = folder / "shards"
    calls = read_shards(shards, list(manifest.info["shards"]))["calls"].to_numpy().mean()
    yield f"{manifest.info['samples']} samples in {folder}, {calls:.2f} network calls each on average"
    for row in read_shard(shard_file(shards, manifest.info["shards"][0])).slice(0, num_shown).to_pylist():
        yield f"[{row['index']}] {row['prompt']}{row['text']}"


def score(
    samples: Path,
    model: Path | None,
    scorers: str,
    overrides: tuple[str, ...],
    root: str,
    device: str = "auto",
    dtype: str = "auto",
) -> dict[str, float]:
    """Score a folder of samples and return the means.

    Raises:
        StoreError: the folder holds no finished samples.
    """
    changes = dotted(list(overrides))
    runtime = runtime_of(root, device, dtype, changes.pop("runtime", None))
    names = [name for name in scorers.split(",") if name]
    plain = {name: {} for name in names} | changes
    chosen = parse(Scorers, plain, "scorers")  # type: ignore[arg-type]
    folder = make(one_stage.scoring(samples, model, chosen, runtime), runtime)
    manifest = read_manifest(folder)
    assert manifest is not None
    table = read_shards(folder / "shards", list(manifest.info["shards"]))
    columns = [n for n in table.column_names if n not in ("sample_id", "seed", "index")]
    return {n: float(np.mean(table[n].to_numpy())) for n in columns}
