"""What is to be trained, on which rows, and where to: plain values, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.store.lease import Fence
from components.training.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Job:
    """Everything that each rank of a training needs; it travels to any process."""

    config: TrainConfig
    folder: Path
    """Where checkpoints and the journal go; shared by all ranks."""
    rows: tuple[Path, ...]
    """Row folders of the corpora."""
    weights: tuple[float, ...]
    """Share of each corpus in a batch."""
    mask_id: int
    pad_id: int
    vocab_size: int
    micro_batch: int = 0
    """Rows that a rank takes at once; 0 takes its whole share of the batch."""
    keep: int = 2
    """Checkpoints that are kept, the newest ones."""
    tokenizer: Path | None = None
    """File of the tokenizer, by which rollouts become text for the rules of ``source``."""
    fence: Fence | None = None
    """Shown before each checkpoint is written, so that a run that was taken over spoils none."""
    flops: float = 0.0
    """Floating-point operations of one forward and backward of a position; 0 where nobody asks for the speed."""
    source: Any = None
    """Config of the corpus by whose rules rollouts are rewarded."""

    def rows_at_once(self, world_size: int) -> int:
        """Rows of a micro-batch, of training and of validation, on each of ``world_size`` ranks."""
        return self.micro_batch or -(-self.config.batch_rows // world_size)
