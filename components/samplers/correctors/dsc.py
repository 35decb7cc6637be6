"""Decoupled Self-Correction, renamed BackPlay (arXiv 2601.06428), Algorithm 1.

Every d ticks, of the tokens that were visible before this reveal and are not on the block list, the K of
largest error are masked where the error exceeds tau; they go on the list, which keeps the last |H|. Nothing
makes up for them in the same tick: time goes back. Here the schedule counts tokens a tick until none is
masked, so the rollback is each row's own number of masks and needs no clock; the time that a network reads
is the tick's share. The sampler's last fill is the cap on steps.

The released descriptions call one field both "correct" and "error"; here the head is ``quality``, larger
is better, and error = 1 - quality.
"""

from __future__ import annotations

import torch
from torch import Tensor

from components.diffusion import select
from components.samplers.correctors.base import Verdict, verdict
from components.samplers.correctors.worst import Remask
from components.samplers.options.correctors import DscConfig
from components.samplers.owners import Start
from components.samplers.state import Field, State
from components.samplers.view import View


class Dsc(Remask):
    """See ``components.samplers.correctors.base.Corrector``."""

    def __init__(self, config: DscConfig):
        super().__init__(config.score)
        self.config = config

    def begin(self, start: Start) -> dict[str, Field]:
        empty = torch.full((len(start.masked), self.config.queue), -1, device=start.masked.device)
        return super().begin(start) | {"block_list": Field(empty)}

    def due(self, state: State, masked: Tensor, steps: int) -> Tensor:
        return (state.tick % self.config.every == 0) & (state.tick < steps)

    def correct(self, state: State, view: View, due: Tensor, reach: Tensor, steps: int) -> Verdict:
        score, fields = self.score.measure(state, view)
        error = self.score.error(score)
        listed = state["block_list"]
        place = torch.arange(error.shape[1], device=error.device)
        blocked = (listed[:, :, None] == place).any(1)
        wrong = view.changeable & ~blocked & (error > self.config.threshold)
        worst = wrong & (due & view.called)[:, None]
        remask = select.best(-score, worst, torch.full_like(state.tick, self.config.num_remasked))
        fields["block_list"] = push(listed, remask, -score)
        return verdict(state, remask=remask, urgency=-score, fields=fields)


def push(listed: Tensor, chosen: Tensor, error: Tensor) -> Tensor:
    """The list [R, H] with the chosen positions [R, L] in front, the largest error first; -1 is empty."""
    order = error.clamp(min=torch.finfo(error.dtype).min).masked_fill(~chosen, float("-inf")).argsort(dim=-1, descending=True, stable=True)
    fresh = torch.where(chosen.gather(-1, order), order, -1)
    both = torch.cat([fresh, listed], dim=-1)
    front = (both < 0).long().argsort(dim=-1, stable=True)
    return both.gather(-1, front)[:, : listed.shape[1]]
