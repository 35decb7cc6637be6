"""Search: groups of chains that survive by their weights.

A group is ``width`` contiguous rows with one canvas. Its chains run by themselves to a resampling point and
wait there for each other; waiting costs nothing. Then they are weighted, and where the weights have become
uneven, ancestors are drawn and every field of a chain follows its ancestor in one index_select. Ids and
random keys belong to the slot and stay, and what a schedule had drawn ahead is drawn anew, so copies part.
Every field says of itself whether it follows (``state.Field``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from components.diffusion import noise
from components.diffusion.noise import Stream
from components.samplers.config import SamplerConfig
from components.samplers.contract import Answer, Extras, Query, Samples, Vocabulary
from components.samplers.sampler import RowSampler
from components.samplers.standing import settle
from components.samplers.state import SLOT, Field, Record, State
from components.samplers.survey import Survey

NEVER = 2**62
"""A tick that no chain reaches."""


class Group(ABC):
    """What searches share. See ``components.samplers.contract.Sampler``."""

    barriers = True
    """Chains wait for each other at resampling points."""
    rewarded = False
    """Weights need rewards."""
    num_guesses = 1

    def __init__(
        self,
        config: SamplerConfig,
        vocabulary: Vocabulary,
        extras: Extras,
        survey: Survey = Survey(),  # noqa: B008 (frozen)
    ):
        self.search: Any = config.search
        """The options of the search itself; each kind reads its own."""
        self.width = config.search.num_chains
        self.every, self.sweeps = config.search.ticks_between, config.search.num_sweeps
        self.base = RowSampler(config, vocabulary, extras, survey)

    # --- start ------------------------------------------------------------------------------------

    def start(
        self, canvas: Int[Tensor, "B L"], fixed: Bool[Tensor, "B L"], ids: Int[Tensor, "B"], seeds: Int[Tensor, "B"]
    ) -> State:
        canvas, fixed, ids, seeds = (x.repeat_interleave(self.width, 0) for x in (canvas, fixed, ids, seeds))
        particle = torch.arange(len(ids), device=ids.device) % self.width
        keys = torch.stack([noise.row_keys(seeds, ids, particle, sweep) for sweep in range(self.sweeps)], dim=1)
        state = self.base.begin(canvas, fixed, ids, keys[:, 0])
        no, zeros = torch.zeros_like(state.active), torch.zeros_like(ids)
        nothing = zeros.double()
        return state.registered(
            {
                "alive": Field(state.active),
                "pinned": Field(no, **SLOT),
                "awaits_reward": Field(no, recorded=False),
                "log_weight": Field(nothing, recorded=False),
                "estimate": Field(nothing),
                "barrier": Field(torch.full_like(ids, self.every or NEVER), recorded=False),
                "sweep": Field(zeros, recorded=False),
                "sweep_keys": Field(keys, **SLOT),
                "canvas": Field(canvas, recorded=False),
            }
        )

    # --- ask --------------------------------------------------------------------------------------

    def running(self, state: State) -> Tensor:
        """[R] bool: chains that go on by themselves."""
        waiting = (state.tick > state["barrier"]) & (state.inner == 0)
        return state.active & state["alive"] & ~waiting & ~state["pinned"]

    def query(self, state: State) -> Query:
        query = self.base.query(replace(state, active=self.running(state)))
        if not self.rewarded:
            return query
        done = ~state["alive"]
        candidates = state.tokens[:, None].expand(-1, self.num_guesses, -1)
        if "guess" in state.fields:
            candidates = torch.where(done[:, None, None], candidates, state["guess"])
        first = torch.arange(self.num_guesses, device=done.device) == 0  # a full row is scored once
        scored = state["awaits_reward"] & ~state["pinned"] & (~done | self.all_done(state))
        return replace(query, rewarded=scored[:, None] & (~done[:, None] | first), candidates=candidates)

    # --- tell -------------------------------------------------------------------------------------

    def advance(self, state: State, answer: Answer) -> tuple[State, Record]:
        running = self.running(state)
        scored = state["awaits_reward"]
        # Chains are weighed by how likely their tokens were.
        moved, record = self.base.advance(replace(state, active=running), replace(answer, followed=True))
        alive = torch.where(running, moved.active, state["alive"])
        state = moved.having({"active": state.active, "alive": alive})
        if self.rewarded:
            assert answer.rewards is not None
            state = self.weighed(state, scored, answer.rewards)
        arrived = self.group_all(~self.running(state)) & state.active & ~scored
        if self.rewarded:
            return state.having({"awaits_reward": arrived}), record
        return self.weighed(state, arrived, torch.zeros(len(arrived), 1, device=arrived.device)), record

    def weighed(self, state: State, arrived: Tensor, rewards: Tensor) -> State:
        """Groups that have arrived [R] bool, weighted, resampled and sent on; the others as they are."""
        finished = self.all_done(state)
        after = self.weigh(state, finished, rewards)
        between = self.resample(after)
        between = between.having({"barrier": self.next_barrier(between)})
        return self.ended(after).where(arrived & finished, between).where(arrived, state)

    def next_barrier(self, state: State) -> Tensor:
        """[R]: the resampling point before which every living chain still has a tick."""
        if not self.every:
            return state["barrier"]
        living = state["alive"] & ~state["pinned"]
        first = torch.where(living, state.tick, NEVER).view(-1, self.width).amin(-1)
        following = (-(-first // self.every) * self.every).repeat_interleave(self.width)
        return torch.maximum(following, state["barrier"] + self.every).clamp(max=NEVER)

    def weigh(self, state: State, finished: Tensor, rewards: Tensor) -> State:
        """New log-weights. finished [R] bool: the group's chains have all ended. rewards: [R, P]."""
        return state

    def ended(self, state: State) -> State:
        """What happens to a group whose chains have all ended."""
        return replace(state, active=torch.zeros_like(state.active))

    def resample(self, state: State) -> State:
        """Chains replaced by copies of their ancestors, in groups with uneven weights."""
        if not self.barriers:
            return state
        log_weight = state["log_weight"].view(-1, self.width)
        weight = torch.softmax(log_weight, -1)
        uneven = 1 / (weight**2).sum(-1) < self.search.ess * self.width - 1e-9
        if self.search.ess >= 1:
            uneven = torch.ones_like(uneven)
        uneven = uneven.repeat_interleave(self.width)
        ancestors = self.ancestors(state, weight)
        chosen = ancestors + torch.arange(len(ancestors), device=ancestors.device) // self.width * self.width
        copied = state.inherited(chosen).having({"log_weight": torch.zeros_like(state["log_weight"])})
        return self.parted(copied).where(uneven, state)

    def parted(self, state: State) -> State:
        """Copies with draws of their own: what was drawn ahead is drawn again, from the resampling point on."""
        parts = self.base.parts
        masked = parts.masked(state)
        steps = parts.ticks(state.tokens.shape[1])
        at = replace(state, tick=state["barrier"].clamp(max=steps))
        fresh = parts.schedule.redraw(at, masked, masked, steps)
        if not fresh:
            return state
        again = state.having({"tick": at.tick + 1, "active": state["alive"], **fresh})
        again = replace(settle(parts, again), active=state.active)
        return again.where(state["alive"], state)

    def ancestors(self, state: State, weight: Tensor) -> Tensor:
        """[R]: places in the group, by the uniforms of its first slot. weight: [G, N], of sum 1.

        Where slot 0 is pinned it is its own ancestor, and the others are drawn given that: independently of it by
        ``multinomial``; by ``systematic``, where slots share one uniform, given that its own point fell into its share.
        Points are N equally spaced ones on a circle, slot j at v + j, so every slot has the law of the weights and the
        grid has no first slot: v is uniform on the circle, or, pinned, on the share of slot 0 (conditional systematic
        resampling: Chopin and Singh, "On particle Gibbs sampling", Bernoulli 21(3), 2015, section 4).
        """
        keys = state.keys[:: self.width]
        barrier = state["barrier"][:: self.width]
        pinned = state["pinned"][:: self.width]
        u = noise.uniform(keys, barrier, 0, self.width, Stream.RESAMPLE)
        total = weight.cumsum(-1)
        if self.search.resampling == "systematic":
            slots = torch.arange(self.width, device=u.device) / self.width
            first = u[:, :1] * torch.where(pinned[:, None], weight[:, :1] / total[:, -1:], 1.0)
            u = (first + slots) % 1
        chosen = torch.searchsorted(total, u * total[:, -1:], right=True).clamp(max=self.width - 1)
        own = torch.zeros_like(chosen[:, 0])
        return torch.cat([torch.where(pinned, own, chosen[:, 0])[:, None], chosen[:, 1:]], dim=-1).flatten()

    def group_all(self, rows: Tensor) -> Tensor:
        """[R] bool: true for every row of the group."""
        return rows.view(-1, self.width).all(-1).repeat_interleave(self.width)

    def all_done(self, state: State) -> Tensor:
        """[R] bool: every chain of the group that runs by itself has ended."""
        return self.group_all(~state["alive"] | state["pinned"])

    def belief(self, state: State) -> Tensor:
        """log-probability of the written tokens, each as it was when written [R], float64."""
        written = ~self.base.parts.masked(state) & ~state.fixed
        logs = state.confidence.double().clamp(min=1e-300).log()
        return torch.where(written, logs, 0).sum(-1)

    # --- end --------------------------------------------------------------------------------------

    @abstractmethod
    def pick(self, state: State) -> Tensor:
        """[G]: the place in its group of the chain that is kept."""

    def by_weight(self, state: State, log_weight: Tensor) -> Tensor:
        """[G]: one place drawn from weights [R]."""
        weight = torch.softmax(log_weight.view(-1, self.width), -1).cumsum(-1)
        sweep = state["sweep"][:: self.width]
        u = noise.uniform(state.keys[:: self.width], sweep, 0, 1, Stream.PICK)
        return torch.searchsorted(weight, u * weight[:, -1:], right=True)[:, 0].clamp(max=self.width - 1)

    def finish(self, state: State) -> Samples:
        rows = torch.arange(0, len(state.ids), self.width, device=state.ids.device) + self.pick(state)
        return Samples(state.ids[rows], state.tokens[rows], state.edits[rows])

    def max_calls(self, length: int) -> int:
        surveys = self.base.parts.ticks(length) // self.every + 1 if self.every else 0
        return self.width * self.sweeps * (self.base.max_calls(length) + surveys)
