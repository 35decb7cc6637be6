"""Options of a training, without torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from components.errors import Problem
from components.objectives.config import MdlmConfig


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW. The defaults are MDLM's, but for the batch."""

    lr: float = 3e-4
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip: float = 1.0
    """Largest gradient norm; 0 does not clip."""
    warmup_steps: int = 100
    schedule: Literal["constant", "cosine"] = "constant"
    final_lr_share: float = 0.1
    """Where the cosine ends, as a share of lr."""


@dataclass(frozen=True)
class TrainConfig:
    """One training: what decides the weights that come out."""

    objective: Any = field(default_factory=MdlmConfig)
    steps: int = 1000
    batch_rows: int = 64
    """Rows of one optimiser step, over all workers and accumulation."""
    seed: int = 0
    init_from: str = ""
    """Name of another training of the run whose averaged weights this one starts from."""
    init_folder: str = ""
    """Or the folder of an exported or imported model; its weights' digest is part of the identity."""
    label_dropout: float = 0.0
    """Share of rows whose class label is hidden, so that guidance has an unconditional half."""
    noise_schedule: Literal["log_linear", "cosine"] = "log_linear"
    t_min: float = 1e-3
    """Smallest time that is trained; ProSeCo's released scripts use 0.1."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    ema_decay: float = 0.999
    """Averaged weights are what is exported. 0 exports the last weights."""
    precision: Literal["fp32", "bf16"] = "fp32"
    validate_every: int = 0
    """Steps between validations; 0 validates at the end only."""
    validation_rows: int = 256
    log_every: int = 25
    checkpoint_every: int = 500

    def problems(self, path: str) -> list[Problem]:
        """Rules inside one training."""
        found: list[Problem] = []

        def check(holds: bool, name: str, value: object, rule: str, remedy: str) -> None:
            if not holds:
                found.append(Problem(f"{path}.{name}", value, rule, remedy))

        o = self.optimizer
        check(self.steps >= 1, "steps", self.steps, "at least 1", "set the number of optimiser steps")
        check(self.batch_rows >= 1, "batch_rows", self.batch_rows, "at least 1", "set the rows per step")
        check(0 < self.t_min < 1, "t_min", self.t_min, "in (0, 1)", "0.001 is MDLM's, 0.1 ProSeCo's")
        check(0 <= self.ema_decay < 1, "ema_decay", self.ema_decay, "in [0, 1)", "0 turns averaging off")
        dropped = self.label_dropout
        check(0 <= dropped < 1, "label_dropout", dropped, "in [0, 1)", "0.1 is usual for guidance")
        check(self.log_every >= 1, "log_every", self.log_every, "at least 1", "25 is usual")
        check(self.checkpoint_every >= 1, "checkpoint_every", self.checkpoint_every, "at least 1", "500 is usual")
        check(self.validate_every >= 0, "validate_every", self.validate_every, "0 or more", "0 validates at the end")
        check(self.validation_rows >= 1, "validation_rows", self.validation_rows, "at least 1", "256 is usual")
        check(o.lr > 0, "optimizer.lr", o.lr, "more than 0", "3e-4 is usual")
        check(o.clip >= 0, "optimizer.clip", o.clip, "0 or more", "1.0 is usual, 0 does not clip")
        check(o.warmup_steps >= 0, "optimizer.warmup_steps", o.warmup_steps, "0 or more", "0 starts at full rate")
        check(o.weight_decay >= 0, "optimizer.weight_decay", o.weight_decay, "0 or more", "0 is usual here")
        for i, beta in enumerate(o.betas):
            check(0 <= beta < 1, f"optimizer.betas[{i}]", beta, "in [0, 1)", "0.9 and 0.999 are usual")
        weights = [getattr(self.objective, n) for n in ("mdm_weight", "corrector_weight") if hasattr(self.objective, n)]
        if weights:
            check(
                any(w > 0 for w in weights) and all(w >= 0 for w in weights),
                "objective",
                weights,
                "no weight is negative and one is positive, or nothing would train",
                "1.0 for both is the paper's setting",
            )
        start = getattr(self.objective, "start_step", 0)
        check(
            start < self.steps,
            "objective.start_step",
            start,
            f"below steps ({self.steps}): the corrector would never train",
            "lower it",
        )
        check(
            getattr(self.objective, "every", 1) >= 1,
            "objective.every",
            getattr(self.objective, "every", 1),
            "at least 1",
            "1 corrects every row",
        )
        check(
            not (self.init_from and self.init_folder), "init_folder", self.init_folder, "one start, not two",
            "drop init_from or init_folder",
        )  # fmt: skip
        inner = getattr(self.objective, "inner_epochs", 1)
        check(
            self.checkpoint_every % inner == 0 and self.steps % inner == 0, "checkpoint_every", self.checkpoint_every,
            f"it and steps are multiples of objective.inner_epochs ({inner}): rollouts are not in a checkpoint",
            "change one of them",
        )  # fmt: skip
        frozen = getattr(self.objective, "frozen", False) and getattr(self.objective, "mdm_weight", 0)
        check(not frozen, "objective.mdm_weight", frozen, "0 where the network is frozen", "set it to 0")
        return found
