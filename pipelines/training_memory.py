"""What one process of a training takes of memory, part by part, before anything is started.

Numbers of copies are those of ``components.training`` and ``cluster.zero`` as they are, and were held against the most memory
that processes had (``python -m tests.bench.memory``): they are within a quarter of it. On GPUs they were held against two
trainings in bfloat16 by plain torch, by hand, and are within a tenth of these; the rest is a count.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

from components.models.chunks import chunk_rows
from components.models.config import ModelConfig
from components.objectives import OBJECTIVES

FLOAT, HALF = 4, 2
BUCKET = 500_000_000
"""Gradients that DeepSpeed reduces at once."""
LIVE = 1_000_000_000
"""Weights that it keeps whole on a rank at stage 3."""
STATES = 4
"""Numbers that a checkpoint holds of each parameter: its weight, two moments and the average."""
WIDE, INNER = {"cpu": 10, "cuda": 12}, {"cpu": 2, "cuda": 3}
"""Of a position in a block, kept for the backward: so many times the width, and so many times the width inside."""
MOVING = 3
"""Of the block at work, so many times the width inside and the row of attention once more."""
ENDS = 4
"""Times the width, of a position outside the blocks: embeddings and what logits are read from."""


@dataclass(frozen=True)
class Shape:
    """What decides it."""

    model: ModelConfig
    parameters: int
    vocab_size: int
    objective: str
    rows: int
    """Of a micro-batch."""
    length: int
    workers: int = 1
    zero: int | None = None
    """DeepSpeed's stage; None is plain torch."""
    bf16: bool = False
    on_gpu: bool = False
    checkpointing: bool = False
    """Of activations."""
    offload: bool = False

    @property
    def positions(self) -> int:
        return self.rows * self.length

    @property
    def device(self) -> str:
        return "cuda" if self.on_gpu else "cpu"


@dataclass(frozen=True)
class Taken:
    """Bytes of one process, besides libraries, by part, at the top of a step."""

    parts: dict[str, int]
    """On the device that computes."""
    stored: int
    """On the host: what checkpoints are written from while the training goes on. It stays from the first of them on."""
    most: int
    """On the device that computes."""


def taken(shape: Shape) -> Taken:
    parts = copies(shape) | {
        "activations": activation_bytes(shape),
        "logits": head_bytes(shape),
    }
    stored = STATES * FLOAT * -(-shape.parameters // shape.workers)
    return Taken(parts, stored, sum(parts.values()) + (0 if shape.on_gpu else stored))


def copies(shape: Shape) -> dict[str, int]:
    """What lies there from step to step, and what DeepSpeed puts beside it in one: in whole, or spread over the workers."""
    whole, share = shape.parameters, -(-shape.parameters // shape.workers)
    if not shape.zero:  # plain torch, and stage 0, which reduces in buckets
        buffers = 0 if shape.zero is None else min(whole, BUCKET)
        return sized(weights=FLOAT * whole, gradients=FLOAT * whole, moments=2 * FLOAT * whole, average=FLOAT * whole, buffers=FLOAT * buffers)
    low = HALF if shape.bf16 else FLOAT
    owned = 0 if shape.offload else share
    weights = {1: low * whole, 2: low * whole, 3: low * (share + min(whole, LIVE))}[shape.zero] + FLOAT * owned
    gradients = low * (whole if shape.zero == 1 else share) + FLOAT * owned
    # On a CPU the allocator keeps what the weights took before they were cut up.
    before = FLOAT * whole if shape.zero == 3 and not shape.on_gpu else 0
    # An empty tensor takes its room on a GPU, and only what is written to of it on a CPU.
    bucket = low * (BUCKET if shape.on_gpu else min(whole, BUCKET))
    return sized(weights=weights, gradients=gradients, moments=2 * FLOAT * owned, average=FLOAT * owned, buffers=bucket + before)


def sized(**parts: int) -> dict[str, int]:
    return parts


def activation_bytes(shape: Shape) -> int:
    """Of a micro-batch, kept from its forward for its backward. Attention is written out on a CPU, row by row of every head."""
    c = shape.model.resolved()
    attention = 0 if shape.on_gpu else c.heads * shape.length
    conditioned = ENDS * c.dim if c.labelled or c.time_conditioning else 0
    block = WIDE[shape.device] * c.dim + INNER[shape.device] * c.mlp_dim + attention + conditioned
    moving = MOVING * (c.mlp_dim + attention)
    depth = c.depth + max(0, c.quality_layers)
    # Checkpointed, the block that is computed again, and what the allocator keeps of the one before.
    kept = depth * c.dim + 2 * block if shape.checkpointing else depth * block
    # Plain torch on a CPU keeps float32 beside what it rounds for products.
    rounded = shape.bf16 and (shape.zero or shape.on_gpu)
    return shape.positions * (kept + moving + ENDS * c.dim) * (HALF if rounded else FLOAT)


HEAD_COPIES = 4.5
"""Times the logits of all positions of a micro-batch, of objectives that keep them; of others there is one chunk."""


def head_bytes(shape: Shape) -> int:
    """Of logits and what a loss makes of them, at the top of a step."""
    if OBJECTIVES[shape.objective].keeps_logits:
        return int(HEAD_COPIES * shape.positions * shape.vocab_size * FLOAT)
    return min(shape.positions, chunk_rows(shape.device, shape.vocab_size)) * shape.vocab_size * FLOAT


def smaller(shape: Shape) -> Iterator[tuple[Shape, str]]:
    """The same training with less on a process, one remedy after the other, each with those before it. Rows of a step and so the
    result stay the same."""
    remedies: list[str] = []
    rows = shape.rows
    while rows > 1:
        rows //= 2
        yield dataclasses.replace(shape, rows=rows), f"runtime.micro_batch={rows}"
    if rows < shape.rows:
        shape, remedies = dataclasses.replace(shape, rows=rows), [f"runtime.micro_batch={rows}"]
    if not shape.checkpointing:
        shape, remedies = dataclasses.replace(shape, checkpointing=True), [*remedies, "runtime.activation_checkpointing=true"]
        yield shape, " ".join(remedies)
    if shape.zero in (0, 1, 2) and shape.workers > 1:
        yield dataclasses.replace(shape, zero=3), " ".join([*remedies, "runtime.zero_stage=3"])
