"""Sessions: rows that share the forwards of one network, and come and go while it runs.

A session has a fixed number of lanes and one sampler. Rows in different phases share a forward; a finished row leaves
and a waiting one takes its lane, so nobody waits for the slowest. A search has a group of chains for every row: its
lanes are contiguous and admitted together, and its cost is that of all its chains. Cost is counted here and nowhere
else.

Where the host waits for the device, in a step: once to learn how much the query asks about (``forward.measure``) and
once to learn which rows have ended and what they cost. Besides, where a row ends, for its tokens; where a row keeps a
trace, twice for its edits; and where chains are steered, for the rewards, which are worked out on the host.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from components.errors import SamplingError
from components.models.denoiser import Denoiser
from components.samplers.config import SamplerConfig
from components.samplers.contract import Query, Reward, Row, Sample, Sampler
from components.samplers.forward import Batching, answer, measure
from components.samplers.state import State
from components.samplers.trace import Trace, read_edits


@dataclass
class Held:
    """A row in its lanes, under the number by which its owner knows it."""

    ticket: int
    row: Row
    trace: Trace = field(default_factory=list)


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
    ):
        """``num_lanes`` are rows of one forward. A search fits as many groups of chains into them as it can, at least
        one."""
        self.denoiser, self.sampler, self.length, self.reward = denoiser, sampler, length, reward
        self.width = sampler.width
        self.groups: list[Held | None] = [None] * max(1, num_lanes // self.width)
        self.fresh: list[int] = []
        """Groups whose rows are not in the state yet."""
        self.device = torch.device(device)
        self.batching = Batching(len(self.groups) * self.width, deterministic)
        self.num_classes = 0
        self.bound = sampler.max_calls(length)
        self.idle_state = self._idle_lanes(1)
        self.state = self._idle_lanes(len(self.groups))
        self.calls, self.reward_calls = torch.zeros(2, len(self.groups), dtype=torch.int64, device=self.device)
        self.labels = torch.full((self.batching.num_lanes,), -1, device=self.device)

    @property
    def num_free(self) -> int:
        """Rows that can be admitted now."""
        return sum(held is None for held in self.groups)

    @property
    def idle(self) -> bool:
        """There is no row to run."""
        return self.num_free == len(self.groups)

    def admit(self, ticket: int, row: Row) -> bool:
        """Give lanes to a row, known by ``ticket`` from now on. False where none are free.

        Raises:
            SamplingError: the row has another length, or the ticket is taken.
        """
        if len(row.canvas) != self.length:
            raise SamplingError(f"A row of {len(row.canvas)} positions cannot join a session of {self.length}.")
        if any(held is not None and held.ticket == ticket for held in self.groups):
            raise SamplingError(f"The ticket {ticket} belongs to a row that still runs. Give every row its own.")
        if not self.num_free:
            return False
        group = self.groups.index(None)
        self.groups[group] = Held(ticket, row)
        self.fresh.append(group)
        return True

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
        of a row that needed more calls than its sampler promised.

        Raises:
            SamplingError: the sampler is steered by a reward, and the session has none.
        """
        if self.idle:
            return {}
        self._load()
        query = self.sampler.query(self.state)
        labels = self.labels if any(h is not None and h.row.label is not None for h in self.groups) else None
        said = answer(self.denoiser, query, measure(query), self.batching, labels, self.num_classes)
        self.num_classes = said.logits.shape[-1]
        self.calls = self.calls.index_add(0, query.row // self.width, query.active.long())
        if query.rewarded is not None:
            self.reward_calls = self.reward_calls + query.rewarded.view(len(self.groups), -1).sum(-1)
            said = replace(said, rewards=self._rewards(query))
        self.state, record = self.sampler.advance(self.state, said)
        if self.width == 1:  # chains of a search die and split, so a group has no trace
            read_edits(record, self.calls, [h.trace if h is not None and h.row.trace else None for h in self.groups])
        return self._unload()

    def _lanes_of(self, groups: list[int]) -> Int[Tensor, "N"]:
        """Lanes of groups, in order."""
        first = torch.tensor(groups, device=self.device) * self.width
        return (first[:, None] + torch.arange(self.width, device=self.device)).flatten()

    def _idle_lanes(self, num_groups: int) -> State:
        """Lanes without a row: there is nothing to write, and they are never active."""
        zeros = torch.zeros(num_groups, dtype=torch.int64, device=self.device)
        canvas = zeros[:, None].expand(-1, self.length).contiguous()
        state = self.sampler.start(canvas, torch.ones_like(canvas, dtype=torch.bool), zeros, zeros)
        return replace(state, active=torch.zeros_like(state.active))

    def _load(self) -> None:
        """Put the rows that were admitted since the last step into the state."""
        groups, self.fresh = self.fresh, []
        rows = [held.row for held in (self.groups[g] for g in groups) if held is not None]
        if not rows:
            return
        canvas = torch.tensor([row.canvas for row in rows], device=self.device)
        fixed = torch.tensor([row.fixed for row in rows], device=self.device)
        ids, seeds = (torch.tensor(x, device=self.device) for x in ([r.id for r in rows], [r.seed for r in rows]))
        self.state = self.state.loaded(self._lanes_of(groups), self.sampler.start(canvas, fixed, ids, seeds))
        labels = torch.tensor([-1 if row.label is None else row.label for row in rows], device=self.device)
        self.labels[self._lanes_of(groups)] = labels.repeat_interleave(self.width)
        self.calls[groups], self.reward_calls[groups] = 0, 0

    def _unload(self) -> dict[int, Sample | SamplingError]:
        """The rows that have ended, or should have, taken out of their lanes."""
        active = self.state.active.view(-1, self.width).any(-1)
        # Here the host waits for the device to finish the step.
        actives, calls, reward_calls = torch.stack([active.long(), self.calls, self.reward_calls]).tolist()
        left: dict[int, Sample | SamplingError] = {}
        for group, held in enumerate(self.groups):
            if held is not None and actives[group] and calls[group] > self.bound:
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
        words = torch.cat([ended.tokens, ended.edits[:, None]], dim=-1).tolist()
        for (group, held), (*tokens, edits) in zip(done.items(), words, strict=True):
            self.groups[group] = None
            left[held.ticket] = Sample(
                id=held.row.id,
                tokens=tuple(tokens),
                calls=calls[group],
                call_positions=float(calls[group]),
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


class Engine:
    """Sessions by sampler and length, and the rows that wait for lanes in them. Not for several threads at once.

    Batch jobs hand their rows to ``run``. A service submits rows as they come, and steps as long as it is not idle.
    """

    def __init__(self, open_session: Callable[[SamplerConfig, int], Session]):
        """``open_session`` makes a session for a sampler and a length; it is closed when it has no more rows."""
        self.open_session = open_session
        self.sessions: dict[tuple[SamplerConfig, int], Session] = {}
        self.waiting: dict[tuple[SamplerConfig, int], deque[tuple[int, Row]]] = {}
        self.tickets = itertools.count()

    @property
    def idle(self) -> bool:
        """No row runs or waits."""
        return not self.waiting

    def submit(self, sampler: SamplerConfig, row: Row) -> int:
        """Have a row sampled as soon as there are lanes for it. Returns its ticket.

        Raises:
            SamplingError: the network lacks what the sampler needs.
        """
        key = sampler, len(row.canvas)
        if key not in self.sessions:
            self.sessions[key], self.waiting[key] = self.open_session(*key), deque()
        ticket = next(self.tickets)
        self.waiting[key].append((ticket, row))
        return ticket

    def cancel(self, ticket: int) -> None:
        """Stop a row, running or waiting. Nothing more is heard of it."""
        for key, session in list(self.sessions.items()):
            session.cancel(ticket)
            self.waiting[key] = deque(pair for pair in self.waiting[key] if pair[0] != ticket)
            self._close(key)

    def step(self) -> dict[int, Sample | SamplingError]:
        """One step of every session, waiting rows first admitted where lanes are free. Returns what rows ended with,
        by ticket; see ``Session.step``."""
        ended: dict[int, Sample | SamplingError] = {}
        for key, session in list(self.sessions.items()):
            waiting = self.waiting[key]
            while waiting and session.admit(*waiting[0]):
                waiting.popleft()
            ended |= session.step()
            self._close(key)
        return ended

    def _close(self, key: tuple[SamplerConfig, int]) -> None:
        """Let go of a session that has no more rows."""
        if self.sessions[key].idle and not self.waiting[key]:
            del self.sessions[key], self.waiting[key]

    def run(self, sampler: SamplerConfig, rows: Iterable[Row]) -> Iterator[Sample]:
        """Samples of rows of any lengths, in the order in which they finish. The engine must be idle.

        Raises:
            SamplingError: a row needed more calls than its sampler promised, or others are at work here.
        """
        if not self.idle:
            raise SamplingError("This engine has other rows, whose samples would be lost. Use submit and step.")
        for row in rows:
            self.submit(sampler, row)
        while not self.idle:
            for sample in self.step().values():
                if isinstance(sample, SamplingError):
                    raise sample
                yield sample
