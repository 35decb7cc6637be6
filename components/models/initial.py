"""Weights of a new network."""

from __future__ import annotations

from torch import nn


def init_weights(model: nn.Module, depth: int) -> None:
    """Normal; matrices by their fan-in, residual outputs scaled down by depth, conditioning at zero."""
    for name, parameter in model.named_parameters():
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
            nn.init.normal_(parameter, std=(parameter.shape[1] * (2 * depth if residual else 1)) ** -0.5)
