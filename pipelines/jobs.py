"""Jobs outside a workflow: sample or score a folder, with the same shards, receipts and replicas."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cluster.api import open_cluster
from cluster.config import RuntimeConfig
from components.errors import ConfigError, DataError, Problem, StoreError
from components.plugins import lookup
from components.samplers import PRESETS, SamplerConfig
from components.samplers.fit import check_fit
from components.samplers.prompt import Prompt
from components.scorers import SCORERS
from components.store.artifact import MANIFEST, read_manifest, write_manifest
from components.store.files import publish_text
from components.store.fingerprint import canonical, differences
from components.store.lease import NAME as LEASE
from components.store.lease import Lease
from components.store.names import file_name
from components.store.samples import read_shards, shard_file, shard_is_done
from pipelines.config import dotted, over, read_yaml
from pipelines.progress import Screen
from pipelines.typed import sampler as typed_sampler

SHARD_ROWS = 256
LANES = 64
JOB = "job.json"


def sampler_of(name: str, overrides: list[str]) -> tuple[SamplerConfig, bool]:
    """A preset, or a sampler's YAML file, with the command line's options, and whether a mismatch is allowed.

    Raises:
        ConfigError: an option is unknown or wrong.
    """
    options = dotted(overrides)
    allowed = bool(options.pop("allow_untrained", False))
    if name.endswith((".yaml", ".yml")):
        base = read_yaml(Path(name))
    else:
        lookup(PRESETS, name, "sampler preset")
        base = {"preset": name}
    problems: list[Problem] = []
    config = typed_sampler(over(base, options), "sampler", problems)
    if not problems:
        problems += config.problems("sampler")
    if problems:
        raise ConfigError(problems)
    return config, allowed


def read_prompts(path: Path | None) -> list[Prompt]:
    """Prompts of a file: JSON lines with a field ``prompt`` or ``template`` and perhaps ``label``, or one a line.

    Raises:
        DataError: the file is missing or a line is broken.
    """
    if path is None:
        return [Prompt(0)]
    if not path.exists():
        raise DataError(f"{path} does not exist. Give JSON lines with a field 'prompt', or text lines.")
    prompts = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if path.suffix != ".jsonl":
            prompts.append(Prompt(0, line))
            continue
        try:
            prompts.append(prompt_of(json.loads(line)))
        except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{path}, line {number}: no JSON object with a field 'prompt' (a text) or 'template' (a list of texts "
                f"and of numbers of positions to write), and perhaps 'label' (a number): {error}. Mend or remove the line."
            ) from error
    return prompts


def prompt_of(entry: Any) -> Prompt:
    """One entry of a prompts file. Raises KeyError, TypeError or ValueError where it is none."""
    label = entry.get("label") if isinstance(entry, dict) else None
    if label is not None and (type(label) is not int or label < 0):
        raise ValueError(f"label {label!r}")
    if "template" not in entry:
        return Prompt(0, str(entry["prompt"]), label)
    template = tuple(entry["template"])
    if not all(isinstance(p, str) or (type(p) is int and p > 0) for p in template):
        raise ValueError(f"template {template!r}")
    return Prompt(0, "", label, template)


def generate(
    model: Path,
    overrides: list[str],
    sampler: str,
    folder: Path,
    num_samples: int,
    prompts: Path | None,
    seed: int,
    length: int,
    executor: str,
    replicas: int,
    num_shown: int,
) -> Iterator[str]:
    """Make the samples and yield what to print. The same call resumes; a different one is refused."""
    config, allowed = sampler_of(sampler, overrides)
    from components.models.weights import load_model
    from components.samplers.shard import SampleShard

    load_model(model)
    info = json.loads((model / "config.json").read_text(encoding="utf-8"))
    check_fit(config, info, allowed)
    asked = [dataclasses.replace(prompt, index=i) for prompt in read_prompts(prompts) for i in range(num_samples)]
    classes = int(info.get("num_classes", 0))
    wrong = next((p.label for p in asked if p.label is not None and p.label >= classes), None)
    if wrong is not None:
        raise DataError(f"A prompt has the label {wrong}, and the model knows {classes} classes, counted from 0.")
    length = length or int(info["length"])
    job = {
        "model": str(model.absolute()),
        "sampler": canonical(config),
        "seed": seed,
        "length": length,
        "prompts": [canonical(p) for p in asked],
    }
    runtime = RuntimeConfig(executor=executor, replicas=replicas)  # type: ignore[arg-type]
    screen = Screen()
    with Lease(folder, "proseco generate"):
        same_job(folder, job)
        shards = [
            SampleShard(
                f"seed-{seed}-{n:05d}",
                model.absolute(),
                config,
                seed,
                tuple(asked[s : s + SHARD_ROWS]),
                length,
                (folder / "shards").absolute(),
                LANES,
            )
            for n, s in enumerate(range(0, len(asked), SHARD_ROWS))
        ]
        names = [s.name for s in shards]
        if read_manifest(folder) is None:
            start = time.monotonic()
            (folder / "shards").mkdir(exist_ok=True)
            run_shards(
                "sample",
                [s for s in shards if not shard_is_done(folder / "shards", s.name)],
                len(shards),
                runtime,
                screen,
            )
            files = sorted((folder / "shards").glob("seed-*"))
            write_manifest(
                folder,
                "generate",
                "generate",
                1,
                {},
                time.monotonic() - start,
                {"shards": names, "samples": len(asked)},
                files,
            )
        else:
            screen.say("all of it was there already")
        table = read_shards(folder / "shards", names)
    calls = table["calls"].to_numpy().mean()
    yield f"{table.num_rows} samples in {folder}, {calls:.2f} network calls each on average"
    for row in table.slice(0, num_shown).to_pylist():
        yield f"[{row['index']}] {row['prompt']}{row['text']}"


def same_job(folder: Path, job: Mapping[str, Any]) -> None:
    """Remember what a folder is for, and refuse anything else."""
    path = folder / JOB
    if not path.exists():
        held = [p.name for p in folder.iterdir() if not p.name.startswith(LEASE)] if folder.exists() else []
        if held:
            raise StoreError(
                f"{folder} is not empty ({held[0]}) and holds no {JOB}, so it is not a job's. Nothing was changed. "
                f"Use another --out, or an empty folder."
            )
        publish_text(path, json.dumps(job, indent=1))
        return
    lines = differences(json.loads(path.read_text(encoding="utf-8")), json.loads(json.dumps(job)))
    if lines:
        raise StoreError(
            f"{folder} holds another job ({lines[0]}). Nothing was changed. Use another --out, or delete the folder."
        )


def run_shards(kind: str, shards: list[Any], total: int, runtime: RuntimeConfig, screen: Screen) -> None:
    """Shards through replicas, with a bar."""
    if not shards:
        return
    cluster = open_cluster(runtime)
    try:
        with screen.progress(kind, Path()) as progress:
            progress.total(total, "shards")
            progress.to(total - len(shards))
            cluster.serve(kind, shards, lambda i, r: progress.advance())
    finally:
        cluster.close()


def score(samples: Path, model: Path | None, scorers: str, executor: str, replicas: int) -> dict[str, float]:
    """Score a folder of samples and return the means.

    Raises:
        StoreError: the folder holds no finished samples.
    """
    manifest = read_manifest(samples)
    if manifest is None or "shards" not in manifest.info:
        raise StoreError(
            f"{samples} holds no finished samples (no manifest). Give the --out folder of proseco generate, or a generate stage."
        )
    configs = {name: lookup(SCORERS, name, "scorer").config() for name in scorers.split(",")}
    from components.scorers.shard import ScoreShard

    if model is None:
        if not (samples / JOB).exists():
            raise ConfigError("Which model should score? Give --model FOLDER.")
        model = Path(json.loads((samples / JOB).read_text(encoding="utf-8"))["model"])
    folder = samples / "scores"
    if folder.is_symlink():
        raise StoreError(
            f"{folder} is a link to {folder.readlink()}. Scores are written beside their samples and nowhere else. "
            f"Nothing was written; remove the link."
        )
    for name in manifest.info["shards"]:
        file_name(name, samples / MANIFEST)
    with Lease(samples, "proseco score"):
        same_job(folder, {"model": str(model), "scorers": canonical(configs)})
        shards = [
            ScoreShard(
                name,
                shard_file(samples / "shards", name).absolute(),
                configs,
                None,
                model.absolute(),
                None,
                folder.absolute(),
            )
            for name in manifest.info["shards"]
        ]
        todo = [s for s in shards if not shard_is_done(folder, s.name)]
        runtime = RuntimeConfig(executor=executor, replicas=replicas)  # type: ignore[arg-type]
        run_shards("score", todo, len(shards), runtime, Screen())
        table = read_shards(folder, [s.name for s in shards])
    names = [n for n in table.column_names if n not in ("sample_id", "seed", "index")]
    return {n: float(table[n].to_numpy().mean()) for n in names}


def import_model(source: Path, folder: Path, tokenizer: Path | None, length: int) -> Iterator[str]:
    """Turn another project's weights into an exported folder, and yield what to print.

    Raises:
        ModelError: the weights are of no known format.
        StoreError: the folder is not empty.
    """
    from components.data.tokenizer import load_tokenizer
    from components.models.export import write_export
    from components.models.foreign import FORMATS, read_all, read_foreign

    if folder.exists() and any(folder.iterdir()):
        raise StoreError(f"{folder} is not empty. Nothing was changed. Use another --out, or delete the folder.")
    words = load_tokenizer(tokenizer or source / "tokenizer.json")
    tensors = read_all(source)
    embed = next((f.embed for f in FORMATS.values() if f.sign in tensors), "")
    size = max(words.vocab_size, len(tensors[embed]) if embed in tensors else 0)
    model, report = read_foreign(source, size)
    config = dataclasses.replace(model.config, mask_id=words.mask_id)
    folder.mkdir(parents=True, exist_ok=True)
    write_export(folder, config, model.state_dict(), words, length, f"imported {report.format}", False, {}, size)
    yield from report.lines()
    yield f"wrote {folder}; train from it with train.<name>.init_folder={folder}"


def diagnose_model(model: Path, rows: Path, number: int, num_rows: int, correctors: str) -> list[dict[str, Any]]:
    """What a model knows of errors planted into validation rows; see ``components/evaluation/diagnosis``.

    Raises:
        ConfigError: a corrector is unknown.
        SamplingError: the model lacks what a corrector needs.
    """
    import numpy as np
    import torch

    from components.api import load
    from components.data.rows import TokenRows
    from components.evaluation.diagnosis import diagnose
    from components.samplers.contract import Vocabulary

    chosen = {}
    loaded = load(model)
    for name in filter(None, correctors.split(",")):
        chosen[name], _ = sampler_of(name, [])
        check_fit(chosen[name], loaded.info, allow_untrained=True)
    split = TokenRows(rows, "validation")
    block = split.take(np.arange(min(num_rows, len(split))))
    tokens = torch.from_numpy(block.tokens.astype(np.int64))
    place = torch.arange(tokens.shape[1])[None, :]
    words = loaded.tokenizer
    if not len(tokens) or int(tokens.max()) >= int(loaded.info["vocab_size"]):
        raise DataError(
            f"{rows} holds no validation rows of the tokenizer of {model}. Give the tokenize stage it was trained on."
        )
    writable = (place >= torch.from_numpy(block.num_prompt)[:, None]) & (tokens != words.pad_id)
    vocabulary = Vocabulary(words.mask_id, (words.unknown_id, words.pad_id, words.end_id))
    info = dict(loaded.info)
    return diagnose(loaded.network, tokens, writable, vocabulary, info, number, chosen, loaded.extras)
