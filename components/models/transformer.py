"""The transformer: RoPE, RMSNorm, SwiGLU, optional conditioning on time and on a class or a value.

Conditioning follows DiT (arXiv 2212.09748): a shift, scale and gate per sub-block from one
conditioning vector, started at zero; the layers exist only where something conditions them.
B rows, L positions, D width, H heads, N selected positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from components.diffusion.gpu import makes_kernels
from components.models.config import ModelConfig
from components.models.denoiser import Past, Prediction
from components.models.heads import Head, PolicyNet, QualityHead
from components.models.initial import init_weights
from components.models.judging import Judge, Judged
from components.models.layers import (
    Block,
    ClassEmbedding,
    Embedding,
    Linear,
    Memory,
    Norm,
    TimeEmbedding,
    ValueEmbedding,
    rotary_table,
)
from components.models.noisy import NoisyEncoder
from components.models.permuted import Permuted
from components.models.seen import Seen
from components.models.segments import Segments, blocks_seen, rows_seen, segments_of
from components.models.tiles import Tiles


class Transformer(nn.Module):
    """Tokens in, logits out, or a loss of them. See ``components.models.denoiser.Denoiser``."""

    def __init__(self, config: ModelConfig, vocab_size: int):
        super().__init__()
        self.config = config = config.resolved()
        self.vocab_size = vocab_size
        self.activation_checkpointing = self.compiled = False
        self.tiles: Tiles | None = None
        """What is computed of wanted positions alone is taken in these, so that the last bits of a position's logits do not depend
        on how many there are; None takes all that are wanted at once, as learning does."""
        self.embed = Embedding(vocab_size, config.dim)
        self.encoder = NoisyEncoder(config, vocab_size) if config.encoder == "dsl" else None
        self.position_embed = Embedding(config.num_positions, config.dim) if config.num_positions else None
        conditioned = config.time_conditioning or config.labelled
        self.label_embed: nn.Module | None = None
        if config.num_classes:
            self.label_embed = ClassEmbedding(config.num_classes, config.dim)
        if config.value_range:
            self.label_embed = ValueEmbedding(config.value_range, config.dim)
        self.time_embed = TimeEmbedding(config.dim) if config.time_conditioning else None
        self.blocks = nn.ModuleList(Block(config, conditioned) for _ in range(config.depth))
        self.norm = Norm(config.dim, eps=config.norm_eps)
        self.head = Head(config.dim, vocab_size)
        self.quality = QualityHead(config) if config.quality_layers >= 0 else None
        self.policy = PolicyNet() if config.policy else None
        if config.tie_embeddings:
            self.head.weight = self.embed.weight
        init_weights(self, config.depth)

    def freeze_trunk(self) -> None:
        """Make all weights but those of adapters and heads constants, from now on."""
        for name, module in self.named_modules():
            if isinstance(module, Linear | Norm | Embedding) and not name.startswith(("quality.", "policy.")):
                module.frozen = ".adapter." not in name

    def compile_blocks(self) -> None:
        """Have each block computed by kernels that are made for it in its first call of a shape: all have the same ones. Nothing
        changes where none can be made."""
        self.compiled = makes_kernels()
        for block in self.blocks if self.compiled else ():
            block.compile()

    def forward(
        self,
        tokens: Tensor | None = None,
        *,
        select: Tensor | None = None,
        label: Tensor | None = None,
        time: Tensor | None = None,
        soft: tuple[Tensor, Tensor] | None = None,
        dense: Tensor | None = None,
        heads: tuple[str, ...] = (),
        evidence: tuple[Tensor, Tensor] | None = None,
        permuted: Permuted | None = None,
        decided: tuple[Tensor, Tensor, Tensor] | None = None,
        frozen: bool = False,
        past: Past | None = None,
        keep: bool = False,
        judge: Judge | None = None,
        sizes: Tensor | None = None,
    ) -> Prediction | Judged | Tensor:
        """Predict, see ``components.models.denoiser.Denoiser``; or, with ``decided`` alone, ask the policy.

        Two questions share one entry because DeepSpeed keeps account of sharded parameters (ZeRO 3) around calls
        of the root module only. ``decide`` asks the second one.

        Args:
            evidence: (gamma [B, L], noise [B, L, D]): see noisy embeddings of the tokens, made here so that
                the table's gradient is kept.
            permuted: predict in a given order; logits are those of the query rows.
            frozen: no gradient to the trunk.
            decided: (confidence [B, L], masked [B, L] bool, time [B]): what the policy decides by.
            judge: what is wanted of the positions ``select`` in place of their logits.
            sizes: [B] on the host: no more positions of each row exist. Whole outputs are zero at the others. Not with ``past`` or ``keep``.
        Returns:
            The prediction, or what was judged, or the policy's reveal logits [B, L].
        """
        if decided is not None:
            if self.policy is None:
                raise ValueError("this network has no unmasking policy")
            logits: Tensor = self.policy(*decided, sizes)
            return logits
        assert tokens is not None, "a prediction is asked for without tokens"
        segments = None if sizes is None or permuted is not None else segments_of(sizes, tokens, self.config)
        if segments is not None:
            tokens, soft, dense, evidence = segments.shown(tokens, soft, dense, evidence)
            select = None if select is None else segments.places(select)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            memory = Memory(past) if past is not None or keep else None
            x, seen = self.trunk(tokens, label, time, soft, dense, evidence, permuted, memory, segments or sizes)
            if select is None or heads or permuted is not None or not self.narrows(x):
                x = self.through(self.blocks[-1], x, seen)
                wanted = self.hidden(x, permuted, segments, select)
            else:
                wanted = self.norm(self.narrowed(x, seen, select))
            if judge is not None:
                return Judged(*self.head(wanted, judge))
            logits = self.head(wanted) if select is None else self.read_out(wanted)
        outputs = {name: self.read_head(name, x, seen) for name in heads}
        if segments is not None:
            logits, outputs = segments.answer(logits, outputs, whole=select is None)
        return Prediction(logits, outputs, None if memory is None or not keep else torch.stack(memory.kept))

    def trunk(
        self,
        tokens: Tensor,
        label: Tensor | None,
        time: Tensor | None,
        soft: tuple[Tensor, Tensor] | None,
        dense: Tensor | None,
        evidence: tuple[Tensor, Tensor] | None,
        permuted: Permuted | None,
        memory: Memory | None,
        rows: Segments | Tensor | None,
    ) -> tuple[Tensor, Seen]:
        """(features [B, L, D] that the last block is given, what all blocks are given besides). ``rows`` of several lengths are
        segments, or of sizes [B] where they are permuted."""
        length, copies = tokens.shape[1], 1 if permuted is None else permuted.copies
        if permuted is not None:
            tokens = permuted.rows(tokens)
        x = self.see(tokens, soft, dense, evidence)
        past = None if memory is None else memory.past
        at = torch.arange(length, device=tokens.device) if past is None else past.at(length)
        at = rows.position if isinstance(rows, Segments) else at
        visible = rows if isinstance(rows, Segments) else self.visible(at, past, permuted, rows)
        if self.position_embed is not None:
            places = self.position_embed(at)
            x = x + (places.repeat(copies, 1) if past is None else places)
        condition = self.condition(tokens, label, time)
        cos, sin = rotary_table(at, self.config, x)
        rope = (cos.repeat(copies, 1), sin.repeat(copies, 1)) if past is None else (cos[:, None], sin[:, None])
        seen = Seen(rope, condition, visible, memory)
        for block in self.blocks[:-1]:
            x = self.through(block, x, seen)
        return x, seen

    def through(self, block: nn.Module, x: Tensor, seen: Seen) -> Tensor:
        """Features [B, L, D] after a block."""
        call = block.forward if self.compiled and seen.plain else block
        again = self.activation_checkpointing and torch.is_grad_enabled()
        after: Tensor = checkpoint(call, x, *seen, use_reentrant=False) if again else call(x, *seen)
        return after

    def hidden(self, x: Tensor, permuted: Permuted | None, segments: Segments | None, select: Tensor | None) -> Tensor:
        """Features [B, L, D] that logits are read from, or those of selected positions [N, D]."""
        hidden: Tensor = self.norm(x)
        if permuted is not None:
            hidden = hidden[:, -(hidden.shape[1] // permuted.copies) :]
        if self.config.shift_logits:  # such networks are shown whole rows alone
            before = torch.cat([hidden[:, :1], hidden[:, :-1]], dim=1)
            hidden = before if segments is None else segments.at_firsts(hidden, before)
        return hidden if select is None else hidden.flatten(0, 1).index_select(0, select)

    def narrows(self, x: Tensor) -> bool:
        """Is the last block's second half computed at wanted positions alone? On a GPU it is compiled for whole rows."""
        return not (x.is_cuda or self.config.shift_logits or (self.activation_checkpointing and torch.is_grad_enabled()))

    def narrowed(self, x: Tensor, seen: Seen, select: Tensor) -> Tensor:
        """Features [N, D] of selected positions after the last block, given those of all [B, L, D] before it."""
        last = self.blocks[-1]
        assert isinstance(last, Block)
        changes = last.changes(seen.condition, seen.visible)
        found = last.attend(x, seen.rope, changes, seen.visible, seen.memory)
        rows = [some.flatten(0, 1).index_select(0, select) for some in (x, found)]
        rows.append(select // x.shape[1] if not isinstance(seen.visible, Segments) else select)

        def write(rows: Sequence[Tensor], sizes: list[int]) -> Tensor:
            parts = []
            for x, found, row in zip(*(some.split(sizes) for some in rows), strict=True):
                parts.append(last.write(x, found, None if changes is None else changes.flatten(0, 1).index_select(0, row)))
            return torch.cat(parts)

        return write(rows, [len(select)]) if self.tiles is None else self.tiles.computed("last block", write, rows)

    def visible(self, at: Tensor, past: Past | None, permuted: Permuted | None, sizes: Tensor | None) -> Tensor | None:
        """What the positions at [B, W] or [W] see, [B or 1, W, all] bool; None where that is everything."""
        whole = at.shape[-1] if past is None else past.kept.shape[-2]
        blocks = blocks_seen(at, whole, self.config.attention_block)
        if permuted is None:
            return blocks
        seen = permuted.visible()
        if sizes is not None:
            seen = seen & rows_seen(sizes, whole, permuted.copies, at.device)
        return seen if blocks is None else seen & blocks.repeat(1, permuted.copies, permuted.copies)

    def read_out(self, wanted: Tensor) -> Tensor:
        """Logits [N, V] of selected features [N, D]."""
        if self.tiles is None:
            logits: Tensor = self.head(wanted)
            return logits
        return self.tiles.computed("head", self.head.in_tiles, [wanted])

    def read_head(self, name: str, x: Tensor, seen: Seen) -> Tensor:
        """The output [B, L] of a head by name."""
        if self.quality is None or name not in ("quality", "quality_logits"):
            raise ValueError(f"this network has no head {name!r}")
        logits = self.quality(x, seen.rope, seen.visible)
        return logits if name == "quality_logits" else torch.sigmoid(logits.double())

    def decide(self, confidence: Tensor, masked: Tensor, time: Tensor, sizes: Tensor | None = None) -> Tensor:
        """The policy's reveal logits [B, L], given confidence [B, L], masked [B, L] bool and time [B], of rows of so many positions.

        Raises:
            ValueError: the network has no policy.
        """
        return self(decided=(confidence, masked, time), sizes=sizes)

    def see(
        self,
        tokens: Tensor,
        soft: tuple[Tensor, Tensor] | None,
        dense: Tensor | None,
        evidence: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        """Embeddings [B, L, D] of tokens, of mixtures, or of noisy embeddings."""
        if self.encoder is not None:
            # Through modules only: a sharded parameter is whole inside its module's call and nowhere else.
            everything = self.embed(torch.arange(self.vocab_size, device=tokens.device))
            posterior = self.encoder(tokens, dense, evidence)
            return posterior.to(everything.dtype) @ everything
        if dense is not None or evidence is not None:
            raise ValueError("this network has no encoder for noisy embeddings")
        if soft is None:
            embedded: Tensor = self.embed(tokens)
            return embedded
        ids, weights = soft
        mixed: Tensor = self.embed(ids)
        return (mixed * weights[..., None].to(mixed.dtype)).sum(-2)

    def condition(self, tokens: Tensor, label: Tensor | None, time: Tensor | None) -> Tensor | None:
        """The conditioning vector [B, D], or None for an unconditional network."""
        parts = []
        if self.label_embed is not None:
            if label is None:
                label = torch.full((tokens.shape[0],), torch.nan, device=tokens.device)
            parts.append(self.label_embed(label))
        if self.time_embed is not None:
            if time is None:
                raise ValueError("this network is conditioned on time, and no time was given")
            parts.append(self.time_embed(time))
        return F.silu(sum(parts[1:], parts[0])) if parts else None
