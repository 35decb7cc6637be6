"""What an objective is: sums and counts, term by term.

An objective never divides. Each term's count is known before its loss, because it depends on the
batch and the corruption alone; the trainer adds counts over micro-batches and ranks, and every term
enters the gradient as ``loss_sum / global_count``. Terms are yielded one at a time and each is
back-propagated before the next is computed, so that only one graph is ever held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from components.diffusion import noise
from components.diffusion.noise import Stream
from components.diffusion.schedule import Schedule, stratified_times
from components.models.denoiser import Prediction


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


class Network(Protocol):
    """What is trained: a denoiser that also takes what only objectives ask for; see ``Transformer.forward``."""

    def __call__(self, tokens: Tensor, **given: Any) -> Prediction: ...


Judge = Callable[[Tensor, Tensor], Tensor]
"""(rollouts [N, L], the clean rows whose prompts they continue [N, L]) -> rewards [N] in [0, 1]."""


@dataclass(frozen=True)
class Setting:
    """What an objective needs to know besides its own options."""

    mask_id: int
    schedule: Schedule
    t_min: float
    vocab_size: int
    judge: Judge | None = None
    """What rollouts are rewarded by."""
    anyone: Callable[[bool], bool] = bool
    """Does any process say yes? All of them must ask together."""


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
    terms: Callable[[Network, Batch], Iterator[Term]]


Build = Callable[[Any, Setting], Objective]


def draw_times(batch: Batch, t_min: float) -> Tensor:
    """Stratified times [B], float32, the same at any world size."""
    jitter = noise.uniform(batch.keys, batch.step, 0, 1, Stream.TIME)[:, 0]
    return stratified_times(batch.index, batch.num_rows, jitter, t_min).float()


def uniforms(batch: Batch, stream: Stream, inner: int = 0) -> Tensor:
    """Uniforms [B, L] for one purpose."""
    return noise.uniform(batch.keys, batch.step, inner, batch.tokens.shape[1], stream)


def one_uniform(batch: Batch, stream: Stream) -> Tensor:
    """A uniform for each row [B]."""
    return noise.uniform(batch.keys, batch.step, 0, 1, stream)[:, 0]


def corruption(batch: Batch) -> Tensor:
    """Uniforms [B, L] that decide which tokens are masked."""
    return noise.uniform(batch.keys, batch.step, 0, batch.tokens.shape[1], Stream.CORRUPT)
