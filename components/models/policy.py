"""The unmasking policy's network (arXiv 2512.09106): confidence, mask and time of every position in, one reveal
logit a position out.

One transformer block of width 128 over (confidence, mask) features with rotary positions, conditioned on the
time, and an output bias of -2: it starts by revealing a masked position with probability sigmoid(-2 / tau).
About 0.3M parameters. Departure: the time's sinusoids have the frequencies of the large network; the
released ones are degenerate (max_period = 1).
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from components.models.config import ModelConfig
from components.models.transformer import Block, TimeEmbedding, rotary_table
from components.models.weights import fill, load_weights

POLICY_FILE = "policy.safetensors"


class PolicyNet(nn.Module):
    """(confidence [R, L], masked [R, L] bool, time [R]) -> logits [R, L]."""

    def __init__(self, dim: int = 128, heads: int = 2, start_bias: float = -2.0):
        super().__init__()
        self.config = ModelConfig(dim=dim, depth=1, heads=heads, mlp_dim=4 * dim).resolved()
        self.features = nn.Linear(2, dim)
        self.time_embed = TimeEmbedding(dim)
        self.block = Block(self.config, conditioned=True)
        self.norm = nn.RMSNorm(dim, eps=1e-6)
        self.out = nn.Linear(dim, 1)
        modulation = self.block.modulation
        assert modulation is not None
        for parameter in (*modulation.parameters(), self.out.weight):
            nn.init.zeros_(parameter)
        nn.init.constant_(self.out.bias, start_bias)

    def forward(self, confidence: Tensor, masked: Tensor, time: Tensor) -> Tensor:
        x = self.features(torch.stack([confidence.float(), masked.float()], dim=-1))
        condition = nn.functional.silu(self.time_embed(time))
        x = self.block(x, rotary_table(x.shape[1], self.config, x), condition)
        logits: Tensor = self.out(self.norm(x))[..., 0]
        return logits


def load_policy(folder: Path) -> PolicyNet | None:
    """The policy of an exported folder, or None where it has none. Raises ModelError if its file is broken."""
    path = folder / POLICY_FILE
    if not path.exists():
        return None
    tensors = load_weights(path)
    policy = PolicyNet(dim=tensors["features.weight"].shape[0])
    fill(policy, tensors, str(path))
    return policy.eval()
