"""Sessions: rows that share the forwards of one network, and come and go while it runs.

A session has a fixed number of lanes and one sampler. Rows in different phases share a forward; a finished row leaves
and a waiting one takes its lane, so nobody waits for the slowest. A search has a group of chains for every row: its
lanes are contiguous and admitted together, and its cost is that of all its chains. Cost is counted here and nowhere
else.

Where the host waits for the device, in a step: once to learn how much the query asks about (``forward.measure``) and
once to learn which rows have ended and what they cost. Besides, where a row ends, for its tokens; where a row is
watched or keeps a trace, twice for its edits; and where chains are steered, for the rewards, which are worked out on
the host.

A row's edits, replayed on its canvas, give its tokens, whatever sampler made it: they are read off as the difference
between the canvas that was last told and the one that is there now, and again when the row ends.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from components.errors import SamplingError
from components.models.denoiser import Denoiser
from components.samplers.contract import Answer, Query, Reward, Row, Sample, Sampler
from components.samplers.forward import Batching, Cache, answer, measure
from components.samplers.sizes import Sizes
from components.samplers.state import State
from components.samplers.trace import Held, Watch, last_edits, read_edits
from components.samplers.unusable import Unusable, find_unusable

START = 4
"""Rows that a session has lanes for when it is opened; their number doubles when more come."""


class Session:
    """Runs one sampler over rows of one length. Not for several threads at once.

    A row's sample depends on the row alone: not on when it was admitted, nor on what else runs or is cancelled.
    """

    @torch.inference_mode()
    def __init__(
        self,
        denoiser: Denoiser,
        sampler: Sampler,
        length: int,
        num_lanes: int = 64,
        deterministic: bool = True,
        device: str = "cpu",
        reward: Reward | None = None,
        forward_lanes: int = 0,
        max_bytes: int = 0,
        row_bytes: int = 0,
    ):
        """
        Args:
            num_lanes: rows at a time. A search fits as many groups of chains into them as it can, at least one.
            forward_lanes: inputs of a full forward; 0 is as many as there are lanes. Fewer leave less idle on a GPU
                where rows are few. The last bits of a row depend on this number, and on nothing else of its company.
            max_bytes: memory that the state of all lanes may take; 0 is any. Lanes are left out until it does, but
                for those of one row. ``row_bytes`` of each are a cache's.
        """
        self.denoiser, self.sampler, self.length, self.reward = denoiser, sampler, length, reward
        self.width = sampler.width
        self.device = torch.device(device)
        self.bound = sampler.max_calls(length)
        self.idle_state = self._idle_lanes(1)
        self.max_groups = max(1, num_lanes // self.width)
        if max_bytes:
            self.max_groups = max(1, min(self.max_groups, max_bytes // (self.idle_state.num_bytes() + row_bytes)))
        self.groups: list[Held | None] = []
        """As many as were needed at once so far: what a step costs besides its forwards grows with them."""
        self.fresh: list[int] = []
        """Groups whose rows are not in the state yet."""
        self.batching = Batching(forward_lanes or self.max_groups * self.width, deterministic)
        self.cache = Cache()
        self.sizes: Sizes | None = Sizes()
        self.num_classes = 0
        self.state = self._idle_lanes(0)
        self.calls, self.reward_calls = torch.zeros(2, 0, dtype=torch.int64, device=self.device)
        self.positions = torch.zeros(0, dtype=torch.int64, device=self.device)
        """Computed for each group."""
        self.labels = torch.full((0,), torch.nan, device=self.device)
        self.shown = torch.zeros(0, length, dtype=torch.int64, device=self.device)
        """What whoever follows the edits of a row has before them."""
        self.observed, self.corrected = torch.zeros(2, 0, dtype=torch.bool, device=self.device)
        self._grow(min(START, self.max_groups))

    @property
    def num_free(self) -> int:
        """Rows that can be admitted now."""
        return self.max_groups - self.num_rows

    @property
    def num_rows(self) -> int:
        """Rows that have lanes."""
        return len(self.groups) - self.groups.count(None)

    @property
    def labelled(self) -> bool:
        """A row has a class or a value."""
        return any(held is not None and held.row.label is not None for held in self.groups)

    @property
    def idle(self) -> bool:
        """There is no row to run."""
        return not self.num_rows

    def admit(self, ticket: int, row: Row, watch: Watch | None = None) -> bool:
        """Give lanes to a row, known by ``ticket`` from now on; ``watch`` is told of its edits. False where none are
        free.

        Raises:
            SamplingError: the row has another length, or the ticket is taken.
        """
        return self.take(Held(ticket, row, watch))

    def take(self, new: Held) -> bool:
        """See ``admit``."""
        if len(new.row.canvas) != self.length:
            raise SamplingError(f"A row of {len(new.row.canvas)} positions cannot join a session of {self.length}.")
        if any(held is not None and held.ticket == new.ticket for held in self.groups):
            raise SamplingError(f"The ticket {new.ticket} belongs to a row that still runs. Give every row its own.")
        if not self.num_free:
            return False
        if None not in self.groups:
            self._grow(min(len(self.groups), self.max_groups - len(self.groups)))
        group = self.groups.index(None)
        self.groups[group] = new
        self.fresh.append(group)
        return True

    def seen_by(self, held: Held) -> tuple[int, ...]:
        """What whoever follows the edits of a row has before them."""
        group = self.groups.index(held)
        return held.seen if group in self.fresh else tuple(self.shown[group].tolist())

    @torch.inference_mode()
    def cancel(self, ticket: int) -> bool:
        """Stop a row. Its lanes are free at once, and nothing more is heard of it. False where there is no such row."""
        for group, held in enumerate(self.groups):
            if held is not None and held.ticket == ticket:
                self.groups[group] = None
                self.fresh = [other for other in self.fresh if other != group]
                self.state = self.state.loaded(self._lanes_of([group]), self.idle_state)
                return True
        return False

    @torch.inference_mode()
    def step(self) -> dict[int, Sample | SamplingError]:
        """One call of every row that needs one, in one forward (more where guidance or leave-one-out ask for further
        inputs). Returns the rows that left their lanes, by ticket: their samples, or an error in place of the sample
        of a row that needed more calls than its sampler promised, or of which the network said what is no number.

        Raises:
            SamplingError: the sampler is steered by a reward, and the session has none.
        """
        if self.idle:
            return {}
        query = self.ask()
        extent = measure(query)
        labels = self.labels if self.labelled else None
        return self.tell(query, answer(self.denoiser, query, extent, self.batching, labels, self.num_classes, self.cache, self.sizes))

    @torch.inference_mode()
    def ask(self) -> Query:
        """What the rows want to know next, those that were admitted meanwhile among them."""
        self._load()
        return self.sampler.query(self.state)

    @torch.inference_mode()
    def tell(self, query: Query, said: Answer) -> dict[int, Sample | SamplingError]:
        """Move the rows by the answer to ``ask``. Returns what ``step`` does."""
        self.num_classes = said.logits.shape[-1]
        lane, called = query.row // self.width, query.active.long()
        self.calls = self.calls.index_add(0, lane, called)
        computed = called * self.length if query.window is None else called * query.window.computed(self.length)
        self.positions = self.positions.index_add(0, lane, computed)
        if query.rewarded is not None:
            self.reward_calls = self.reward_calls + query.rewarded.view(len(self.groups), -1).sum(-1)
            said = replace(said, rewards=self._rewards(query))
        followed = any(held is not None and held.followed for held in self.groups)
        self.state, record = self.sampler.advance(self.state, replace(said, followed=followed))
        unusable = find_unusable(query, said, record, self.width, len(self.groups))
        if self.width == 1 and followed:  # chains of a search die and split
            well = unusable.well  # nobody is told what was decided by what is no number
            edits_of = read_edits(self.shown, record, self.calls, self.observed & well, self.corrected & well)
            for group, edits in edits_of.items():
                held = self.groups[group]
                if held is not None:
                    held.tell(edits)
            self.shown = torch.where((self.observed | self.corrected)[:, None], record.after, self.shown)
        return self._unload(unusable)

    def _lanes_of(self, groups: list[int]) -> Int[Tensor, "N"]:
        """Lanes of groups, in order."""
        first = torch.tensor(groups, device=self.device) * self.width
        return (first[:, None] + torch.arange(self.width, device=self.device)).flatten()

    @torch.inference_mode()
    def _grow(self, more: int) -> None:
        """Have lanes for so many more rows."""
        self.groups += [None] * more
        self.state = self.state.followed_by(self._idle_lanes(more))
        self.calls, self.reward_calls, self.positions, self.shown, self.observed, self.corrected = (
            torch.cat([x, x.new_zeros(more, *x.shape[1:])])
            for x in (self.calls, self.reward_calls, self.positions, self.shown, self.observed, self.corrected)
        )
        self.labels = torch.cat([self.labels, self.labels.new_full((more * self.width,), torch.nan)])

    def _idle_lanes(self, num_groups: int) -> State:
        """Lanes without a row: there is nothing to write, and they are never active."""
        zeros = torch.zeros(num_groups, dtype=torch.int64, device=self.device)
        canvas = zeros[:, None].expand(-1, self.length).contiguous()
        state = self.sampler.start(canvas, torch.ones_like(canvas, dtype=torch.bool), zeros, zeros)
        return replace(state, active=torch.zeros_like(state.active))

    def _load(self) -> None:
        """Put the rows that were admitted since the last step into the state."""
        groups, self.fresh = self.fresh, []
        new = [held for held in (self.groups[g] for g in groups) if held is not None]
        if not new:
            return
        lanes, rows = self._lanes_of(groups), [held.row for held in new]
        canvas, fixed, ids, seeds, labels, seen, observed, corrected = (
            torch.tensor(x, device=self.device)
            for x in (
                [row.canvas for row in rows],
                [row.fixed for row in rows],
                [row.id for row in rows],
                [row.seed for row in rows],
                [torch.nan if row.label is None else float(row.label) for row in rows],
                [held.seen or held.row.canvas for held in new],
                [held.observed for held in new],
                [row.corrections for row in rows],
            )
        )
        self.state = self.state.loaded(lanes, self.sampler.start(canvas, fixed, ids, seeds))
        self.labels[lanes] = labels.repeat_interleave(self.width)
        self.calls[groups], self.reward_calls[groups], self.positions[groups] = 0, 0, 0
        self.shown[groups], self.observed[groups], self.corrected[groups] = seen, observed, corrected

    def _unload(self, unusable: Unusable) -> dict[int, Sample | SamplingError]:
        """The rows that have ended, or should have, or can not go on (see ``find_unusable``), taken out of their lanes."""
        active = self.state.active.view(-1, self.width).any(-1)
        # Here the host waits for the device to finish the step.
        numbers = (active.long(), self.calls, self.reward_calls, unusable.code)
        actives, calls, reward_calls, codes = torch.stack(numbers).tolist()
        left: dict[int, Sample | SamplingError] = {}
        for group, held in enumerate(self.groups):
            if held is not None and (why := unusable.sentence(codes[group], held.row.id, calls[group])):
                self.cancel(held.ticket)
                left[held.ticket] = SamplingError(why)
            elif held is not None and actives[group] and calls[group] > self.bound:
                self.cancel(held.ticket)
                left[held.ticket] = SamplingError(
                    f"The row {held.row.id} used {calls[group]} calls, and its sampler promised at most {self.bound}: "
                    f"max_calls of {type(self.sampler).__name__} is wrong, or the sampler never ends."
                )
        done = {group: held for group, held in enumerate(self.groups) if held is not None and not actives[group]}
        if not done:
            return left
        lanes = self._lanes_of(list(done))
        ended = self.sampler.finish(self.state.map(lambda x: x.index_select(0, lanes)))
        ticks = self.state.tick.view(-1, self.width).amax(-1)[list(done)]
        columns = [ended.tokens, self.shown[list(done)], ended.edits[:, None], ticks[:, None], self.positions[list(done), None]]
        words = torch.cat(columns, dim=-1).tolist()
        for (group, held), (*both, edits, tick, positions) in zip(done.items(), words, strict=True):
            self.groups[group] = None
            tokens, shown = both[: self.length], both[self.length :]
            if held.observed:
                held.tell(last_edits(shown, tokens, calls[group], tick, "fill" if self.width == 1 else "choose"))
            left[held.ticket] = Sample(
                id=held.row.id,
                tokens=tuple(tokens),
                calls=calls[group],
                call_positions=positions / self.length,
                reward_calls=reward_calls[group],
                edits=edits,
                trace=tuple(held.trace),
            )
        return left

    def _rewards(self, query: Query) -> Float[Tensor, "R P"]:
        """Rewards of the candidates that want one, 0 elsewhere."""
        assert query.rewarded is not None
        assert query.candidates is not None
        rewards = torch.zeros(query.rewarded.shape, dtype=torch.float64, device=self.device)
        lane, number = query.rewarded.nonzero().unbind(-1)
        if not len(lane):
            return rewards
        if self.reward is None:
            raise SamplingError("This sampler is steered by a reward, and its session was given none.")
        groups = [self.groups[n // self.width] for n in lane.tolist()]
        values = self.reward(query.candidates[lane, number], [held.row for held in groups if held is not None])
        rewards[lane, number] = values.to(rewards)
        return rewards
