"""What the application asks of replicas, as plain values."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Protocol

from cluster.shared_engine import News, Numbers
from components.samplers.config import SamplerConfig
from components.samplers.contract import Row


@dataclass(frozen=True)
class Job:
    """Rows of one request."""

    sampler: SamplerConfig
    rows: tuple[Row, ...]
    watched: bool
    """Edits are wanted as they happen; else only how the rows ended."""
    deadline_s: float


@dataclass(frozen=True)
class ReplicaNumbers:
    """What one replica is at, and what it has done."""

    replica: str
    engine: Numbers
    ages_s: tuple[float, float]
    """Age of the oldest row of people, and of batch jobs, that has not ended."""
    forwards: int
    lanes: int
    """Inputs of these forwards, padding included."""
    shards: int
    """Shards of batch jobs that were made."""


class Backend(Protocol):
    """The replicas of one model."""

    @property
    def num_replicas(self) -> int: ...

    def sample(self, job: Job) -> AsyncGenerator[list[News], None]:
        """News of the job's rows until all have ended, the first of them empty: they were taken in. Who stops listening
        takes the rows along.

        Raises:
            Busy: there is no room now.
        """

    async def score(self, texts: Sequence[str], scorers: Sequence[str]) -> dict[str, list[float]]:
        """Columns of numbers, one value a text."""

    async def numbers(self) -> list[ReplicaNumbers]:
        """Of every replica that answers in time."""

    async def ready(self) -> bool:
        """A replica answers."""
