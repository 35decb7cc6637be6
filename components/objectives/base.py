"""What an objective is: three acts, whose losses are sums and counts, term by term.

    corrupt   draw all noise that needs no network, once a step
    counts    by how much each term will be divided; known before any loss, from the corruption alone
    terms     call the network, and yield each term's sum

An objective never divides. The trainer adds counts over micro-batches and ranks, and every term enters the gradient
as ``loss_sum / global_count``. Terms are yielded one at a time and each is back-propagated before the next is
computed, so that only one graph is ever held.

Shapes: B rows, L positions, V tokens, N chosen positions, named by their flat index (row * L + position).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64
from torch import Tensor

from components.diffusion import noise
from components.diffusion.noise import Stream
from components.diffusion.schedule import Schedule, stratified_times


@dataclass(frozen=True)
class Batch:
    """Some rows of one global batch, clean."""

    tokens: Int64[Tensor, "B L"]
    maskable: Bool[Tensor, "B L"]
    """Where noise may come. A prompt is never noised."""
    target: Bool[Tensor, "B L"]
    """Where the loss counts; inside maskable."""
    index: Int64[Tensor, "B"]
    """Place of the row in the global batch."""
    keys: Int64[Tensor, "B 2"]
    """Random keys of the rows, from the training seed and the place in the global stream."""
    num_rows: int
    """Rows of the global batch."""
    step: int
    """Optimiser steps before this one."""
    label: Float32[Tensor, "B"] | None = None
    """Class of the row, negative where it has none or is hidden."""
    sizes: Int64[Tensor, "B"] | None = None
    """Positions of each row, on the host, where rows are of several lengths. What comes after them does not exist."""

    def only(self, rows: Int64[Tensor, "C"]) -> Batch:
        """Some of its rows, which keep their places in the global batch."""
        return replace(
            self,
            tokens=self.tokens[rows],
            maskable=self.maskable[rows],
            target=self.target[rows],
            index=self.index[rows],
            keys=self.keys[rows],
            label=None if self.label is None else self.label[rows],
            sizes=None if self.sizes is None else self.sizes[rows.cpu()],
        )

    @property
    def told(self) -> dict[str, Any]:
        """What a network is told of the rows besides tokens; of sizes only where there is something to tell."""
        return {"label": self.label} | ({} if self.sizes is None else {"sizes": self.sizes})

    def repeated(self, times: int) -> Batch:
        """All of its rows so many times, one copy after the other."""
        return self.only(torch.arange(len(self.index), device=self.index.device).repeat(times))

    @property
    def num_positions(self) -> int:
        """Positions of all rows."""
        return self.tokens.numel() if self.sizes is None else int(self.sizes.sum())

    def share(self, where: Bool[Tensor, "B L"]) -> Float32[Tensor, "B"]:
        """Of each row's positions."""
        if self.sizes is None:
            return where.float().mean(-1)
        return where.sum(-1).float() / self.sizes.to(where.device)

@runtime_checkable
class Network(Protocol):
    """What is trained: a denoiser that also takes what only objectives ask for; see ``Transformer.forward``."""

    def __call__(self, tokens: Tensor, **given: Any) -> Any:
        """A ``Prediction``, or with ``judge`` what was ``Judged``; ``given`` are the keywords of ``Transformer.forward``."""

    def decide(self, confidence: Tensor, masked: Tensor, time: Tensor, sizes: Tensor | None = None) -> Tensor:
        """The policy's reveal logits [R, L], given confidence [R, L], masked [R, L] bool and time [R], of rows of so many positions."""


Reward = Callable[[Tensor, Tensor], Tensor]
"""(rollouts [N, L], the clean rows whose prompts they continue [N, L]) -> rewards [N] in [0, 1]."""


@dataclass(frozen=True)
class Setting:
    """What an objective needs to know besides its own options."""

    mask_id: int
    schedule: Schedule
    """How much is masked at a time, and what a time weighs."""
    t_min: float
    """Smallest time that is drawn."""
    vocab_size: int
    reward: Reward | None = None
    """What rollouts are rewarded by; None where nothing can tell a good one."""
    any_process: Callable[[bool], bool] = bool
    """Does any process say yes? All of them must ask together."""


@dataclass(frozen=True)
class Term:
    """One part of a loss."""

    name: str
    loss_sum: Float[Tensor, ""]
    """Differentiable: a sum over target positions, in nats."""
    metrics: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Name to (sum, count), detached scalars; divided when they are reported."""

    def times(self, weight: float) -> Term:
        """This term with its sum multiplied; what is reported stays as it is."""
        return replace(self, loss_sum=weight * self.loss_sum)


Corrupted = TypeVar("Corrupted")
"""What an objective's noise made of a batch: a frozen dataclass of its own, or the batch where nothing is drawn."""


@dataclass(frozen=True)
class Objective(Generic[Corrupted]):
    """The three acts that a paper's file provides. The second and third are given what the first one made."""

    corrupt: Callable[[Batch], Corrupted]
    """Draw the noise of a step. Pure: the same batch gives the same noise."""
    counts: Callable[[Corrupted], dict[str, Tensor]]
    """Term name to the count by which its sum will be divided. Names every term that will come."""
    terms: Callable[[Network, Corrupted], Iterator[Term]]
    """Call the network and yield one term after the other."""


Build = Callable[[Any, Setting], Objective[Any]]


def draw_times(batch: Batch, t_min: float) -> Float32[Tensor, "B"]:
    """A time in [t_min, 1] for each row, stratified over the global batch: the same at any world size."""
    jitter = noise.uniform(batch.keys, batch.step, 0, 1, Stream.TIME)[:, 0]
    return stratified_times(batch.index, batch.num_rows, jitter, t_min).float()


def uniforms(batch: Batch, stream: Stream, inner: int = 0) -> Float64[Tensor, "B L"]:
    """A uniform in (0, 1) for each position, for the purpose ``stream``; ``inner`` counts repetitions in a step."""
    return noise.uniform(batch.keys, batch.step, inner, batch.tokens.shape[1], stream)


def one_uniform(batch: Batch, stream: Stream) -> Float64[Tensor, "B"]:
    """A uniform in (0, 1) for each row, for the purpose ``stream``."""
    return noise.uniform(batch.keys, batch.step, 0, 1, stream)[:, 0]


def corruption(batch: Batch) -> Float64[Tensor, "B L"]:
    """The uniform of each position that decides whether it is masked."""
    return uniforms(batch, Stream.CORRUPT)


def nowhere(tokens: Int64[Tensor, "B L"]) -> Int64[Tensor, "0"]:
    """No flat index at all: ``select`` of a call that is made for the sake of a head."""
    return torch.zeros(0, dtype=torch.int64, device=tokens.device)


def flat_index(where: Bool[Tensor, "B L"]) -> Int64[Tensor, "N"]:
    """Flat indices (row * L + position) of the positions of ``where``."""
    return where.flatten().nonzero()[:, 0]
