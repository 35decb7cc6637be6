"""Rollouts for objectives that learn from them: rows played to their end, all at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from components.models.denoiser import Denoiser
from components.samplers.contract import Sampler
from components.samplers.forward import Batching, answer, measure
from components.samplers.state import Record, State


def play(
    denoiser: Denoiser, sampler: Sampler, state: State, anyone: Callable[[bool], bool] = bool
) -> Iterator[tuple[State, State, Record]]:
    """Every step of all rows at once, until none is active: the state before, the state after, the record.

    Nothing is counted or refilled, and there are no labels and no rewards. Every step is one forward of all rows,
    active or not (more where the sampler asks for further planes), and ``anyone`` may ask other processes whether
    they still have some: a network that is sharded over processes must be called equally often by each.
    """
    batching = Batching(len(state.ids), always=True)
    with torch.no_grad():
        while anyone(bool(state.active.any())):
            before, query = state, sampler.query(state)
            state, record = sampler.advance(state, answer(denoiser, query, measure(query), batching))
            yield before, state, record
