"""The shape of the network, without torch, so that a plan can be checked anywhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from components.errors import Problem
from components.options import Count, Natural, Positive, nearest, options

MAX_WEIGHTS = 1 << 40
"""Of a network. No cluster trains a larger one, so more is a slip."""

Size = Annotated[int, Field(ge=0, le=1 << 20)]


@options
class ModelConfig:
    """A transformer that is not causal. ``preset`` fills what is left at 0."""

    preset: str = "nano"
    """Sizes of a name; see MODEL_PRESETS."""
    dim: Size = 0
    """Width."""
    depth: Size = 0
    """Blocks."""
    heads: Size = 0
    """Heads of attention."""
    mlp_dim: Annotated[int, Field(ge=0, le=1 << 22)] = 0
    """Width inside SwiGLU; 8/3 of dim, rounded up to a multiple of 8, where the preset leaves it 0."""
    rope_theta: Annotated[float, Field(gt=0, le=1e12)] = 10000.0
    """Base of the rotary positions."""
    num_positions: Natural = 0
    """Learned absolute positions beside the rotary ones, for rows whose places have a meaning of
    their own (grids); no row can then be longer. 0 is none."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of activations that are dropped in training."""
    num_classes: Natural = 0
    """Number of classes that rows may have; 0 is none. One more embedding stands for "no class"."""
    value_range: tuple[float, ...] = ()
    """Where the values of a property lie that rows are conditioned on, as [lowest, highest]; empty is none. Values
    outside are seen, too."""
    time_conditioning: bool = False
    """Feed the time of the row to every block. The corrector pass gets the same time as the
    predictor pass it follows, in training and in sampling alike."""
    tie_embeddings: bool = False
    """Read logits with the table of input embeddings."""
    encoder: Literal["tokens", "dsl"] = "tokens"
    """What is read: a table of token embeddings, or DSL's noisy unit-norm embeddings."""
    noise_dim: Count = 32
    """Width of those."""
    mask_id: Natural = 0
    """The mask's place in the vocabulary; that encoder shows it as no evidence at all."""
    gamma_max: Positive = 100.0
    """Signal-to-noise ratio at which DSL's encoder sees a written token."""
    quality_layers: Annotated[int, Field(ge=-1, le=1 << 20)] = -1
    """Blocks of the head that says how good each token is; 0 is a norm and a line, -1 is no head."""
    adapter_rank: Natural = 0
    """Rank of adapters on queries, keys and values; 0 is none. Exports have them merged in."""
    policy: bool = False
    """A network that decides what to unmask, beside the trunk."""
    norm_eps: Annotated[float, Field(gt=0, le=1)] = 1e-6
    """Added under the root of norms."""
    shift_logits: bool = False
    """Read the logits of a position from the row before it, as networks that began as causal ones do."""
    attention_block: Natural = 0
    """Positions of an attention block, counted from the row's first: a position sees its own block and those before it, in
    training, scoring and sampling alike (block-causal, as in arXiv 2503.09573). 0 sees the whole row."""

    @property
    def labelled(self) -> bool:
        """Rows have a class or the value of a property."""
        return self.num_classes > 0 or bool(self.value_range)

    def resolved(self) -> ModelConfig:
        """The same with every size filled in from the preset."""
        sizes = MODEL_PRESETS[self.preset]
        dim = self.dim or sizes["dim"]
        mlp_dim = self.mlp_dim or (sizes.get("mlp_dim", 0) if not self.dim else 0)
        return dataclasses.replace(
            self,
            dim=dim,
            depth=self.depth or sizes["depth"],
            heads=self.heads or sizes["heads"],
            mlp_dim=mlp_dim or -(-dim * 8 // 3 // 8) * 8,
        )

    def problems(self, length: int) -> Iterator[Problem]:
        """Broken rules between options, for rows of this length; paths begin below the model."""
        if self.preset not in MODEL_PRESETS:
            known = list(MODEL_PRESETS)
            yield Problem("preset", self.preset, f"one of {', '.join(known)}", nearest(self.preset, known))
            return
        if self.value_range and (len(self.value_range) != 2 or self.value_range[0] >= self.value_range[1]):
            yield Problem("value_range", self.value_range, "empty, or the lowest and the highest value", "e.g. [0.1, 0.9]")
        if self.value_range and self.num_classes:
            yield Problem("value_range", self.value_range, "empty where num_classes is set", "choose one of them")
        full = self.resolved()
        if full.dim % full.heads or (full.dim // full.heads) % 2:
            rule = f"divides dim ({full.dim}) into heads of even width"
            yield Problem("heads", full.heads, rule, "change heads or dim")
        if (weights := full.num_parameters(self.num_classes)) > MAX_WEIGHTS:
            rule = f"a network of at most {MAX_WEIGHTS:.3g} weights; depth {full.depth} and mlp_dim {full.mlp_dim} make it {weights:.3g}"
            yield Problem("dim", full.dim, rule, "lower dim, depth or mlp_dim")
        if 0 < self.num_positions < length:
            rule = f"at least rows.length ({length})"
            yield Problem("num_positions", self.num_positions, rule, "raise it, or use 0")

    def block_parameters(self) -> int:
        """Weights of one block without conditioning."""
        c = self.resolved()
        return 4 * c.dim * c.dim + 3 * c.dim * c.mlp_dim + 2 * c.dim

    def num_parameters(self, vocab_size: int) -> int:
        """Weights of the network without conditioning."""
        c = self.resolved()
        embeddings = (1 if c.tie_embeddings else 2) * vocab_size + c.num_positions
        return c.depth * c.block_parameters() + embeddings * c.dim + c.dim

    def kept_bytes(self, length: int, number: int) -> int:
        """Memory of a row's keys and values in all layers, in numbers of so many bytes."""
        c = self.resolved()
        return c.depth * 2 * length * c.dim * number

    def flops(self, vocab_size: int, length: int) -> float:
        """Floating-point operations of one forward and backward of a position in a row of so many, read to the end.

        Products of matrices only: two for each weight and three times that with the backward.
        """
        c = self.resolved()
        norms = 2 * c.dim
        weights = c.depth * (c.block_parameters() - norms) + c.dim * vocab_size
        return 6.0 * weights + 12.0 * c.depth * c.dim * length


MODEL_PRESETS: dict[str, dict[str, int]] = {
    "nano": {"dim": 64, "depth": 3, "heads": 4},  # 0.15M
    "micro": {"dim": 96, "depth": 4, "heads": 4},  # 0.45M
    "mini": {"dim": 128, "depth": 4, "heads": 4},  # 0.8M
    "small": {"dim": 256, "depth": 6, "heads": 4},  # 4.7M
    "medium": {"dim": 384, "depth": 6, "heads": 6},  # 11M
    "large": {"dim": 512, "depth": 12, "heads": 8},  # 38M
    "dit_small": {"dim": 768, "depth": 12, "heads": 12, "mlp_dim": 2048},  # 85M + 2 x 39M of GPT-2 vocabulary
    "llada_8b": {"dim": 4096, "depth": 32, "heads": 32, "mlp_dim": 12288},
}
