"""Options of a training, without torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from components.diffusion.config import NOISES, LogLinearConfig, NoiseOptions
from components.errors import Problem
from components.objectives import OBJECTIVES
from components.objectives.config import MdlmConfig, ObjectiveOptions
from components.options import Count, Location, Natural, NonNegative, Seed, Share, options
from components.store.content import Content, content_of

Beta = Annotated[float, Field(ge=0, lt=1)]


@options
class OptimizerConfig:
    """AdamW. The defaults are MDLM's, but for the batch."""

    lr: Annotated[float, Field(gt=0, le=1e38)] = 3e-4
    """Learning rate after the warm-up."""
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """Decay of the two moments."""
    eps: Annotated[float, Field(gt=0, le=1)] = 1e-8
    """Added to the root of the second moment."""
    weight_decay: NonNegative = 0.0
    """Of matrices; vectors never decay."""
    clip: NonNegative = 1.0
    """Largest gradient norm; 0 does not clip."""
    warmup_steps: Natural = 100
    """Steps of linear warm-up; 0 starts at the full rate."""
    schedule: Literal["constant", "cosine"] = "constant"
    """After the warm-up."""
    final_lr_share: Share = 0.1
    """Where the cosine ends, as a share of lr."""


@options
class TrainConfig:
    """One training: what decides the weights that come out."""

    objective: Annotated[ObjectiveOptions, OBJECTIVES.slot()] = MdlmConfig()
    """What is learned; see docs/objectives.md."""
    steps: Count = 1000
    """Optimiser steps."""
    batch_rows: Annotated[int, Field(ge=1, le=1 << 24)] = 64
    """Rows of one optimiser step, over all workers and accumulation."""
    seed: Seed = 0
    """Of initial weights, data order and noise."""
    init_from: str = ""
    """Name of another training of the run whose averaged weights this one starts from."""
    init_folder: Location = ""
    """Or the folder of an exported or imported model. The identity holds what its weights are, not where they lie."""
    label_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of rows whose class or value is hidden, so that guidance has an unconditional half."""
    noise_schedule: Annotated[NoiseOptions, NOISES.slot()] = LogLinearConfig()
    """alpha(t): what share of a row is kept at time t."""
    t_min: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Smallest time that is trained. 0 is the objective's own: 0.1 for proseco, as its released scripts have it, because the
    weight 1/t of its correcting term falls on every position; 1e-3 for others."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """How weights are updated."""
    max_skipped: Natural = 0
    """Steps whose gradient is not finite are left out, up to so many: the training goes back to its last checkpoint and on
    without them. More, and it stops."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Averaged weights are what is exported. 0 exports the last weights."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the network's arithmetic; masters are float32."""
    validate_every: Natural = 0
    """Steps between validations; 0 validates at the end only."""
    validation_rows: Count = 256
    """Rows that a validation looks at."""
    log_every: Count = 25
    """Steps between reports."""
    checkpoint_every: Count = 500
    """Steps between checkpoints."""

    def smallest_time(self) -> float:
        """The smallest time that is trained."""
        return self.t_min or self.objective.smallest_time()

    def weights(self) -> Path | None:
        """The file in ``init_folder`` that it starts from."""
        return Path(self.init_folder) / "model.safetensors" if self.init_folder else None

    def content(self) -> Content | None:
        """What that file holds. Raises DataError where it cannot be read."""
        file = self.weights()
        return None if file is None else content_of({file.name: str(file)})

    def problems(self) -> Iterator[Problem]:
        """Broken rules between options; paths begin below the training."""
        if self.optimizer.lr * self.optimizer.weight_decay >= 1:
            rule = f"below 1 / optimizer.lr ({1 / self.optimizer.lr:g}), or a step turns weights round instead of shrinking them"
            yield Problem("optimizer.weight_decay", self.optimizer.weight_decay, rule, "0.01 to 0.1 is usual")
        if self.init_from and self.init_folder:
            yield Problem("init_folder", self.init_folder, "one start, not two", "drop init_from or init_folder")
        yield from self.objective.problems(self)
