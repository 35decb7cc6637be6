"""Rollouts for objectives that learn from them: rows played to their end, all at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch

from components.models.denoiser import Denoiser
from components.samplers.contract import Sampler
from components.samplers.forward import Batching, answer, measure
from components.samplers.state import Record, State
from components.samplers.unusable import find_unusable


def play(
    denoiser: Denoiser, sampler: Sampler, state: State, anyone: Callable[[bool], bool] = bool
) -> Iterator[tuple[State, State, Record]]:
    """Every step of all rows at once, until none is active: the state before, the state after, the record.

    A row whose answer is no number ends there: it might never be full, and what it recorded makes what is learned from it
    no number either. Nothing is counted or refilled, and there are no labels and no rewards. Every step is one forward of
    all rows, active or not (more where the sampler asks for further planes), and ``anyone`` may ask other processes
    whether they still have some: a network that is sharded over processes must be called equally often by each.
    """
    batching = Batching(len(state.ids), always=True)
    with torch.no_grad():
        while anyone(bool(state.active.any())):
            before, query = state, sampler.query(state)
            said = answer(denoiser, query, measure(query), batching)
            state, record = sampler.advance(state, said)
            well = find_unusable(query, said, record, sampler.width, len(state.ids) // sampler.width).well
            state = replace(state, active=state.active & well.repeat_interleave(sampler.width))
            yield before, state, record
