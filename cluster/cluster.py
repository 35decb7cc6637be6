"""What a stage may ask of the place where it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from cluster.config import RuntimeConfig
from components.models.config import ModelConfig
from components.training.job import Job

T = TypeVar("T")

Done = Callable[[int, Any], None]
"""Called with the number of a finished item and its result."""


class Watcher(Protocol):
    """Whoever follows a stream of shards. All are called from the thread that dispatches, but for ``retried``."""

    def done(self, number: int, receipt: Any) -> None: ...
    def retried(self, number: int, why: str) -> None:
        """Its replica was lost, and it is tried again."""

    def reissued(self, number: int) -> None:
        """It takes unusually long, and another replica does it as well."""

    def waits(self, in_flight: int, oldest_s: float) -> None:
        """Called again and again: how many are in flight, and since when the oldest is."""


@dataclass(frozen=True, kw_only=True)
class TrainLaunch:
    """Everything that every training process needs, as plain values."""

    job: Job
    model: ModelConfig
    init: Path | None
    """Checkpoint whose averaged weights to start from, or a safetensors file; None draws weights by the seed."""
    runtime: RuntimeConfig


class Stopped(Exception):
    """Raised in what still works for a run that was stopped."""


class Cluster(Protocol):
    """Carries tasks, trainings, and shards of samples or scores, for several stages at once."""

    def map(self, work: Callable[[Any], Any], items: Sequence[Any], done: Done) -> list[Any]:
        """Results in the order of the items; each item is tried again if its process dies."""

    def train(self, launch: TrainLaunch) -> None:
        """Train to the end, across the deaths of workers."""

    def serve(self, shards: Iterable[Any], watcher: Watcher) -> None:
        """Have replicas do shards, each of which knows its own work; they are drawn as there is room for them."""

    def size(self) -> tuple[float, float]:
        """CPUs and GPUs of all machines."""

    def alive(self, work: Callable[[], T]) -> T:
        """What some work comes to that asks the cluster. Raises ClusterError where that was lost meanwhile."""

    def check(self) -> None:
        """Raises ClusterError where the cluster was lost."""

    def stop(self) -> None:
        """Have what other threads do here end soon, by an error; called from another thread before ``close``."""

    def close(self) -> None: ...
