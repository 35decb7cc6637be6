"""What an objective is: sums and counts, term by term.

An objective never divides. Each term's count is known before its loss, because it depends on the
batch and the corruption alone; the trainer adds counts over micro-batches and ranks, and every term
enters the gradient as ``loss_sum / global_count``. Terms are yielded one at a time and each is
back-propagated before the next is computed, so that only one graph is ever held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from components.diffusion import noise
from components.diffusion.noise import Stream
from components.diffusion.schedule import Schedule, stratified_times
from components.models.denoiser import Denoiser


@dataclass(frozen=True)
class Batch:
    """Some rows of one global batch. B rows, L positions."""

    tokens: Tensor
    """[B, L] int64, clean."""
    maskable: Tensor
    """[B, L] bool: may be noised. A prompt never is."""
    target: Tensor
    """[B, L] bool, inside maskable: counts in the loss."""
    index: Tensor
    """[B] int64: place of the row in the global batch."""
    keys: Tensor
    """[B, 2]: random keys of the rows, from the training seed and the place in the global stream."""
    num_rows: int
    """Rows of the global batch."""
    step: int
    label: Tensor | None = None


@dataclass(frozen=True)
class Setting:
    """What an objective needs to know besides its own options."""

    mask_id: int
    schedule: Schedule
    t_min: float


@dataclass(frozen=True)
class Term:
    """One part of a loss."""

    name: str
    loss_sum: Tensor
    """Scalar, differentiable: a sum over target positions, in nats."""
    metrics: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Name to (sum, count), detached; divided when they are reported."""


@dataclass(frozen=True)
class Objective:
    """The two functions that a paper's file provides."""

    counts: Callable[[Batch], dict[str, Tensor]]
    """Term name to the count by which its sum will be divided. Names every term that will come."""
    terms: Callable[[Denoiser, Batch], Iterator[Term]]


Build = Callable[[Any, Setting], Objective]


def draw_times(batch: Batch, t_min: float) -> Tensor:
    """Stratified times [B], float32, the same at any world size."""
    jitter = noise.uniform(batch.keys, batch.step, 0, 1, Stream.TIME)[:, 0]
    return stratified_times(batch.index, batch.num_rows, jitter, t_min).float()


def corruption(batch: Batch) -> Tensor:
    """Uniforms [B, L] that decide which tokens are masked."""
    return noise.uniform(batch.keys, batch.step, 0, batch.tokens.shape[1], Stream.CORRUPT)
