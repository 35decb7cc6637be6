"""What a stage may ask of the place where it runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from cluster.config import RuntimeConfig
from components.models.config import ModelConfig
from components.training.job import Job

Done = Callable[[int, Any], None]
"""Called with the number of a finished item and its result."""


@dataclass(frozen=True, kw_only=True)
class TrainLaunch:
    """Everything that every training process needs, as plain values."""

    job: Job
    model: ModelConfig
    init: Path | None
    """Checkpoint whose averaged weights to start from, or a safetensors file; None draws weights by the seed."""
    runtime: RuntimeConfig


class Cluster(Protocol):
    """Carries tasks, a training, and shards of samples or scores."""

    def map(self, work: Callable[[Any], Any], items: Sequence[Any], done: Done) -> list[Any]:
        """Results in the order of the items; each item is tried again if its process dies."""

    def train(self, launch: TrainLaunch) -> None:
        """Train to the end, across the deaths of workers."""

    def serve(self, shards: Sequence[Any], done: Done) -> list[Any]:
        """Have replicas do shards, each of which knows its own work. Returns their receipts."""

    def close(self) -> None: ...
