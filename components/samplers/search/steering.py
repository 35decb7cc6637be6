"""FK steering (arXiv 2501.06848) and particle Gibbs ("Inference-Time Scaling of Diffusion Language Models via
Trajectory Refinement", arXiv 2507.08390): log w grows by (rhat_new - rhat_old) / beta, with rhat(x) =
beta log mean exp(r / beta) over completions of x from the very call that a step is drawn from, so no call is
made for it; the last increment uses the true reward. The differences telescope to r(x_0) / beta, so a biased
rhat leaves the target p exp(r / beta) alone. Chains are weighted after the step that rhat preceded, which is
proper weighting too. In later sweeps of particle Gibbs slot 0 replays the reference from stored states at the
resampling points: it needs no call and is never overwritten, and the others' ancestors are drawn given that it is its
own (``Group.ancestors``). The next reference is drawn by weight; taking
the best instead is an optimiser.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from components.samplers.config import SamplerConfig
from components.samplers.contract import Extras, Samples, Vocabulary
from components.samplers.options.search import SteeringConfig
from components.samplers.search.base import Group
from components.samplers.state import Field, State, choose_rows, fit
from components.samplers.survey import Survey


class Steering(Group):
    """FK steering in one sweep, particle Gibbs in several."""

    rewarded = True

    def __init__(self, config: SamplerConfig, vocabulary: Vocabulary, extras: Extras):
        search = config.search
        assert isinstance(search, SteeringConfig)
        self.num_guesses = search.guesses
        survey = Survey(search.every, search.guesses, search.guess == "sample")
        super().__init__(config, vocabulary, extras, survey)

    def start(
        self, canvas: Int[Tensor, "B L"], fixed: Bool[Tensor, "B L"], ids: Int[Tensor, "B"], seeds: Int[Tensor, "B"]
    ) -> State:
        """With the trail of each chain, its recorded fields at every resampling point, and the reference's."""
        state = super().start(canvas, fixed, ids, seeds)
        recorded = state.recorded()
        state = state.registered(
            {
                "point": Field(torch.zeros_like(state.ids), recorded=False),
                "best_reward": Field(torch.full_like(state["estimate"], float("-inf")), recorded=False),
                "best_tokens": Field(state.tokens, recorded=False),
                "best_edits": Field(state.edits, recorded=False),
                "kept_tokens": Field(state.tokens, recorded=False),
                "kept_edits": Field(state.edits, recorded=False),
            }
        )
        if self.sweeps == 1:
            return state
        num_points = -(-self.base.parts.ticks(canvas.shape[1]) // self.every) + 1
        trail = {n: v[:, None].expand(-1, num_points, *v.shape[1:]).contiguous() for n, v in recorded.items()}
        state = state.registered({f"trail.{n}": Field(v, recorded=False) for n, v in trail.items()})
        return state.registered({f"reference.{n}": Field(v.clone(), recorded=False) for n, v in trail.items()})

    def weigh(self, state: State, finished: Tensor, rewards: Tensor) -> State:
        beta = self.search.beta
        soft = beta * (torch.logsumexp(rewards.double() / beta, -1) - torch.log(torch.tensor(float(rewards.shape[1]))))
        old = state["estimate"]
        value = torch.where(finished, rewards[:, 0].double(), torch.where(state["alive"], soft, old))
        state = state.having({"estimate": value})
        if self.sweeps > 1:
            state = self.replayed(state, finished)
        gain = (state["estimate"] - old) / beta
        state = state.having({"log_weight": state["log_weight"] + gain})
        return self.kept(state, finished) if self.sweeps > 1 else state

    def point_of(self, state: State, finished: Tensor) -> Tensor:
        """[R]: number of the resampling point at which each row stands; the last one is the end."""
        last = state["trail.tick"].shape[1] - 1
        return torch.where(finished, last, state["point"].clamp(max=last))

    def replayed(self, state: State, finished: Tensor) -> State:
        """Slot 0 as the reference was at this point."""
        at = self.point_of(state, finished)
        rows = torch.arange(len(at), device=at.device)
        stored = {name: state[f"reference.{name}"][rows, at] for name in state.recorded()}
        return state.having(stored).where(state["pinned"], state)

    def kept(self, state: State, finished: Tensor) -> State:
        """The trail with this point in it, and with the end at all points that were not reached."""
        at = self.point_of(state, finished)
        points = torch.arange(state["trail.tick"].shape[1], device=at.device)
        unreached = finished[:, None] & (points >= state["point"][:, None])
        here = (points == at[:, None]) | unreached
        trail = {}
        for name, value in state.recorded().items():
            old = state[f"trail.{name}"]
            trail[f"trail.{name}"] = torch.where(fit(here, old), value[:, None], old)
        return state.having({**trail, "point": state["point"] + 1})

    def ended(self, state: State) -> State:
        """The next reference, and the next sweep where there is one."""
        reward = state["estimate"]
        groups = reward.view(-1, self.width)
        best = groups.argmax(-1)
        offset = torch.arange(0, len(reward), self.width, device=reward.device)
        chosen = best if self.search.reference == "best" else self.by_weight(state, state["log_weight"])
        top, kept = ((offset + x).repeat_interleave(self.width) for x in (best, chosen))
        better = reward[top] > state["best_reward"]
        state = state.having(
            {
                "best_reward": torch.where(better, reward[top], state["best_reward"]),
                "best_tokens": choose_rows(better, state.tokens[top], state["best_tokens"]),
                "best_edits": torch.where(better, state.edits[top], state["best_edits"]),
                "kept_tokens": state.tokens[kept],
                "kept_edits": state.edits[kept],
            }
        )
        over = state["sweep"] + 1 >= self.sweeps
        if self.search.stop_above is not None:
            over = over | (reward[kept] >= self.search.stop_above)
        closed = replace(state, active=torch.zeros_like(state.active))
        if self.sweeps == 1:
            return closed
        return closed.where(over, self.next_sweep(state, kept))

    def next_sweep(self, state: State, kept: Tensor) -> State:
        """All slots from the start with the keys of the next sweep, slot 0 pinned to the reference."""
        sweep = (state["sweep"] + 1).clamp(max=self.sweeps - 1)
        rows = torch.arange(len(sweep), device=sweep.device)
        keys = state["sweep_keys"][rows, sweep]
        fresh = self.base.begin(state["canvas"], state.fixed, state.ids, keys)
        nothing = torch.zeros_like(state["estimate"])
        reference = {f"reference.{name}": state[f"trail.{name}"][kept] for name in state.recorded()}
        return state.having(
            {
                **fresh.tensors(),
                **reference,
                "active": torch.ones_like(fresh.active),
                "alive": fresh.active,
                "pinned": rows % self.width == 0,
                "log_weight": nothing,
                "estimate": nothing,
                "barrier": torch.full_like(sweep, self.every),
                "point": torch.zeros_like(sweep),
                "sweep": sweep,
            }
        )

    def finish(self, state: State) -> Samples:
        if self.search.pick == "first":
            return super().finish(state)
        chosen = "best" if self.search.pick == "best" else "kept"
        tokens, edits = state[f"{chosen}_tokens"], state[f"{chosen}_edits"]
        return Samples(state.ids[:: self.width], tokens[:: self.width], edits[:: self.width])

    def pick(self, state: State) -> Tensor:
        return torch.zeros(len(state.ids) // self.width, dtype=torch.int64, device=state.ids.device)
