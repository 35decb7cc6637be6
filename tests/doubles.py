"""Small stand-ins: rows on disk, a finished training, an exported model."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from components.data.rows import PackedRow, block_of, write_rows
from components.diffusion.categorical import suppress
from components.models.config import ModelConfig
from components.models.denoiser import Prediction
from components.models.judging import judge_logits
from components.objectives.config import ProsecoConfig
from components.training.config import OptimizerConfig, TrainConfig
from components.training.job import Job

VOCAB, LENGTH, MASK, PAD = 9, 8, 0, 1
TINY = ModelConfig(dim=16, depth=2, heads=2, num_positions=LENGTH)


def token_rows(folder: Path, count: int = 64, seed: int = 0) -> Path:
    """A tokenized corpus of random rows."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    rows = [PackedRow(rng.integers(4, VOCAB, LENGTH).tolist(), int(rng.integers(0, 3))) for _ in range(count)]
    write_rows(folder / "train-0.arrow", block_of(rows[8:], LENGTH, PAD, VOCAB))
    write_rows(folder / "validation-0.arrow", block_of(rows[:8], LENGTH, PAD, VOCAB))
    shards = {"train": ["train-0.arrow"], "validation": ["validation-0.arrow"], "test": []}
    (folder / "rows.json").write_text(json.dumps({"length": LENGTH, "pad_in_loss": True, "shards": shards}))
    return folder


def uneven_rows(folder: Path, sizes: Collection[int], count: int = 64) -> Path:
    """The same, of whose rows for learning each has one of these sizes."""
    token_rows(folder)
    rng = np.random.default_rng(0)
    drawn = [int(n) for n in rng.choice(list(sizes), count)]
    rows = [PackedRow([*rng.integers(4, VOCAB, n).tolist(), *[PAD] * (LENGTH - n)], 0, None, n) for n in drawn]
    write_rows(folder / "train-0.arrow", block_of(rows, LENGTH, PAD, VOCAB))
    return folder


def train_config(**changes) -> TrainConfig:
    defaults = {
        "objective": ProsecoConfig(),
        "steps": 6,
        "batch_rows": 8,
        "t_min": 0.1,
        # Adam moves by the sign of a gradient far above its eps, so with 1e-8 rounding decides where one is nearly zero.
        "optimizer": OptimizerConfig(lr=1e-2, clip=0.5, warmup_steps=2, eps=1e-5),
        "ema_decay": 0.9,
        "log_every": 2,
        "checkpoint_every": 3,
        "validation_rows": 8,
    }
    return TrainConfig(**(defaults | changes))


def job(folder: Path, rows: Path, micro_batch: int = 2, **changes) -> Job:
    return Job(
        config=train_config(**changes),
        folder=folder,
        rows=(rows,),
        weights=(1.0,),
        mask_id=MASK,
        pad_id=PAD,
        vocab_size=VOCAB,
        micro_batch=micro_batch,
        keep=9,
    )


def diverging() -> OptimizerConfig:
    """Weights are infinite after one step."""
    return OptimizerConfig(lr=1e30, clip=0, warmup_steps=0)


def answer(logits, select=None, judge=None, heads=None):
    """What a network answers that has logits [B, L, V]."""
    wanted = logits if select is None else logits.flatten(0, 1)[select]
    if judge is not None:
        return judge_logits(suppress(wanted, (judge.never,)), judge)
    return Prediction(wanted, heads or {})


class MemoryTracker:
    """A tracker that keeps everything in lists."""

    def __init__(self) -> None:
        self.seen_params: dict[str, Any] = {}
        self.seen_metrics: list[tuple[int, dict[str, float]]] = []

    def params(self, values: Mapping[str, Any]) -> None:
        self.seen_params.update(values)

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        self.seen_metrics.append((step, dict(values)))
