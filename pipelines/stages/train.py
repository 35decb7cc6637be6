"""Train one model to its last step, from the newest checkpoint if there is one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.cluster import TrainLaunch
from components.data.rows import TokenRows
from components.data.tokenizer import load_tokenizer
from components.errors import DataError
from components.store.files import exists
from components.tracking import JOURNAL, read_metrics
from components.training import checkpoint
from components.training.job import Job
from components.training.speed import OF_THE_CLOCK
from pipelines.graph.stage import Context
from pipelines.stages.spec import TrainSpec
from pipelines.stages.unchanged import require_unchanged


def run(config: TrainSpec, context: Context) -> Mapping[str, Any]:
    require_unchanged([(config.train, config.init)])
    file = context.inputs["tokenizer"] / "tokenizer.json"
    tokenizer = load_tokenizer(file)
    roles = sorted(config.weights)
    for role in roles:
        require_classes(context.inputs[role], config.model.num_classes, role.removeprefix("rows_"))
    job = Job(
        config=config.train,
        folder=context.folder,
        rows=tuple(context.inputs[r] for r in roles),
        weights=tuple(config.weights[r] for r in roles),
        mask_id=tokenizer.mask_id,
        pad_id=tokenizer.pad_id,
        vocab_size=tokenizer.vocab_size,
        micro_batch=context.runtime.micro_batch,
        keep=context.runtime.keep_checkpoints,
        tokenizer=file,
        flops=config.model.flops(tokenizer.vocab_size, TokenRows(context.inputs[roles[0]], "train").length),
        fence=context.fence,
        source=config.source,
    )
    launch = TrainLaunch(
        job=job,
        model=dataclasses.replace(config.model, mask_id=tokenizer.mask_id),
        init=start(config, context),
        runtime=context.runtime,
    )
    context.progress.total(config.train.steps, "steps")
    context.cluster().train(launch)
    rows = read_metrics(context.folder / JOURNAL)
    last = {k: v for row in rows[-3:] for k, v in row.items() if k not in ("step", "time_s", *OF_THE_CLOCK)}
    parameters = config.model.num_parameters(tokenizer.vocab_size)
    return {"steps": config.train.steps, "parameters": parameters, **last}


def require_classes(rows: Path, num_classes: int, name: str) -> None:
    """Raises DataError where rows have a class that the network has no embedding of."""
    highest = TokenRows(rows, "train").highest_label()
    if num_classes and highest is not None and highest >= num_classes:
        raise DataError(
            f"The corpus {name!r} has rows of class {highest:g}, and model.num_classes = {num_classes} counts from 0. "
            f"Set it to {highest + 1:.0f} at least."
        )


def start(config: TrainSpec, context: Context) -> Path | None:
    """Checkpoint, or file of weights, to start from."""
    weights = config.train.weights()
    if weights is not None:
        return weights.absolute()
    if "init" not in context.inputs:
        return None
    folder = context.inputs["init"]
    exported = folder / "model.safetensors"
    return exported if exists(exported) else final(folder)


def final(folder: Path) -> Path:
    """The last checkpoint of a finished training."""
    found = checkpoint.latest(folder / "checkpoints")
    assert found is not None, f"{folder} has a manifest but no checkpoint"
    return found
