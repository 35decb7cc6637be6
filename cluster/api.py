"""What a stage may ask of the place where it runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from cluster.config import RuntimeConfig
from cluster.environment import prepare
from components.models.config import ModelConfig
from components.training.config import TrainConfig

Done = Callable[[int, Any], None]
"""Told the number of a finished item and its result."""


@dataclass(frozen=True)
class TrainLaunch:
    """Everything that every training process needs, as plain values."""

    config: TrainConfig
    model: ModelConfig
    vocab_size: int
    folder: Path
    rows: tuple[Path, ...]
    weights: tuple[float, ...]
    mask_id: int
    pad_id: int
    init: Path | None
    """Checkpoint whose averaged weights to start from, or a safetensors file."""
    runtime: RuntimeConfig
    tokenizer: Path | None = None
    """File of the tokenizer, for objectives that judge rollouts,"""
    source: Any = None
    """and the config of the corpus whose rules they are judged by."""


class Cluster(Protocol):
    """Carries tasks, a training, and shards of samples or scores."""

    def map(self, work: Callable[[Any], Any], items: Sequence[Any], done: Done) -> list[Any]:
        """Results in the order of the items; each item is tried again if its process dies."""

    def train(self, launch: TrainLaunch) -> None:
        """Train to the end, across the deaths of workers."""

    def serve(self, shards: Sequence[Any], done: Done) -> list[Any]:
        """Have replicas do shards (each does its own work). Returns their receipts."""

    def close(self) -> None: ...


def open_cluster(runtime: RuntimeConfig) -> Cluster:
    """The cluster that the runtime section asks for. Imports it only now."""
    prepared = prepare(runtime)
    try:
        if runtime.executor == "local":
            from cluster.local import LocalCluster

            return LocalCluster(runtime, prepared)
        from cluster.ray_cluster import RayCluster

        return RayCluster(runtime, prepared)
    except BaseException:
        prepared.close()
        raise
