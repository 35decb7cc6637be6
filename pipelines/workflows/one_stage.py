"""Workflows of one stage, for folders that are there already: samples of a model, scores of samples.

They are stages like any other: tracked, resumable, made once, on any executor and device.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from cluster.config import RuntimeConfig
from components.data.prompts import PromptsConfig, Wanted
from components.errors import ConfigError, CorruptArtifact, ModelError, StoreError
from components.models.weights import MODEL_FILES, read_info, row_length, version_of
from components.samplers import SamplerConfig
from components.samplers.needs import check_needs
from components.scorers.config import ScorerOptions, reads_model
from components.store.artifact import MANIFEST, read_manifest, require_unchanged
from components.store.files import exists
from components.store.names import file_name
from pipelines.config.schema import GenerateConfig
from pipelines.graph.stage import Given, Stage
from pipelines.stages.spec import GenerateSpec, PromptsSpec, ScoreSpec, stage_of

HERE = RuntimeConfig()


def given_model(folder: Path) -> Given:
    """A model: of a run, by the key of its export and unchanged since, or imported, named by its content.

    Raises:
        ModelError: the folder is not one.
        CorruptArtifact: it was changed since it was exported.
    """
    lost = [name for name in MODEL_FILES if not exists(folder / name)]
    if lost:
        raise ModelError(
            f"{folder} holds no {lost[0]}, so it is no exported model. "
            f"Give the folder that the export stage made (`proseco show RUN --json` names it)."
        )
    manifest, version = require_unchanged(folder), version_of(folder)
    ours = manifest is not None and manifest.key == version
    return Given(manifest.label if manifest is not None and ours else folder.name, version, folder)


def given_samples(folder: Path) -> Given:
    """Finished samples, unchanged since.

    Raises:
        StoreError: the folder holds none.
        CorruptArtifact: they were changed since they were made.
    """
    manifest = read_manifest(folder)
    if manifest is None or manifest.stage != "generate":
        raise StoreError(
            f"{folder} holds no finished samples (no manifest of a generate stage). Give the folder that "
            f"`proseco generate` names, or that of a run's generate stage."
        )
    shards = manifest.info.get("shards")
    if not isinstance(shards, list):
        raise CorruptArtifact(
            f"{folder / MANIFEST} names no shards: it was changed. Run `proseco gc --corrupt --delete`, then its run again."
        )
    for name in shards:
        file_name(name, folder / MANIFEST)
    require_unchanged(folder)
    return Given(manifest.label, manifest.key, folder, manifest.info)


def model_of_samples(samples: Path) -> Path:
    """The export that samples were made of, where it lies in the same root.

    Raises:
        ConfigError: it does not.
    """
    manifest = read_manifest(samples)
    key = manifest.inputs.get("model", "") if manifest is not None else ""
    folder = samples.absolute().parent.parent / "export" / file_name(key, samples / MANIFEST)
    if not exists(folder):
        raise ConfigError(
            f"Which model should score {samples}? The one that made them, {key}, is not in the same root. Give --model FOLDER."
        )
    return folder


def read_file(prompts: PromptsConfig, wanted: Wanted, model: Given, length: int) -> Stage:
    """The stage that reads a user's file for a model. Raises DataError where there is no such file."""
    info = read_info(model.place)
    classes, values = int(info.get("num_classes", 0)), bool(info.get("value_range"))
    config = PromptsSpec(prompts, wanted, row_length(info, length), classes, values, prompts.content())
    name = os.path.basename(prompts.path.rstrip("/"))
    return stage_of("prompts", f"prompts/{name}", config, {"model": model})


def sampling(
    model: Path,
    sampler: SamplerConfig,
    generate: GenerateConfig,
    prompts: PromptsConfig | None = None,
    length: int = 0,
    allow_untrained: bool = False,
    scorers: Mapping[str, ScorerOptions] = MappingProxyType({}),
    runtime: RuntimeConfig = HERE,
) -> Stage:
    """The stage that samples a model, and below it the one that reads the prompts.

    Args:
        runtime: decides the dtype, and nothing else of the result.
        prompts: what is continued; None samples from nothing.
        length: positions of a row; 0 is the trained length.
        scorers: columns that are made along.
    Raises:
        ModelError: the folder is no model.
        SamplingError: the model lacks what the sampler needs.
        DataError: there are no prompts.
        ConfigError: a scorer needs what a command cannot give, or the model has fewer positions.
    """
    given = given_model(model)
    info = read_info(model)
    check_needs(sampler, info, allow_untrained)
    require_plain(scorers)
    inputs: dict[str, Stage | Given] = {"model": given}
    if prompts is not None:
        inputs["prompts"] = read_file(prompts, "prompts", given, length)
    dtype = runtime.dtype_of(info.get("trained_precision", "fp32"))
    config = GenerateSpec(sampler, generate, row_length(info, length), None, scorers, dtype)
    return stage_of("generate", f"generate/{sampler.preset}", config, inputs)


def require_plain(scorers: Mapping[str, ScorerOptions]) -> None:
    """Raises ConfigError where a scorer needs what only a run has."""
    for name, scorer in scorers.items():
        if scorer.reads_rules or scorer.trains:
            lack = "the rules of a corpus" if scorer.reads_rules else "training on a corpus"
            raise ConfigError(f"The scorer {name!r} needs {lack}, so only a run has it. Drop it from --scorers.")


def scoring_texts(
    texts: PromptsConfig, model: Path, scorers: Mapping[str, ScorerOptions], runtime: RuntimeConfig = HERE
) -> Stage:
    """The stage that scores the texts of a file, and below it the one that reads them.

    Raises:
        ModelError: the folder is no model.
        DataError: there is no such file.
        ConfigError: a scorer needs what a command cannot give.
    """
    given = given_model(model)
    read = read_file(texts, "texts", given, 0)
    return score_stage(read.label.removeprefix("prompts/"), {"samples": read, "model": given}, model, scorers, runtime)


def scoring(
    samples: Path, model: Path | None, scorers: Mapping[str, ScorerOptions], runtime: RuntimeConfig = HERE
) -> Stage:
    """The stage that scores samples; with the model that made them where no other is given.

    Raises:
        StoreError: the folder holds no finished samples.
        ConfigError: a scorer needs what a command cannot give.
    """
    given = given_samples(samples)
    folder = model or model_of_samples(samples)
    inputs: dict[str, Stage | Given] = {"samples": given, "model": given_model(folder)}
    return score_stage(given.label.removeprefix("generate/"), inputs, folder, scorers, runtime)


def score_stage(
    name: str,
    inputs: Mapping[str, Stage | Given],
    model: Path,
    scorers: Mapping[str, ScorerOptions],
    runtime: RuntimeConfig,
) -> Stage:
    require_plain(scorers)
    dtype = runtime.dtype_of(read_info(model).get("trained_precision", "fp32"))
    config = ScoreSpec(scorers, None, dtype if reads_model(scorers) else "float32")
    return stage_of("score", f"score/{name}", config, inputs)
