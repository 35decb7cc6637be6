"""DSL's continuous sampler ("Discrete Stochastic Localization", arXiv 2602.16169).

Each position follows z with dz = xhat dgamma + sqrt(dgamma) eps from z = 0, where xhat = sum_v f(v) e_v is the
network's expectation of the clean unit-norm embedding. T ticks go to gamma_max, on an even grid or on one
that grows as k squared, and tokens are drawn once, from the last prediction, which is read a tick before gamma_max. A written token sits at gamma_max e_v, a remasked one starts again
at 0: with unit norms the network reads z alone, so every position may have a path of its own.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from components.diffusion import noise
from components.diffusion.noise import Stream
from components.errors import SamplingError
from components.samplers.contract import Extras
from components.samplers.inputs.base import Mixture
from components.samplers.options.inputs import DslSdeConfig
from components.samplers.owners import Start
from components.samplers.state import Field, State, Written
from components.samplers.view import View


class DslSde:
    """See ``components.samplers.inputs.base.Inputs``."""

    top_k = 0
    every_tick = True

    def __init__(self, config: DslSdeConfig, extras: Extras):
        if extras.embedding is None:
            raise SamplingError(
                "The inputs 'dsl_sde' need a network with a noisy-embedding encoder; this one has none."
            )
        if config.gamma_max > extras.gamma_max:
            raise SamplingError(
                f"inputs.gamma_max = {config.gamma_max:g}: the network was trained up to {extras.gamma_max:g}, and has never seen "
                f"larger ratios. Set inputs.gamma_max={extras.gamma_max:g}, or train with objective.gamma_max={config.gamma_max:g}."
            )
        self.gamma_max = config.gamma_max
        self.power = {"even": 1, "quadratic": 2}[config.grid]
        self.embedding = extras.embedding

    def begin(self, start: Start) -> dict[str, Field]:
        clean = self.gamma_max * self.embedding[start.canvas]
        return {"z": Field(torch.where(start.fixed[..., None], clean, 0.0), reset=0.0)}

    def wants(self, state: State, masked: Tensor) -> tuple[Tensor, Tensor]:
        return masked, torch.zeros_like(masked)

    def encode(self, state: State, shown: Tensor, steps: int) -> tuple[Mixture | None, Tensor | None]:
        written = self.gamma_max * self.embedding[shown]
        drafting = (state.inner > 0)[:, None, None]
        return None, torch.where(drafting, written, state["z"])

    def update(self, state: State, written: Written, view: View, steps: int) -> Mapping[str, Tensor]:
        z = state["z"]
        _, length, width = z.shape
        expected = torch.softmax(view.logits, dim=-1).to(z) @ self.embedding
        own = (view.at.select < view.at.size).to(z)[:, None]  # other planes add nothing
        flat = torch.zeros(view.at.size, width, dtype=z.dtype, device=z.device)
        xhat = flat.index_add(0, view.at.position, expected * own).view_as(z)
        after = state.tick.to(z) / steps
        step = (self.gamma_max * (after**self.power - (after - 1 / steps) ** self.power))[:, None, None]
        eps = noise.normal(state.keys, state.tick, length * width, Stream.BROWNIAN).view_as(z).to(z)
        moved = z + xhat * step + step.sqrt() * eps
        moves = view.masked & view.called[:, None]
        z = torch.where(moves[..., None], moved, z)
        clean = self.gamma_max * self.embedding[written.tokens]
        return {"z": torch.where((written.revealed | written.replaced)[..., None], clean, z)}
