"""The training steps of published code, in plain torch: what ours is timed against, and never imported by it.

``proseco`` is the released step of ProSeCo (arXiv 2602.11590): logits of all positions, log-probabilities of all of them
in a float32 copy, a loss read from it; the best token everywhere is the draft; the same once more; one backward over both.
``mdlm`` is its first half. The network is that of a ``Transformer``, read from its weights and written in torch's own
operations, so that what ours makes faster in a network is not given to both sides.

``mixed`` is ``mdlm`` on rows of several lengths, all of them padded to the longest and padding hidden from attention, as usual.

``save`` and ``load`` are checkpoints of data-parallel training as PyTorch's tutorials have them, without the wait for the disk.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from components.models.ema import Ema
from components.models.transformer import Transformer
from components.training.engine import TorchEngine


class Network:
    """Logits [B, L, V] of tokens [B, L]."""

    def __init__(self, model: Transformer, fused_attention: bool = False):
        """``fused_attention``: by torch's own kernel, which is the slower one on a CPU's faster matrix route."""
        self.config, self.weights = model.config, dict(model.named_parameters())
        self.fused_attention = fused_attention

    def __call__(self, tokens: Tensor, there: Tensor | None = None) -> Tensor:
        """``there`` [B, L]: what is no padding."""
        mask = None if there is None else there[:, None, None]
        x, w = F.embedding(tokens, self.weights["embed.weight"]), self.weights
        turn = self.turn(tokens.shape[1], x)
        for number in range(self.config.depth):
            block = f"blocks.{number}."
            x = x + self.attend(self.norm(x, block + "norm_attention"), block + "attention.", turn, mask)
            gate, up = F.linear(self.norm(x, block + "norm_mlp"), w[block + "mlp.gate_up.weight"]).chunk(2, -1)
            x = x + F.linear(F.silu(gate) * up, w[block + "mlp.down.weight"])
        return F.linear(self.norm(x, "norm"), w["head.weight"])

    def norm(self, x: Tensor, name: str) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.weights[f"{name}.weight"], self.config.norm_eps)

    def turn(self, length: int, like: Tensor) -> tuple[Tensor, Tensor]:
        half = self.config.dim // self.config.heads // 2
        frequencies = self.config.rope_theta ** (-torch.arange(half, device=like.device) / half)
        angles = torch.arange(length, device=like.device)[:, None] * frequencies
        return angles.cos().to(like.dtype), angles.sin().to(like.dtype)

    def attend(self, x: Tensor, name: str, turn: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        rows, length, dim = x.shape
        heads = F.linear(x, self.weights[f"{name}qkv.weight"]).view(rows, length, 3, self.config.heads, -1).permute(2, 0, 3, 1, 4)
        (cos, sin), (first, second) = turn, heads[:2].chunk(2, -1)
        q, k = torch.cat([first * cos - second * sin, second * cos + first * sin], -1)
        if self.fused_attention:
            attended = F.scaled_dot_product_attention(q, k, heads[2], mask)
        else:
            scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
            attended = torch.softmax(scores if mask is None else scores.masked_fill(~mask, float("-inf")), -1) @ heads[2]
        return F.linear(attended.transpose(1, 2).reshape(rows, length, dim), self.weights[f"{name}out.weight"])


def log_probs(network: Network, tokens: Tensor, mask_id: int, precision: str, there: Tensor | None = None) -> Tensor:
    """[B, L, V] float32: never the mask."""
    with torch.autocast(tokens.device.type, torch.bfloat16, enabled=precision == "bf16"):
        logits = network(tokens, there)
    logits[..., mask_id] += -1e6
    return torch.log_softmax(logits.float(), -1)


def nll(found: Tensor, clean: Tensor) -> Tensor:
    return -found.gather(-1, clean[..., None])[..., 0]


def mdlm(network: Network, clean: Tensor, noised: Tensor, time: Tensor, mask_id: int, precision: str = "fp32") -> Tensor:
    """The loss of clean rows [B, L] whose noised ones hold masks, at times [B] of a log-linear schedule."""
    found = log_probs(network, noised, mask_id, precision)
    return (nll(found, clean) * (noised == mask_id) / time[:, None]).sum() / clean.numel()


def mixed(
    network: Network, clean: Tensor, noised: Tensor, time: Tensor, mask_id: int, precision: str = "fp32", there: Tensor | None = None
) -> Tensor:
    """The same of rows of which only what is ``there`` [B, L] counts and is seen."""
    assert there is not None
    found = log_probs(network, noised, mask_id, precision, there)
    return (nll(found, clean) * ((noised == mask_id) & there) / time[:, None]).sum() / there.sum()


def proseco(
    network: Network, clean: Tensor, noised: Tensor, time: Tensor, mask_id: int, precision: str = "fp32", draft: Tensor | None = None
) -> Tensor:
    """The same, and that of mending the network's own draft of all positions, or one that is given."""
    found = log_probs(network, noised, mask_id, precision)
    loss = nll(found, clean) * (noised == mask_id) / time[:, None]
    if draft is None:
        with torch.no_grad():
            draft = found.argmax(-1)
    loss = loss + nll(log_probs(network, draft, mask_id, precision), clean) / time[:, None]
    return loss.sum() / clean.numel()


def noise(clean: Tensor, mask_id: int, t_min: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(noised rows, times): stratified, as they are drawn there."""
    rows, where = len(clean), clean.device
    drawn = (torch.rand(rows, generator=generator, device=where) / rows + torch.arange(rows, device=where) / rows) % 1
    time = (1 - t_min) * drawn + t_min
    return torch.where(torch.rand(clean.shape, generator=generator, device=where) < 0.999 * time[:, None], mask_id, clean), time


def step(optimizer: torch.optim.Optimizer, weights: list[Tensor], loss: Tensor) -> float:
    """One update: a backward over all that the loss holds, clipped to 1."""
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(weights, 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return float(norm) + loss.item()


def save(path: Path, engine: TorchEngine, ema: Ema) -> None:
    """By the first rank into one file, while the others wait."""
    if engine.rank == 0:
        weights, optimizer = engine._model.state_dict(), engine.optimizer.state_dict()
        torch.save({"weights": weights, "averages": ema.averages, "optimizer": optimizer}, path)
    engine.barrier()


def load(path: Path, engine: TorchEngine, ema: Ema) -> None:
    """All of it, by each rank."""
    found = torch.load(path, map_location="cpu", weights_only=True)
    engine._model.load_state_dict(found["weights"])
    engine.optimizer.load_state_dict(found["optimizer"])
    for average, stored in zip(ema.averages, found["averages"], strict=True):
        average.copy_(stored)
