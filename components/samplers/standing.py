"""Where the rows of a sampler stand at their ticks, and to which tick they go on."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from components.diffusion import select
from components.samplers.parts import Parts
from components.samplers.state import State


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Where rows stand at their ticks.

    It is a function of the state, and found out twice a step, by ``query`` and by ``advance``: between the two
    nothing is kept but the state, so a step may be interrupted, repeated or moved to another process.
    """

    steps: int
    """T."""
    masked: Bool[Tensor, "R L"]
    """Positions that are still to be written."""
    window: Bool[Tensor, "R L"]
    """Those in the active block."""
    reach: Bool[Tensor, "R L"]
    """Positions up to the end of the active block."""
    due: Bool[Tensor, "R"]
    """The corrector decides something at this tick."""
    looping: Bool[Tensor, "R"]
    """Inside the corrector's loop."""
    candidates: Bool[Tensor, "R L"]
    """Masks that this tick may reveal; in the last fill all of the active block, so that no call writes several."""
    shown: Int[Tensor, "R L"]
    """What the network is asked about."""


def stand(parts: Parts, state: State) -> Standing:
    """Where the rows stand."""
    steps, masked = parts.ticks(state.tokens.shape[1]), parts.masked(state)
    window, reach, _ = parts.blocks.scope(state.fixed, masked)
    due, looping = parts.corrector.due(state, masked, steps), state.inner > 0
    candidates = parts.schedule.positions(state, window, steps)
    if parts.config.schedule.counts:
        quota = parts.schedule.quota(state, window, steps)
        if parts.picks_ahead:
            candidates = select.best(parts.order.score(state, None, steps), candidates, quota)
        else:
            candidates = candidates & ((quota > 0) | (due & parts.corrector.needs_answer))[:, None]
    return Standing(
        steps=steps,
        masked=masked,
        window=window,
        reach=reach,
        due=due,
        looping=looping,
        candidates=torch.where((state.tick > steps)[:, None], window, candidates),
        shown=torch.where(looping[:, None], state.draft, state.tokens),
    )


def settle(parts: Parts, state: State) -> State:
    """Begin blocks, move rows that stand before a predictor pass to their next tick with an event, and
    end those that have none."""
    masked = parts.masked(state)
    window, _, active = parts.blocks.scope(state.fixed, masked)
    steps = parts.ticks(state.tokens.shape[1])
    entering = (active != state["block"]) & window.any(-1)
    num_blocks = parts.blocks.number(state.fixed)[:, -1] + 1
    entered = {**parts.schedule.enter(state, window, steps, num_blocks), "block": active}
    state = state.having({n: torch.where(entering, value, state[n]) for n, value in entered.items()})
    full = ~masked.any(-1)
    own = parts.corrector.next_due(state, masked, steps)
    own = torch.minimum(own, parts.survey.next_due(state, steps))
    if parts.inputs.every_tick:
        own = state.tick
    if parts.schedule.ends_when_full:
        own = torch.where(full, steps + 1, own)
    following = torch.minimum(parts.schedule.next_event(state, window, steps), own).clamp(max=steps + 1)
    lingers = parts.corrector.lingers(state, masked, steps)
    tick = torch.where((state.inner == 0) & ~lingers, torch.maximum(following, state.tick), state.tick)
    finished = (tick > steps) & full & ~lingers & (state.inner == 0)
    return replace(state, tick=tick, active=state.active & ~finished)
