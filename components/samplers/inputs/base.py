"""What the network sees at a position: tokens, mixtures of tokens, or noisy embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from components.samplers.contract import Extras
from components.samplers.options.inputs import HardConfig
from components.samplers.owners import Owner, Start
from components.samplers.state import Field, State, Written
from components.samplers.view import View

Mixture = tuple[Tensor, Tensor]
"""(ids, weights), [R, L, K] each."""


@runtime_checkable
class Inputs(Owner, Protocol):
    """A part of a sampler."""

    top_k: int
    """Best tokens of each drawn distribution that it reads."""
    every_tick: bool
    """It needs a call at every tick."""

    def wants(self, state: State, masked: Tensor) -> tuple[Tensor, Tensor]:
        """[R, L] bool each: where logits, and where a drawn distribution, will be read."""

    def encode(self, state: State, shown: Tensor, steps: int) -> tuple[Mixture | None, Tensor | None]:
        """(mixtures, dense inputs) that the network sees instead of the tokens ``shown`` [R, L]."""


class Hard:
    """Tokens and masks."""

    top_k = 0
    every_tick = False

    def __init__(self, config: HardConfig, extras: Extras):
        del config, extras

    def begin(self, start: Start) -> dict[str, Field]:
        return {}

    def wants(self, state: State, masked: Tensor) -> tuple[Tensor, Tensor]:
        nowhere = torch.zeros_like(masked)
        return nowhere, nowhere

    def encode(self, state: State, shown: Tensor, steps: int) -> tuple[Mixture | None, Tensor | None]:
        return None, None

    def update(self, state: State, written: Written, view: View, steps: int) -> Mapping[str, Tensor]:
        return {}
