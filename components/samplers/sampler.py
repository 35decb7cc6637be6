"""The sampler that every preset is an instance of: a schedule, an order, a draw and a corrector."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from components.diffusion import categorical, noise, select
from components.diffusion.noise import Stream
from components.samplers import PARTS, SamplerConfig, part_name
from components.samplers.contract import Answer, Query, Samples
from components.samplers.corrector import Corrector, View
from components.samplers.schedule import Schedule
from components.samplers.state import Record, State, write


class RowSampler:
    """See ``components.samplers.contract.Sampler``.

    A tick is: ask the predictor; if the corrector is due, let it look at drafts until it is content;
    then reveal this tick's positions from the last answer and go to the next tick that has an event.
    Rows do this each at a pace of their own.
    """

    def __init__(self, config: SamplerConfig, mask_id: int, never: tuple[int, ...] = ()):
        """``never``: vocabulary ids, besides the mask, that must not be written."""
        self.config = config
        self.steps = config.steps
        self.mask_id = mask_id
        self.suppressed = (mask_id, *never)

        def part(family: str) -> tuple[Any, Any]:
            section = getattr(config, family)
            return PARTS[family][part_name(family, section)].load(), section

        build, section = part("schedule")
        self.schedule: Schedule = build(section)
        build, section = part("corrector")
        self.corrector: Corrector = build(section)
        self.order, _ = part("unmask")

    def start(self, canvas: Tensor, fixed: Tensor, ids: Tensor, seed: int) -> State:
        keys = noise.row_keys(seed, ids)
        masked = (canvas == self.mask_id) & ~fixed
        zeros = torch.zeros_like(ids)
        state = State(
            tokens=canvas,
            fixed=fixed,
            ids=ids,
            keys=keys,
            tick=zeros + 1,
            inner=zeros,
            active=torch.ones_like(ids, dtype=torch.bool),
            draft=canvas,
            edits=zeros,
            parts=self.schedule.start(masked, keys, self.steps) | self.corrector.start(keys, canvas.shape[1]),
        )
        return self.settle(state)

    def settle(self, state: State) -> State:
        """Move rows that stand before a predictor pass to their next tick with an event; end those that have none."""
        masked = self.masked(state)
        corrector_tick = self.corrector.next_due(state.tick, self.steps)
        if self.schedule.ends_when_full:
            corrector_tick = torch.where(masked.any(-1), corrector_tick, self.steps + 1)
        following = torch.minimum(self.schedule.next_event(state, masked, self.steps), corrector_tick)
        tick = torch.where(state.inner == 0, following, state.tick)
        finished = (tick > self.steps) & ~masked.any(-1)
        return replace(state, tick=tick, active=state.active & ~finished)

    def masked(self, state: State) -> Tensor:
        return (state.tokens == self.mask_id) & ~state.fixed

    def candidates(self, state: State, masked: Tensor) -> Tensor:
        """Masked positions that this tick may reveal; all of them in the last fill. [R, L] bool."""
        filling = (state.tick > self.steps)[:, None]
        return torch.where(filling, masked, self.schedule.positions(state, masked))

    def query(self, state: State) -> Query:
        masked = self.masked(state)
        runs = (state.inner > 0) | (self.corrector.due(state.tick) & (state.tick <= self.steps))
        best, sampled = self.corrector.wants(state, masked)
        drawn = self.candidates(state, masked) & ~(runs & (state.inner == 0))[:, None]
        sampled = sampled & runs[:, None]
        wanted = drawn | sampled | (best & runs[:, None])
        return Query(
            row=torch.arange(len(state.ids), device=state.ids.device),
            active=state.active,
            tokens=torch.where((state.inner > 0)[:, None], state.draft, state.tokens),
            time=(1 - (state.tick - 1) / self.steps).clamp(min=0).float(),
            wanted=wanted & state.active[:, None],
            drawn=(drawn | sampled) & state.active[:, None],
        )

    def advance(self, state: State, answer: Answer) -> tuple[State, Record]:
        masked = self.masked(state)
        looked_at = torch.where((state.inner > 0)[:, None], state.draft, state.tokens)
        logits = categorical.suppress(answer.logits, self.suppressed)
        token, confidence, view = self.read(state, answer, logits, masked, looked_at)
        verdict = self.corrector.judge(state, view, self.steps)
        commits = verdict.commits & state.active
        reveal = self.choose(state, masked, confidence) & commits[:, None]
        replace_at = commits[:, None].expand_as(masked)
        tokens, revealed, replaced = write(state, reveal, token, replace_at, verdict.draft, self.mask_id)
        record = Record(state.tokens, tokens, confidence, revealed, replaced, state.tick, state.inner)
        going = state.active
        state = replace(
            state,
            tokens=tokens,
            draft=torch.where(going[:, None], verdict.draft, state.draft),
            inner=torch.where(going, verdict.inner, state.inner),
            tick=state.tick + commits.long(),
            edits=state.edits + replaced.sum(-1),
            parts=state.parts | verdict.parts,
        )
        return self.settle(state), record

    def read(
        self, state: State, answer: Answer, logits: Tensor, masked: Tensor, looked_at: Tensor
    ) -> tuple[Tensor, Tensor, View]:
        """Spread the flat answer over the canvas: (token [R, L], its probability [R, L], view for the corrector)."""
        length = looked_at.shape[1]
        draw_at = answer.select[answer.draw]
        draw_logits = logits[answer.draw]

        def spread(values: Tensor, at: Tensor, background: Tensor) -> Tensor:
            return background.flatten().index_copy(0, at, values.to(background.dtype)).view_as(background)

        u = noise.uniform(state.keys, state.tick, 0, length, Stream.TOKEN).flatten()[draw_at]
        drawn, probability = categorical.draw(draw_logits, u, self.config.draw)
        nothing = torch.zeros(looked_at.shape, dtype=torch.float32, device=looked_at.device)
        token = spread(drawn, draw_at, looked_at)
        confidence = spread(probability, draw_at, nothing)
        if not self.corrector.num_passes:
            return token, confidence, View(masked, looked_at, nothing, looked_at)
        top, best = logits.max(-1)
        margin = spread(top - torch.logsumexp(logits, -1), answer.select, nothing)
        u = noise.uniform(state.keys, state.tick, state.inner, length, Stream.DRAFT).flatten()[draw_at]
        sampled, _ = categorical.draw(draw_logits, u, self.config.draw)
        return (
            token,
            confidence,
            View(masked, spread(best, answer.select, looked_at), margin, spread(sampled, draw_at, looked_at)),
        )

    def choose(self, state: State, masked: Tensor, confidence: Tensor) -> Tensor:
        """[R, L] bool: what this tick reveals."""
        candidates = self.candidates(state, masked)
        if self.schedule.picks_positions:
            return candidates
        count = torch.where(state.tick > self.steps, state.tokens.shape[1], self.schedule.count(state))
        return select.best(self.order(state, confidence), candidates, count)

    def finish(self, state: State) -> Samples:
        return Samples(state.ids, state.tokens, state.edits)

    def max_calls(self, length: int) -> int:
        return self.steps * (1 + self.corrector.num_passes) + 1
