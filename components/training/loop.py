"""The training loop. It knows an engine, an objective and an order of rows, and no runtime."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from components import faults
from components.data.order import Mixture
from components.data.rows import TokenRows
from components.diffusion import noise
from components.diffusion.noise import Stream
from components.diffusion.schedule import Schedule
from components.errors import DataError, NonFiniteLoss, OutOfMemory
from components.models.ema import Ema
from components.objectives.base import Batch, Objective, Setting
from components.objectives.config import MdlmConfig, ObjectiveOptions
from components.tracking import Tracker
from components.training import checkpoint
from components.training.config import OptimizerConfig, TrainConfig
from components.training.engine import TrainEngine
from components.training.judge import judge_of

VALIDATION_T_MIN = 1e-3
VALIDATION_SEED = 0x5EED


@dataclass(frozen=True)
class Job:
    """Everything that one rank needs to train, as plain values that travel to any process."""

    config: TrainConfig
    folder: Path
    """Where checkpoints and the journal go; shared by all ranks."""
    train_rows: tuple[Path, ...]
    """Row folders of the corpora."""
    weights: tuple[float, ...]
    """Share of each corpus in a batch."""
    mask_id: int
    pad_id: int
    micro_batch: int
    vocab_size: int
    keep: int = 2
    tokenizer: Path | None = None
    """File of the tokenizer, and"""
    source: Any = None
    """config of the corpus by whose rules rollouts are judged."""


def learning_rate(step: int, total: int, config: OptimizerConfig) -> float:
    """Rate of optimiser step number ``step`` (from 0): linear warm-up, then constant or cosine."""
    warm = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    if config.schedule == "constant":
        return config.lr * warm
    progress = min(1.0, max(0, step - config.warmup_steps) / max(1, total - config.warmup_steps))
    share = config.final_lr_share + (1 - config.final_lr_share) * (1 + math.cos(math.pi * progress)) / 2
    return config.lr * warm * share


def fit(job: Job, engine: TrainEngine, tracker: Tracker | None) -> Path:
    """Train to the end, from the newest checkpoint if there is one. Returns the last checkpoint.

    ``tracker`` is None on every rank but the first.

    Raises:
        NonFiniteLoss: the gradient is not finite; the last checkpoint is as it was before.
        OutOfMemory: a micro-batch did not fit.
    """
    config = job.config
    # The masters are handed over before the first step, so the average starts at the initial weights.
    ema = Ema(engine.masters(), config.ema_decay)
    start = 0
    newest = checkpoint.latest(job.folder / "checkpoints")
    if newest is not None:
        start = checkpoint.restore(newest, engine, ema)
    if start >= config.steps:
        assert newest is not None
        return newest
    schedule: Schedule = config.noise_schedule.load()(config.noise_schedule)

    def anyone(here: bool) -> bool:
        return bool(engine.all_reduce(torch.tensor(float(here), device=engine.device)))

    judge = judge_of(job.source, job.tokenizer)
    setting = Setting(job.mask_id, schedule, config.t_min, job.vocab_size, judge, anyone)
    objective = build_objective(config.objective, setting)
    source = RowSource(job, "train")
    validation = RowSource(job, "validation") if has_rows(job, "validation") else None
    meter = Meter(engine)
    for step in range(start, config.steps):
        lr = learning_rate(step, config.steps, config.optimizer)
        try:
            norm = train_step(engine, objective, source, step, meter, lr)
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not ran_out_of_memory(error):
                raise
            raise out_of_memory(job) from error
        if not math.isfinite(norm):
            raise NonFiniteLoss(
                f"The gradient norm of step {step + 1} is {norm}. Training stopped; the checkpoint of an "
                f"earlier step is untouched in {job.folder / 'checkpoints'}. Lower optimizer.lr "
                f"(now {config.optimizer.lr:g}), set optimizer.clip, or use precision=fp32."
            )
        ema.update(step + 1)
        done = step + 1
        faults.point("train.mid_step")
        if done % config.log_every == 0 or done == config.steps:
            values = meter.flush() | {"lr": lr, "grad_norm": norm}
            if tracker:
                tracker.metrics(values, done)
        due = done == config.steps or (config.validate_every and done % config.validate_every == 0)
        if validation is not None and due:
            values = validate(engine, job, validation)
            if tracker:
                tracker.metrics(values, done)
        if done % config.checkpoint_every == 0 or done == config.steps:
            newest = checkpoint.save(job.folder / "checkpoints", done, engine, ema, job.keep)
    assert newest is not None
    return newest


def has_rows(job: Job, split: str) -> bool:
    """A small corpus may have put nothing into a split; then nothing is validated."""
    return any(len(TokenRows(folder, split)) for folder in job.train_rows)


def build_objective(config: ObjectiveOptions, setting: Setting) -> Objective:
    """The objective whose config this is."""
    objective: Objective = config.load()(config, setting)
    return objective


def train_step(
    engine: TrainEngine, objective: Objective, source: RowSource, step: int, meter: Meter, lr: float
) -> float:
    """One optimiser step over the global batch. Returns the gradient norm."""
    engine.train(True)
    batches = list(source.batches(step, engine))
    totals: dict[str, Tensor] = {}
    for batch in batches:
        for name, count in objective.counts(batch).items():
            totals[name] = totals.get(name, torch.zeros((), dtype=torch.float64)) + count.double().cpu()
    names = sorted(totals)
    summed = engine.all_reduce(torch.stack([totals[n] for n in names]).to(engine.device))
    divisor = dict(zip(names, summed.clamp(min=1).float(), strict=True))
    for number, batch in enumerate(batches):
        torch.manual_seed((source.seed * 1_000_003 + step) * 65_537 + engine.rank * 4_099 + number)
        for term in objective.terms(engine.model(), batch):
            engine.backward(term.loss_sum / divisor[term.name])
            meter.add({f"loss/{term.name}": (term.loss_sum.detach() / divisor[term.name], None), **term.metrics})
    norm = engine.step(lr)
    meter.count_step()
    return norm


@torch.no_grad()
def validate(engine: TrainEngine, job: Job, source: RowSource) -> dict[str, float]:
    """The likelihood bound in nats per target token on validation rows, with noise that never changes.

    Always plain masked diffusion at t_min = 1e-3, whatever the objective, so that numbers compare.
    """
    engine.train(False)
    schedule: Schedule = job.config.noise_schedule.load()(job.config.noise_schedule)
    objective = build_objective(MdlmConfig(), Setting(job.mask_id, schedule, VALIDATION_T_MIN, job.vocab_size))
    meter = Meter(engine)
    for batch in source.batches(0, engine):
        for term in objective.terms(engine.model(), batch):
            meter.add(term.metrics)
    engine.train(True)
    return {f"validation/{k}": v for k, v in meter.flush().items()}


class RowSource:
    """Batches of one split, as a function of the step."""

    def __init__(self, job: Job, split: str):
        self.job = job
        self.split = split
        self.corpora = [TokenRows(folder, split) for folder in job.train_rows]
        sizes = [len(rows) for rows in self.corpora]
        if split == "train":
            self.seed, self.num_rows = job.config.seed, job.config.batch_rows
        else:
            self.seed, self.num_rows = VALIDATION_SEED, min(job.config.validation_rows, sum(sizes))
        used = [i for i, size in enumerate(sizes) if size]
        if not used:
            raise DataError(
                f"There is no row in the {split} split of {', '.join(str(f) for f in job.train_rows)}. "
                f"Use a larger corpus, or lower validation_share and test_share."
            )
        self.mixture = Mixture([sizes[i] for i in used], [job.weights[i] for i in used], self.seed)
        self.corpora = [self.corpora[i] for i in used]

    def batches(self, step: int, engine: TrainEngine) -> Iterator[Batch]:
        """This rank's micro-batches of the global batch. Every rank gets the same number of them."""
        per_rank = -(-self.num_rows // engine.world_size)
        micro = min(self.job.micro_batch, per_rank)
        for start in range(0, per_rank, micro):
            local = torch.arange(start, min(start + micro, per_rank)) + engine.rank * per_rank
            yield self.batch(step, local, engine.device)

    def batch(self, step: int, index: Tensor, device: torch.device) -> Batch:
        """Rows ``index`` of global batch ``step``; an index past its end is padding without targets."""
        real = index < self.num_rows
        stream = step * self.num_rows + index.clamp(max=self.num_rows - 1)
        tokens, prompts, labels = self._gather(stream)
        place = torch.arange(tokens.shape[1])[None, :]
        maskable = (place >= prompts[:, None]) & real[:, None]
        target = maskable if self.pads_count() else maskable & (tokens != self.job.pad_id)
        keys = noise.row_keys(self.seed, stream)
        if labels is not None and self.split == "train" and self.job.config.label_dropout:
            hidden = noise.uniform(keys, step, 0, 1, Stream.LABEL)[:, 0] < self.job.config.label_dropout
            labels = labels.masked_fill(hidden, -1)
        return Batch(
            tokens=tokens.to(device),
            maskable=maskable.to(device),
            target=target.to(device),
            index=index.to(device),
            keys=keys.to(device),
            num_rows=self.num_rows,
            step=step,
            label=None if labels is None else labels.to(device),
        )

    def pads_count(self) -> bool:
        return all(rows.pad_in_loss for rows in self.corpora)

    def _gather(self, stream: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Tokens [B, L], prompt lengths [B] and labels [B] of places in the global stream."""
        corpus, row = self.mixture.pick(stream.numpy())
        parts = [rows.take(row[corpus == number]) for number, rows in enumerate(self.corpora)]
        where = torch.from_numpy(np.argsort(np.argsort(corpus, kind="stable"), kind="stable"))
        tokens = torch.from_numpy(np.concatenate([p.tokens for p in parts]).astype(np.int64))[where]
        prompts = torch.from_numpy(np.concatenate([p.num_prompt for p in parts]).astype(np.int64))[where]
        if any(p.label is None for p in parts):
            return tokens, prompts, None
        labels = np.concatenate([p.label for p in parts if p.label is not None])
        return tokens, prompts, torch.from_numpy(labels.astype(np.int64))[where]


class Meter:
    """Sums and counts since the last report, divided once, after they were added over all ranks."""

    def __init__(self, engine: TrainEngine):
        self.engine = engine
        self.sums: dict[str, float | Tensor] = defaultdict(float)
        self.counts: dict[str, float | Tensor] = defaultdict(float)
        self.steps = 0
        self.per_step: set[str] = set()

    def add(self, metrics: Mapping[str, tuple[Tensor, Tensor | None]]) -> None:
        """(sum, count) pairs; a count of None divides by the number of steps."""
        for name, (total, count) in metrics.items():
            self.sums[name] = self.sums[name] + total.double()
            if count is None:
                self.per_step.add(name)
            else:
                self.counts[name] = self.counts[name] + count.double()

    def count_step(self) -> None:
        self.steps += 1

    def flush(self) -> dict[str, float]:
        names = sorted(self.sums)
        if not names:
            return {}
        own = [[self.sums[n], 0.0 if n in self.per_step else self.counts[n]] for n in names]
        table = torch.tensor([[float(a), float(b)] for a, b in own], dtype=torch.float64)
        table = self.engine.all_reduce(table.to(self.engine.device)).cpu()
        values = {}
        for name, (total, count) in zip(names, table.tolist(), strict=True):
            divisor = self.steps if name in self.per_step else count
            if divisor:
                values[name] = total / divisor
        self.sums.clear()
        self.counts.clear()
        self.steps = 0
        return values


def ran_out_of_memory(error: Exception) -> bool:
    """CUDA has an error type of its own; the CPU's allocator only has its words."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def out_of_memory(job: Job) -> OutOfMemory:
    """An error that proposes a batch size."""
    half = max(1, job.micro_batch // 2)
    remedy = (
        f"Set runtime.micro_batch={half}: the rows of a step and so the result stay the same, only more of them are accumulated."
        if job.micro_batch > 1
        else "It cannot be halved: set runtime.activation_checkpointing=true, a higher runtime.zero_stage, or shorter rows."
    )
    return OutOfMemory(f"A micro-batch of {job.micro_batch} rows did not fit into memory. {remedy}")
