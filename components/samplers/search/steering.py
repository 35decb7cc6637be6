"""FK steering (arXiv 2501.06848) and particle Gibbs ("Inference-Time Scaling of Diffusion Language Models via
Trajectory Refinement", arXiv 2507.08390): log w grows by (rhat_new - rhat_old) / beta, with rhat(x) =
beta log mean exp(r / beta) over completions of x from the very call that a step is drawn from, so no call is
made for it; the last increment uses the true reward. The differences telescope to r(x_0) / beta, so a biased
rhat leaves the target p exp(r / beta) alone. Chains are weighted after the step that rhat preceded, which is
proper weighting too. In later sweeps of particle Gibbs slot 0 replays the reference from stored states at the
resampling points: it needs no call and is never overwritten. The next reference is drawn by weight; taking
the best instead is an optimiser.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from components.samplers.config import SamplerConfig
from components.samplers.contract import Extras, Samples, Vocabulary
from components.samplers.options.search import SteeringConfig
from components.samplers.sampler import Survey
from components.samplers.search.base import SLOT, Group
from components.samplers.state import State, choose_rows


class Steering(Group):
    """FK steering in one sweep, particle Gibbs in several."""

    rewarded = True

    def __init__(self, config: SamplerConfig, vocabulary: Vocabulary, extras: Extras):
        search = config.search
        assert isinstance(search, SteeringConfig)
        self.num_guesses = search.guesses
        survey = Survey(search.every, search.guesses, search.guess == "sample")
        super().__init__(config, vocabulary, extras, survey)

    def start(self, canvas: Tensor, fixed: Tensor, ids: Tensor, seed: int) -> State:
        state = super().start(canvas, fixed, ids, seed)
        parts = {
            "place": torch.zeros_like(state.ids),
            "best_reward": torch.full_like(state.parts["estimate"], float("-inf")),
            "best_tokens": state.tokens,
            "kept_tokens": state.tokens,
        }
        state = replace(state, parts=state.parts | parts)
        if self.sweeps == 1:
            return state
        places = -(-self.base.ticks(canvas.shape[1]) // self.every) + 1
        trail = {
            f"trail.{name}": state.fields()[name][:, None].expand(-1, places, *[-1] * (state.fields()[name].dim() - 1))
            for name in self.lineage(state)
        }
        trail = {name: value.contiguous() for name, value in trail.items()}
        reference = {name.replace("trail.", "reference."): value.clone() for name, value in trail.items()}
        return replace(state, parts=state.parts | trail | reference)

    def lineage(self, state: State) -> list[str]:
        """Fields of a chain that are kept for the reference."""
        ours = (
            "sweep",
            "canvas",
            "barrier",
            "judging",
            "log_weight",
            "place",
            "best_",
            "kept_",
            "trail.",
            "reference.",
        )
        fields = [n for n in state.fields() if n not in SLOT and n not in ("fixed", "active")]
        return [n for n in fields if not n.removeprefix("parts.").startswith(ours)]

    def weigh(self, state: State, finished: Tensor, rewards: Tensor) -> State:
        beta = self.search.beta
        soft = beta * (torch.logsumexp(rewards.double() / beta, -1) - torch.log(torch.tensor(float(rewards.shape[1]))))
        old = state.parts["estimate"]
        alive = state.parts["alive"]
        value = torch.where(finished, rewards[:, 0].double(), torch.where(alive, soft, old))
        state = replace(state, parts=state.parts | {"estimate": value})
        if self.sweeps > 1:
            state = self.replayed(state, finished)
        gain = (state.parts["estimate"] - old) / beta
        state = replace(state, parts=state.parts | {"log_weight": state.parts["log_weight"] + gain})
        return self.kept(state, finished) if self.sweeps > 1 else state

    def trail_place(self, state: State, finished: Tensor) -> Tensor:
        """[R]: where the state at this point belongs; the last place is the end."""
        last = state.parts["trail.tick"].shape[1] - 1
        return torch.where(finished, last, state.parts["place"].clamp(max=last))

    def replayed(self, state: State, finished: Tensor) -> State:
        """Slot 0 as the reference was at this point."""
        at = self.trail_place(state, finished)
        rows = torch.arange(len(at), device=at.device)
        stored = {n: state.parts[f"reference.{n}"][rows, at] for n in self.lineage(state)}
        return state.rebuild(stored).where(state.parts["pinned"], state)

    def kept(self, state: State, finished: Tensor) -> State:
        """The trail with this point in it, and with the end in all places that were not reached."""
        at = self.trail_place(state, finished)
        fields = state.fields()
        places = torch.arange(state.parts["trail.tick"].shape[1], device=at.device)
        unreached = finished[:, None] & (places >= state.parts["place"][:, None])
        here = (places == at[:, None]) | unreached
        trail = {}
        for name in self.lineage(state):
            old = state.parts[f"trail.{name}"]
            mask = here.view(*here.shape, *[1] * (old.dim() - 2))
            trail[f"trail.{name}"] = torch.where(mask, fields[name][:, None], old)
        return replace(state, parts=state.parts | trail | {"place": state.parts["place"] + 1})

    def ended(self, state: State) -> State:
        """The next reference, and the next sweep where there is one."""
        reward = state.parts["estimate"]
        groups = reward.view(-1, self.width)
        best = groups.argmax(-1)
        offset = torch.arange(0, len(reward), self.width, device=reward.device)
        chosen = best if self.search.reference == "best" else self.by_weight(state, state.parts["log_weight"])
        top, kept = ((offset + x).repeat_interleave(self.width) for x in (best, chosen))
        better = reward[top] > state.parts["best_reward"]
        parts = state.parts | {
            "best_reward": torch.where(better, reward[top], state.parts["best_reward"]),
            "best_tokens": choose_rows(better, state.tokens[top], state.parts["best_tokens"]),
            "kept_tokens": state.tokens[kept],
        }
        state = replace(state, parts=parts)
        over = state.parts["sweep"] + 1 >= self.sweeps
        if self.search.stop_above is not None:
            over = over | (reward[kept] >= self.search.stop_above)
        closed = replace(state, active=torch.zeros_like(state.active))
        if self.sweeps == 1:
            return closed
        return closed.where(over, self.next_sweep(state, kept))

    def next_sweep(self, state: State, kept: Tensor) -> State:
        """All slots from the start with the keys of the next sweep, slot 0 pinned to the reference."""
        sweep = (state.parts["sweep"] + 1).clamp(max=self.sweeps - 1)
        rows = torch.arange(len(sweep), device=sweep.device)
        keys = state.parts["sweep_keys"][rows, sweep]
        fresh = self.base.begin(state.parts["canvas"], state.fixed, state.ids, keys)
        nothing = torch.zeros_like(state.parts["estimate"])
        reference = {f"reference.{n}": state.parts[f"trail.{n}"][kept] for n in self.lineage(state)}
        parts = state.parts | fresh.parts | reference
        parts |= {
            "alive": fresh.active,
            "pinned": rows % self.width == 0,
            "log_weight": nothing,
            "estimate": nothing,
            "barrier": torch.full_like(sweep, self.every),
            "place": torch.zeros_like(sweep),
            "sweep": sweep,
        }
        return replace(fresh, active=torch.ones_like(fresh.active), parts=parts)

    def finish(self, state: State) -> Samples:
        if self.search.pick == "first":
            return super().finish(state)
        kept = state.parts["best_tokens" if self.search.pick == "best" else "kept_tokens"]
        return Samples(state.ids[:: self.width], kept[:: self.width], state.edits[:: self.width])

    def pick(self, state: State) -> Tensor:
        return torch.zeros(len(state.ids) // self.width, dtype=torch.int64, device=state.ids.device)
