"""The bidirectional transformer: RoPE, RMSNorm, SwiGLU, optional class and time conditioning.

Conditioning follows DiT (arXiv 2212.09748): a shift, scale and gate per sub-block from one
conditioning vector, started at zero; the layers exist only where something conditions them.
B rows, L positions, D width, H heads, N selected positions, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from components.models.config import ModelConfig
from components.models.denoiser import Prediction


class Linear(nn.Linear):
    """A linear layer whose weights may be constants: ``frozen`` layers pass gradients on and get none."""

    frozen = False

    def forward(self, x: Tensor) -> Tensor:
        if not self.frozen:
            return super().forward(x)
        return F.linear(x, self.weight.detach(), None if self.bias is None else self.bias.detach())


class Norm(nn.RMSNorm):
    """The same for a norm."""

    frozen = False

    def forward(self, x: Tensor) -> Tensor:
        if not self.frozen:
            return super().forward(x)
        return F.rms_norm(x, self.normalized_shape, self.weight.detach(), self.eps)


class Embedding(nn.Embedding):
    """The same for a table."""

    frozen = False

    def forward(self, x: Tensor) -> Tensor:
        return F.embedding(x, self.weight.detach()) if self.frozen else super().forward(x)


class Transformer(nn.Module):
    """Tokens in, logits out. See ``components.models.denoiser.Denoiser``."""

    def __init__(self, config: ModelConfig, vocab_size: int):
        super().__init__()
        self.config = config = config.resolved()
        self.vocab_size = vocab_size
        self.activation_checkpointing = False
        self.embed = Embedding(vocab_size, config.dim)
        self.encoder = NoisyEncoder(config, vocab_size) if config.encoder == "dsl" else None
        self.position_embed = Embedding(config.num_positions, config.dim) if config.num_positions else None
        conditioned = config.time_conditioning or config.num_classes > 0
        self.label_embed = Embedding(config.num_classes + 1, config.dim) if config.num_classes else None
        self.time_embed = TimeEmbedding(config.dim) if config.time_conditioning else None
        self.blocks = nn.ModuleList(Block(config, conditioned) for _ in range(config.depth))
        self.norm = Norm(config.dim, eps=config.norm_eps)
        self.head = Linear(config.dim, vocab_size, bias=False)
        self.quality = QualityHead(config) if config.quality_layers >= 0 else None
        self.policy = PolicyNet() if config.policy else None
        if config.tie_embeddings:
            self.head.weight = self.embed.weight
        self.init_weights()

    def freeze_trunk(self) -> None:
        """Make all weights but those of adapters and heads constants, from now on."""
        for name, module in self.named_modules():
            if isinstance(module, Linear | Norm | Embedding) and not name.startswith(("quality.", "policy.")):
                module.frozen = ".adapter." not in name

    def init_weights(self) -> None:
        """Normal; matrices by their fan-in, residual outputs scaled down by depth, conditioning at zero."""
        for name, parameter in self.named_parameters():
            if "modulation" in name:
                nn.init.zeros_(parameter)
            elif name.startswith("policy."):
                continue  # it has a start of its own
            elif name.endswith("adapter.up.weight"):
                nn.init.zeros_(parameter)
            elif "embed" in name or name == "head.weight":
                nn.init.normal_(parameter, std=0.1 if "embed" in name else 0.02)
            elif parameter.dim() >= 2:
                residual = name.endswith(("attention.out.weight", "mlp.down.weight"))
                nn.init.normal_(
                    parameter, std=(parameter.shape[1] * (2 * self.config.depth if residual else 1)) ** -0.5
                )

    def forward(
        self,
        tokens: Tensor,
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
    ) -> Prediction:
        """See ``components.models.denoiser.Denoiser``. What only objectives use:

        Args:
            evidence: (gamma [B, L], noise [B, L, D]): see noisy embeddings of the tokens, made here so that
                the table's gradient is kept.
            permuted: predict in a given order; logits are those of the query rows.
            decided: (confidence [B, L], masked [B, L], time [B]): ask the policy alone; its logits come as
                the head ``policy``, and ``tokens`` are not read.
            frozen: no gradient to the trunk.
        """
        if decided is not None:
            return self.decide(decided)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            x, rope, hidden = self.trunk(tokens, label, time, soft, dense, evidence, permuted)
            wanted = hidden if select is None else hidden.flatten(0, 1).index_select(0, select)
            logits = self.head(wanted)
        outputs = {name: self.read_head(name, x, rope) for name in heads}
        return Prediction(logits, hidden, outputs)

    def trunk(
        self,
        tokens: Tensor,
        label: Tensor | None,
        time: Tensor | None,
        soft: tuple[Tensor, Tensor] | None,
        dense: Tensor | None,
        evidence: tuple[Tensor, Tensor] | None,
        permuted: Permuted | None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor]:
        """(last features, rotary table, normed features that logits are read from)."""
        length, copies = tokens.shape[1], 1 if permuted is None else permuted.copies
        visible = None if permuted is None else permuted.visible()
        if permuted is not None:
            tokens = permuted.rows(tokens)
        x = self.see(tokens, soft, dense, evidence)
        if self.position_embed is not None:
            x = x + self.position_embed(torch.arange(length, device=tokens.device)).repeat(copies, 1)
        condition = self.condition(tokens, label, time)
        cos, sin = rotary_table(length, self.config, x)
        rope = (cos.repeat(copies, 1), sin.repeat(copies, 1))
        for block in self.blocks:
            if self.activation_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, rope, condition, visible, use_reentrant=False)
            else:
                x = block(x, rope, condition, visible)
        hidden = self.norm(x)
        if permuted is not None:
            hidden = hidden[:, -length:]
        if self.config.shift_logits:
            hidden = torch.cat([hidden[:, :1], hidden[:, :-1]], dim=1)
        return x, rope, hidden

    def read_head(self, name: str, x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        """The output [B, L] of a head by name."""
        if self.quality is None or name not in ("quality", "quality_logits"):
            raise ValueError(f"this network has no head {name!r}")
        logits = self.quality(x, rope)
        return logits if name == "quality_logits" else torch.sigmoid(logits.float())

    def decide(self, inputs: tuple[Tensor, Tensor, Tensor]) -> Prediction:
        """The policy's reveal logits [B, L]."""
        if self.policy is None:
            raise ValueError("this network has no unmasking policy")
        logits = self.policy(*inputs)
        return Prediction(logits, logits, {"policy": logits})

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
                label = tokens.new_full((tokens.shape[0],), -1)
            parts.append(self.label_embed(torch.where(label < 0, self.config.num_classes, label)))
        if self.time_embed is not None:
            if time is None:
                raise ValueError("this network is conditioned on time, and no time was given")
            parts.append(self.time_embed(time))
        return F.silu(sum(parts[1:], parts[0])) if parts else None


@dataclass(frozen=True)
class Permuted:
    """Rows predicted in an order of their own (MaPeT, arXiv 2306.07346).

    The row is repeated: its content, a mask at every position (so that the number and the places of
    the unknowns are known), and, in the two-stream form, a query at every position. Nobody sees a query, so
    content and mask rows are the paper's content stream and queries its query stream, with shared weights.
    """

    rank: Tensor
    """[B, L]: place in the order; 0 is context, which everybody sees."""
    mask_id: int
    two_streams: bool = True
    """False: mask rows are the queries, and see no later mask row, which would leak."""

    @property
    def copies(self) -> int:
        return 3 if self.two_streams else 2

    def rows(self, tokens: Tensor) -> Tensor:
        """[B, copies x L]."""
        masks = torch.full_like(tokens, self.mask_id)
        return torch.cat([tokens, *[masks] * (self.copies - 1)], dim=1)

    def visible(self) -> Tensor:
        """[B, copies x L, copies x L] bool: may the row see the column?"""
        rank = self.rank
        own = torch.eye(rank.shape[1], dtype=torch.bool, device=rank.device)[None]
        known, unknown = (rank == 0)[:, None, :], (rank > 0)[:, None, :]
        earlier = known | (rank[:, None, :] < rank[:, :, None])
        nothing = torch.zeros_like(earlier)
        if not self.two_streams:
            past = unknown & (rank[:, None, :] <= rank[:, :, None])
            content = torch.cat([earlier | own, nothing | (past & ~own)], dim=2)
            query = torch.cat([earlier, past | own], dim=2)
            return torch.cat([content, query], dim=1)
        later = unknown & (rank[:, None, :] >= rank[:, :, None])
        content = torch.cat([earlier | own, later, nothing], dim=2)
        mask = torch.cat([known.expand_as(earlier), unknown | own, nothing], dim=2)
        query = torch.cat([earlier, later | own, nothing], dim=2)
        return torch.cat([content, mask, query], dim=1)


class Block(nn.Module):
    def __init__(self, config: ModelConfig, conditioned: bool):
        super().__init__()
        self.norm_attention = Norm(config.dim, eps=config.norm_eps)
        self.attention = Attention(config)
        self.norm_mlp = Norm(config.dim, eps=config.norm_eps)
        self.mlp = SwiGLU(config)
        self.dropout = config.dropout
        self.modulation = Linear(config.dim, 6 * config.dim) if conditioned else None

    def forward(
        self, x: Tensor, rope: tuple[Tensor, Tensor], condition: Tensor | None, visible: Tensor | None = None
    ) -> Tensor:
        if self.modulation is None or condition is None:
            x = x + F.dropout(self.attention(self.norm_attention(x), rope, visible), self.dropout, self.training)
            return x + F.dropout(self.mlp(self.norm_mlp(x)), self.dropout, self.training)
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(condition)[:, None].chunk(6, dim=-1)
        attended = self.attention(self.norm_attention(x) * (1 + scale1) + shift1, rope, visible)
        x = x + (1 + gate1) * F.dropout(attended, self.dropout, self.training)
        widened = self.mlp(self.norm_mlp(x) * (1 + scale2) + shift2)
        return x + (1 + gate2) * F.dropout(widened, self.dropout, self.training)


class Attention(nn.Module):
    """Full attention: every position sees every other, padding included, unless ``visible`` [B, L, L] says otherwise.

    On a CPU the product is written out: torch's blocked kernel makes many small matrix products,
    which are several times slower on the matrix route that the rest of the network gains from.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.heads = config.heads
        self.qkv = Linear(config.dim, 3 * config.dim, bias=False)
        self.adapter = LowRank(config.dim, 3 * config.dim, config.adapter_rank) if config.adapter_rank else None
        self.out = Linear(config.dim, config.dim, bias=False)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], visible: Tensor | None = None) -> Tensor:
        rows, length, dim = x.shape
        projected = self.qkv(x) if self.adapter is None else self.qkv(x) + self.adapter(x)
        qkv = projected.view(rows, length, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        (q, k), v = rotate(qkv[:2], rope), qkv[2]
        mask = None if visible is None else visible[:, None]
        if x.is_cuda:
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        else:
            scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
            if mask is not None:
                scores = scores.masked_fill(~mask, float("-inf"))
            attended = torch.softmax(scores, dim=-1) @ v
        return self.out(attended.transpose(1, 2).reshape(rows, length, dim))


class LowRank(nn.Module):
    """A change of a matrix by a product of two thin ones (LoRA, arXiv 2106.09685); it starts at zero."""

    def __init__(self, width: int, out: int, rank: int):
        super().__init__()
        self.down = Linear(width, rank, bias=False)
        self.up = Linear(rank, out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        changed: Tensor = self.up(self.down(x))
        return changed


class SwiGLU(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        self.gate_up = Linear(config.dim, 2 * config.mlp_dim, bias=False)
        self.down = Linear(config.mlp_dim, config.dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


class TimeEmbedding(nn.Module):
    """Sinusoids of the time in [0, 1], then two layers."""

    def __init__(self, dim: int, num_frequencies: int = 64):
        super().__init__()
        self.num_frequencies = num_frequencies
        self.layers = nn.Sequential(Linear(2 * num_frequencies, dim), nn.SiLU(), Linear(dim, dim))

    def forward(self, time: Tensor) -> Tensor:
        exponents = torch.arange(self.num_frequencies, device=time.device) / self.num_frequencies
        angles = time[:, None].float() * 1000 * torch.exp(-math.log(10000.0) * exponents)
        waves = torch.cat([angles.cos(), angles.sin()], dim=-1)
        dtype = next(self.layers.parameters()).dtype
        projected: Tensor = self.layers(waves.to(dtype))
        return projected


class QualityHead(nn.Module):
    """How likely each token of the row is to be right, given the others (PRISM, arXiv 2510.01384): blocks, then
    a line to one logit. It starts at 1/2 everywhere."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.blocks = nn.ModuleList(Block(config, conditioned=False) for _ in range(config.quality_layers))
        self.norm = Norm(config.dim, eps=config.norm_eps)
        self.modulation = Linear(config.dim, 1)  # named so that it starts at zero

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        """Logits [B, L], of the trunk's last features [B, L, D]."""
        for block in self.blocks:
            x = block(x, rope, None)
        found: Tensor = self.modulation(self.norm(x))[..., 0]
        return found


class NoisyEncoder(nn.Module):
    """DSL's input (arXiv 2602.16169): a posterior over the vocabulary from a noisy unit-norm embedding z,
    and the expected token embedding under it.

        P = softmax(z K^T / sqrt(d) + b),  K unit-norm rows, the mask's row 0;  input = P E

    With unit norms z alone decides, whatever its signal-to-noise ratio is. At z = 0 the mask has
    99% of the posterior: b_mask = log(99 (V - 1)).
    """

    def __init__(self, config: ModelConfig, vocab_size: int):
        super().__init__()
        self.gamma_max, self.mask_id = config.gamma_max, config.mask_id
        self.directions_embed = nn.Parameter(torch.randn(vocab_size, config.noise_dim))

    def table(self) -> Tensor:
        """[V, d]: unit rows, the mask's zero."""
        table = nn.functional.normalize(self.directions_embed, dim=-1)
        return table.masked_fill(self.is_mask()[:, None], 0)

    def is_mask(self) -> Tensor:
        return torch.arange(len(self.directions_embed), device=self.directions_embed.device) == self.mask_id

    def written(self, tokens: Tensor) -> Tensor:
        """z [B, L, d] of tokens at the largest ratio, of masks at 0."""
        return self.gamma_max * self.table()[tokens]

    def noisy(self, tokens: Tensor, gamma: Tensor, eps: Tensor) -> Tensor:
        """z = gamma e + sqrt(gamma) eps [B, L, d]; gamma [B, L]."""
        scale = gamma[..., None].to(eps)
        return scale * self.table()[tokens] + scale.sqrt() * eps

    def forward(
        self, tokens: Tensor, dense: Tensor | None = None, evidence: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """P [B, L, V], of written tokens, or of given z, or of noisy embeddings of the tokens."""
        if evidence is not None:
            dense = self.noisy(tokens, *evidence)
        z = self.written(tokens) if dense is None else dense
        size, width = self.directions_embed.shape
        bias = self.is_mask() * math.log(99 * (size - 1))
        logits = z.float() @ self.table().float().T / math.sqrt(width) + bias
        return torch.softmax(logits, dim=-1)


class PolicyNet(nn.Module):
    """What to unmask (arXiv 2512.09106): confidence, mask and time of every position in, one logit a position out.

    One block of width 128 over (confidence, mask) features, conditioned on the time, and an output bias of -2:
    it starts by revealing a masked position with probability sigmoid(-2 / tau). About 0.3M parameters.
    Departure: the time's sinusoids have usual frequencies; the released ones are degenerate (max_period = 1).
    """

    def __init__(self, dim: int = 128, heads: int = 2, start_bias: float = -2.0):
        super().__init__()
        self.config = ModelConfig(dim=dim, depth=1, heads=heads, mlp_dim=4 * dim).resolved()
        self.features = Linear(2, dim)
        self.time_embed = TimeEmbedding(dim)
        self.block = Block(self.config, conditioned=True)
        self.norm = Norm(dim, eps=1e-6)
        self.out = Linear(dim, 1)
        modulation = self.block.modulation
        assert modulation is not None
        for parameter in (*modulation.parameters(), self.out.weight):
            nn.init.zeros_(parameter)
        nn.init.constant_(self.out.bias, start_bias)

    def forward(self, confidence: Tensor, masked: Tensor, time: Tensor) -> Tensor:
        dtype = self.features.weight.dtype
        x = self.features(torch.stack([confidence, masked.to(confidence)], dim=-1).to(dtype))
        condition = F.silu(self.time_embed(time))
        x = self.block(x, rotary_table(x.shape[1], self.config, x), condition)
        logits: Tensor = self.out(self.norm(x))[..., 0]
        return logits


def rotary_table(length: int, config: ModelConfig, like: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines [L, D/H/2] of RoPE (arXiv 2104.09864)."""
    half = config.dim // config.heads // 2
    frequencies = config.rope_theta ** (-torch.arange(half, device=like.device, dtype=torch.float32) / half)
    angles = torch.arange(length, device=like.device, dtype=torch.float32)[:, None] * frequencies
    return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


def rotate(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """Turn the two halves of each head by the position's angles. [..., L, D/H] -> same."""
    cos, sin = rope
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
