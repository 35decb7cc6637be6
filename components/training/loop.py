"""The training loop. It knows an engine, an objective and an order of rows, and no runtime."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from components import faults
from components.diffusion.schedule import Schedule
from components.errors import CorruptArtifact, NonFiniteLoss, OutOfMemory
from components.models.ema import Ema
from components.objectives.base import Objective, Setting
from components.objectives.config import MdlmConfig, ObjectiveOptions
from components.store.files import exists, publish_text, read_json
from components.tracking import Tracker
from components.training import checkpoint
from components.training.batches import RowSource, Split, has_rows
from components.training.config import OptimizerConfig
from components.training.engine import TrainEngine
from components.training.job import Job
from components.training.meter import Meter
from components.training.rewards import reward_of
from components.training.saving import Saver
from components.training.speed import Speed
from components.training.watch import Unwatched, Watch

VALIDATION_T_MIN = 1e-3
UNWATCHED = Unwatched()
SKIPPED = "skipped.json"
"""Steps of a training that are left out, in its folder."""
WANTED = "checkpoint wanted"
"""Travels with the counts of a step, so that ranks agree without talking once more."""


def learning_rate(step: int, total: int, config: OptimizerConfig) -> float:
    """Rate of optimiser step number ``step`` (from 0): linear warm-up, then constant or cosine."""
    warm = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    if config.schedule == "constant":
        return config.lr * warm
    progress = min(1.0, max(0, step - config.warmup_steps) / max(1, total - config.warmup_steps))
    share = config.final_lr_share + (1 - config.final_lr_share) * (1 + math.cos(math.pi * progress)) / 2
    return config.lr * warm * share


class Diverged(Exception):
    """The gradient of a step is not finite."""

    def __init__(self, step: int, norm: float):
        super().__init__(step, norm)
        self.step, self.norm = step, norm


def fit(job: Job, engine: TrainEngine, tracker: Tracker | None, watch: Watch = UNWATCHED) -> Path:
    """Train to the end, from the newest checkpoint if there is one. Returns the last checkpoint.

    ``tracker`` is None on every rank but the first. Where ``watch`` of any rank wants a checkpoint, one is written.

    Raises:
        NonFiniteLoss: gradients of more steps than may be left out are not finite; the last checkpoint is as it was.
        OutOfMemory: a micro-batch did not fit.
        StoreError: a checkpoint could not be written; raised a step or more after it was begun.
    """
    config, checkpoints = job.config, job.folder / "checkpoints"
    # The masters are handed over before the first step, so the average starts at the initial weights.
    ema = Ema(engine.masters(), config.ema_decay)
    saver = Saver(checkpoints, engine, ema, job.keep, fence_of(job))
    try:
        if config.max_skipped and checkpoint.latest(checkpoints) is None:  # something to go back to
            saver.save(0)
        return without_diverging(job, engine, tracker, watch, saver)
    finally:
        saver.close()


def without_diverging(job: Job, engine: TrainEngine, tracker: Tracker | None, watch: Watch, saver: Saver) -> Path:
    """Train to the end, without the steps whose gradients are not finite; see ``fit``."""
    config, skipped = job.config, skipped_of(job)
    while True:
        try:
            return go_on(job, engine, tracker, watch, saver, skipped)
        except Diverged as found:
            if len(skipped) >= config.max_skipped:
                raise NonFiniteLoss(
                    f"The gradient norm of step {found.step + 1} is {found.norm}, after {len(skipped)} steps that were left "
                    f"out for that (max_skipped = {config.max_skipped}). Training stopped; the checkpoint of an earlier step "
                    f"is untouched in {saver.folder}. Lower optimizer.lr (now {config.optimizer.lr:g}), set optimizer.clip, "
                    f"use precision=fp32, or raise max_skipped."
                ) from None
            skipped.add(found.step)
            if engine.rank == 0:
                publish_text(job.folder / SKIPPED, json.dumps(sorted(skipped)))
            report(tracker, {"skipped": float(len(skipped))}, found.step + 1)


def skipped_of(job: Job) -> set[int]:
    """Steps that an earlier execution left out. Raises CorruptArtifact where that is not known any more."""
    path = job.folder / SKIPPED
    found = read_json(path) if exists(path) else []
    if not isinstance(found, list) or any(type(step) is not int for step in found):
        raise CorruptArtifact(
            f"{path} is damaged, so it is not known which steps were left out. Move the folder {job.folder} away, and run the "
            f"same command again to train anew."
        )
    return set(found)


def go_on(
    job: Job, engine: TrainEngine, tracker: Tracker | None, watch: Watch, saver: Saver, skipped: Collection[int]
) -> Path:
    """Train from the newest checkpoint to the end, without the steps that are left out.

    Raises:
        Diverged: the gradient of a step is not finite, and the weights are spoilt.
        OutOfMemory: a micro-batch did not fit.
    """
    config, ema = job.config, saver.ema
    saver.settle()  # all ranks see the same checkpoints
    newest = checkpoint.latest(saver.folder)
    start = 0 if newest is None else checkpoint.restore(newest, engine, ema, skipped)
    objective = build_objective(config.objective, setting_of(job, engine))
    source = rows_of(job, "train", engine)
    validation = rows_of(job, "validation", engine) if has_rows(job, "validation") else None
    speed = Speed(config, job.flops, engine.device, engine.world_size) if job.flops else None
    meter = Meter(engine.all_reduce, engine.device, speed)
    for step in range(start, config.steps):
        saver.check()
        lr, norm, wanted = learning_rate(step, config.steps, config.optimizer), 0.0, False
        done = step + 1
        last = done == config.steps
        if step not in skipped:
            norm, wanted = step_in_memory(job, engine, objective, source, step, meter, lr, watch.beat())
            if not math.isfinite(norm):
                raise Diverged(step, norm)
            ema.update(done)
        faults.point("train.mid_step")
        if done % config.log_every == 0 or last:
            report(tracker, meter.flush() | {"lr": lr, "grad_norm": norm}, done)
        if validation is not None and (last or (config.validate_every and done % config.validate_every == 0)):
            report(tracker, validate(engine, job, validation), done)
        if done % config.checkpoint_every == 0 or last or wanted:
            newest = saver.save(done)
    saver.settle()
    assert newest is not None
    return newest


def step_in_memory(job: Job, engine: TrainEngine, *given: Any) -> tuple[float, bool]:
    """``train_step``. Raises OutOfMemory where a micro-batch does not fit."""
    try:
        return train_step(engine, *given)
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not ran_out_of_memory(error):
            raise
        raise out_of_memory(job.rows_at_once(engine.world_size)) from error


def fence_of(job: Job) -> Callable[[], None]:
    """What is asked before a checkpoint is written."""
    return job.fence.check if job.fence else unfenced


def unfenced() -> None:
    """Nobody else can be at this training."""


def rows_of(job: Job, split: Split, engine: TrainEngine) -> RowSource:
    """The rows of a split, for the rank that an engine is."""
    return RowSource(job, split, rank=engine.rank, world_size=engine.world_size, device=engine.device)


def setting_of(job: Job, engine: TrainEngine) -> Setting:
    """What the job's objective needs to know besides its own options."""

    def any_process(says_yes: bool) -> bool:
        return bool(engine.all_reduce(torch.tensor(float(says_yes), device=engine.device)))

    return Setting(
        mask_id=job.mask_id,
        schedule=schedule_of(job),
        t_min=job.config.smallest_time(),
        vocab_size=job.vocab_size,
        reward=reward_of(job.source, job.tokenizer),
        any_process=any_process,
    )


def schedule_of(job: Job) -> Schedule:
    """The noise schedule that the job is trained with."""
    schedule: Schedule = job.config.noise_schedule.load()(job.config.noise_schedule)
    return schedule


def build_objective(config: ObjectiveOptions, setting: Setting) -> Objective[Any]:
    """The objective whose options these are."""
    objective: Objective[Any] = config.load()(config, setting)
    return objective


def report(tracker: Tracker | None, values: dict[str, float], step: int) -> None:
    """Write values to the journal, on the rank that keeps it."""
    if tracker is not None:
        tracker.metrics(values, step)


def train_step(
    engine: TrainEngine,
    objective: Objective[Any],
    source: RowSource,
    step: int,
    meter: Meter,
    lr: float,
    wanted: bool = False,
) -> tuple[float, bool]:
    """One optimiser step over the global batch.

    Args:
        wanted: does this rank want a checkpoint?
    Returns:
        the gradient norm, and whether any rank wants one.
    """
    engine.train(True)
    batches = list(source.batches(step))
    corrupted = [objective.corrupt(batch) for batch in batches]
    divisor = global_counts(engine, [objective.counts(c) | {WANTED: torch.tensor(float(wanted))} for c in corrupted])
    for number, micro_batch in enumerate(corrupted):
        # What a network itself draws, such as dropout, depends on the step, the rank and the micro-batch alone.
        torch.manual_seed((source.seed * 1_000_003 + step) * 65_537 + engine.rank * 4_099 + number)
        for term in objective.terms(engine.network, micro_batch):
            engine.backward(term.loss_sum / divisor[term.name])
            meter.add_per_step(f"loss/{term.name}", term.loss_sum.detach() / divisor[term.name])
            meter.add(term.metrics)
    norm = engine.step(lr)
    meter.count_step(sum(batch.num_positions for batch in batches))
    return norm, bool(divisor[WANTED])


def global_counts(engine: TrainEngine, counts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Term name to its count over all micro-batches and ranks: a float32 scalar, at least 1; of ``WANTED``, 0 or more."""
    names = sorted(counts[0])
    own = [torch.stack([c[name].to(engine.device).double() for c in counts]).sum() for name in names]
    summed = dict(zip(names, engine.all_reduce(torch.stack(own)).float(), strict=True))
    return {name: count if name == WANTED else count.clamp(min=1) for name, count in summed.items()}


@torch.no_grad()
def validate(engine: TrainEngine, job: Job, source: RowSource) -> dict[str, float]:
    """The likelihood bound in nats per target token on validation rows, with noise that never changes.

    Always plain masked diffusion at t_min = 1e-3, whatever the objective, so that numbers compare.
    """
    engine.train(False)
    objective = build_objective(MdlmConfig(), Setting(job.mask_id, schedule_of(job), VALIDATION_T_MIN, job.vocab_size))
    meter = Meter(engine.all_reduce, engine.device)
    for batch in source.batches(0):
        for term in objective.terms(engine.network, objective.corrupt(batch)):
            meter.add(term.metrics)
    engine.train(True)
    return {f"validation/{k}": v for k, v in meter.flush().items()}


def ran_out_of_memory(error: Exception) -> bool:
    """CUDA has an error type of its own; the CPU's allocator only has its words."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def out_of_memory(num_rows: int) -> OutOfMemory:
    """An error about a micro-batch of ``num_rows`` rows that proposes another size."""
    half = max(1, num_rows // 2)
    remedy = (
        f"Set runtime.micro_batch={half}: the rows of a step and so the result stay the same, only more of them are "
        f"accumulated."
        if num_rows > 1
        else "It cannot be halved: set runtime.activation_checkpointing=true, a higher runtime.zero_stage, or shorter "
        "rows."
    )
    return OutOfMemory(f"A micro-batch of {num_rows} rows did not fit into memory. {remedy}")
