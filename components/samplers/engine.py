"""The engine: holds the network and the lanes, runs what samplers ask for, and counts the cost.

A fixed number of lanes is filled with rows. Rows in different phases share one forward; a finished
row leaves and a waiting one takes its lane, so nobody waits for the slowest. Cost is counted here
and nowhere else: ``calls`` are forwards of that row, ``call_positions`` the positions computed / L.

Searches make a group of chains of every row: its lanes are contiguous and admitted together, and its
cost is that of all its chains. Inputs beyond one a lane (guidance, leave-one-out) are split over
several forwards, and a row's answers are told together.

``deterministic`` computes the head at every position of every lane, and always as many inputs as there
are lanes, so that the shape of each matrix product is the same in every step: the last bits of a row's
logits then do not depend on its company. Without it only live inputs and wanted positions are computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import groupby, islice

import torch
from torch import Tensor

from components.errors import SamplingError
from components.models.denoiser import Denoiser, Prediction
from components.samplers.contract import Answer, Edit, Query, Reward, Row, Sample, Sampler
from components.samplers.state import Record, State


@dataclass
class Lanes:
    """Host-side bookkeeping of the groups of lanes."""

    row: list[Row | None]
    trace: list[list[Edit]] = field(default_factory=list)


class Engine:
    """Runs one sampler over any number of rows; rows of one length at a time."""

    def __init__(
        self,
        denoiser: Denoiser,
        sampler: Sampler,
        num_lanes: int = 64,
        seed: int = 0,
        deterministic: bool = True,
        device: str = "cpu",
        reward: Reward | None = None,
    ):
        self.denoiser = denoiser
        self.sampler = sampler
        self.width = sampler.width
        self.num_groups = max(1, num_lanes // self.width)
        self.num_lanes = self.num_groups * self.width
        self.seed = seed
        self.deterministic = deterministic
        self.device = torch.device(device)
        self.reward = reward
        self.always = False
        """Make a forward in every step, wanted or not."""
        self.num_logits = 1
        """Width of the last logits, for steps without a forward."""

    def run(self, rows: Iterable[Row]) -> Iterator[Sample]:
        """Samples in the order in which they finish. Rows of other lengths wait for those before them.

        Raises:
            SamplingError: a row needed more calls than its sampler promised.
        """
        for length, same in groupby(rows, key=lambda row: len(row.canvas)):
            yield from self._run(same, length)

    @torch.inference_mode()
    def _run(self, waiting: Iterator[Row], length: int) -> Iterator[Sample]:
        first = list(islice(waiting, self.num_groups))
        bound = self.sampler.max_calls(length)
        lanes = Lanes([None] * self.num_groups, [[] for _ in range(self.num_groups)])
        state = self._load(self._padding(length), lanes, list(range(len(first))), first)
        calls, rewards = torch.zeros(2, self.num_lanes, dtype=torch.int64, device=self.device)
        while True:
            # The one place where the host waits for the device.
            active = state.active.view(-1, self.width).any(-1).tolist()
            counted = calls.view(-1, self.width).sum(-1).tolist()
            done = [g for g, row in enumerate(lanes.row) if row is not None and not active[g]]
            if done:
                judged = rewards.view(-1, self.width).sum(-1).tolist()
                yield from self._unload(state, lanes, done, counted, judged)
                gone = self._lanes_of(done)
                calls[gone], rewards[gone] = 0, 0
                fresh = list(islice(waiting, len(done)))
                if fresh:
                    state = self._load(state, lanes, done[: len(fresh)], fresh)
                    continue
            if not any(row is not None for row in lanes.row):
                return
            if max(counted) > bound:
                raise SamplingError(f"a row used more than the {bound} calls its sampler promised at most")
            query = self.sampler.query(state)
            calls = calls.index_add(0, query.row, query.active.long())
            if query.rewarded is not None:
                rewards = rewards + query.rewarded.sum(-1)
            state, record = self.sampler.advance(state, self._answer(query, lanes))
            if any(row is not None and row.trace for row in lanes.row):
                self._trace(record, lanes, calls.tolist())

    def _answer(self, query: Query, lanes: Lanes) -> Answer:
        length = query.tokens.shape[1]
        select = query.wanted.flatten().nonzero()[:, 0]
        draw = query.drawn.flatten()[select].nonzero()[:, 0]
        if self.deterministic and len(query.row) == self.num_lanes and (len(select) or self.always):
            live = torch.arange(self.num_lanes, device=self.device)
        else:
            live = query.active.nonzero()[:, 0]
        chunk = self.num_lanes if self.deterministic else max(1, len(live))
        place = torch.zeros_like(query.row).index_copy(0, live, torch.arange(len(live), device=live.device))
        at = place[select // length] * length + select % length
        parts: list[Tensor] = []
        heads: dict[str, list[Tensor]] = {name: [] for name in query.heads}
        for start in range(0, len(live), chunk):
            part = live[start : start + chunk]
            inside = at[(at >= start * length) & (at < (start + len(part)) * length)] - start * length
            padded = torch.cat([part, part[-1:].expand(chunk - len(part))])
            prediction = self._forward(query, padded, lanes, None if self.deterministic else inside)
            logits = prediction.logits
            parts.append(logits.flatten(0, 1).index_select(0, inside) if self.deterministic else logits)
            for name in heads:
                heads[name].append(prediction.heads[name][: len(part)])
        logits = torch.cat(parts) if parts else torch.zeros(0, self.num_logits, device=self.device)
        self.num_logits = logits.shape[-1]
        spread = {name: torch.zeros(query.tokens.shape, device=self.device) for name in heads}
        spread |= {n: spread[n].index_copy(0, live, torch.cat(found).float()) for n, found in heads.items() if found}
        logits = logits if logits.dtype == torch.float64 else logits.float()
        return Answer(select, logits, draw, spread, self._rewards(query, lanes))

    def _forward(self, query: Query, inputs: Tensor, lanes: Lanes, select: Tensor | None) -> Prediction:
        """One forward of the given inputs."""
        given: dict[str, object] = {}
        if query.soft is not None:
            given["soft"] = (query.soft[0][inputs], query.soft[1][inputs])
        if query.dense is not None:
            given["dense"] = query.dense[inputs]
        if query.heads:
            given["heads"] = query.heads
        label = self._labels(lanes, query)
        return self.denoiser(
            query.tokens[inputs],
            select=select,
            label=None if label is None else label[inputs],
            time=query.time[inputs],
            **given,  # type: ignore[arg-type]
        )

    def _labels(self, lanes: Lanes, query: Query) -> Tensor | None:
        """[Q]: class labels, -1 for none."""
        labels = [-1 if row is None or row.label is None else row.label for row in lanes.row]
        if all(label < 0 for label in labels):
            return None
        label = torch.tensor(labels, device=self.device).repeat_interleave(self.width)[query.row]
        return label if query.unlabelled is None else label.masked_fill(query.unlabelled, -1)

    def _rewards(self, query: Query, lanes: Lanes) -> Tensor | None:
        """[R, P], 0 where none is wanted."""
        if query.rewarded is None or query.candidates is None:
            return None
        rewards = torch.zeros(query.rewarded.shape, dtype=torch.float64, device=self.device)
        chosen = query.rewarded.nonzero()
        if not len(chosen):
            return rewards
        if self.reward is None:
            raise SamplingError("this sampler is steered by a reward, and the engine was given none")
        rows = [lanes.row[lane // self.width] for lane in chosen[:, 0].tolist()]
        values = self.reward(query.candidates[chosen[:, 0], chosen[:, 1]], [row for row in rows if row is not None])
        rewards[chosen[:, 0], chosen[:, 1]] = values.to(rewards)
        return rewards

    def _lanes_of(self, groups: list[int]) -> Tensor:
        """Lanes of groups, in order."""
        first = torch.tensor(groups, device=self.device) * self.width
        return (first[:, None] + torch.arange(self.width, device=self.device)).flatten()

    def _padding(self, length: int) -> State:
        """Idle lanes: nothing to write, so never active."""
        ids = torch.zeros(self.num_groups, dtype=torch.int64, device=self.device)
        canvas = torch.zeros(self.num_groups, length, dtype=torch.int64, device=self.device)
        state = self.sampler.start(canvas, torch.ones_like(canvas, dtype=torch.bool), ids, self.seed)
        return replace(state, active=torch.zeros_like(state.active))

    def _load(self, state: State, lanes: Lanes, free: list[int], rows: list[Row]) -> State:
        canvas = torch.tensor([row.canvas for row in rows], device=self.device)
        fixed = torch.tensor([row.fixed for row in rows], device=self.device)
        ids = torch.tensor([row.id for row in rows], device=self.device)
        for group, row in zip(free, rows, strict=True):
            lanes.row[group], lanes.trace[group] = row, []
        return state.place(self._lanes_of(free), self.sampler.start(canvas, fixed, ids, self.seed))

    def _unload(
        self, state: State, lanes: Lanes, done: list[int], calls: list[int], judged: list[int]
    ) -> Iterator[Sample]:  # fmt: skip
        index = self._lanes_of(done)
        samples = self.sampler.finish(state.map(lambda x: x.index_select(0, index)))
        tokens, edits = samples.tokens.tolist(), samples.edits.tolist()
        for place, group in enumerate(done):
            row = lanes.row[group]
            assert row is not None
            lanes.row[group] = None
            yield Sample(
                id=row.id,
                tokens=tuple(tokens[place]),
                calls=calls[group],
                call_positions=float(calls[group]),
                reward_calls=judged[group],
                edits=edits[place],
                trace=tuple(lanes.trace[group]),
            )

    def _trace(self, record: Record, lanes: Lanes, calls: list[int]) -> None:
        """Edits of rows that want them. Chains of a search die and split, so a group has no trace."""
        if self.width > 1:
            return
        reasons = (("reveal", record.revealed), ("replace", record.replaced), ("remask", record.remasked))
        for lane, row in enumerate(lanes.row):
            if row is None or not row.trace:
                continue
            for reason, where in reasons:
                for position in where[lane].nonzero()[:, 0].tolist():
                    lanes.trace[lane].append(
                        Edit(
                            call=calls[lane],
                            tick=int(record.tick[lane]),
                            position=position,
                            old=int(record.before[lane, position]),
                            new=int(record.after[lane, position]),
                            confidence=float(record.confidence[lane, position]),
                            reason=reason,
                        )
                    )


def play(
    denoiser: Denoiser, sampler: Sampler, state: State, anyone: Callable[[bool], bool] = bool
) -> Iterator[tuple[State, State, Record]]:
    """Every step of all rows at once, until none is active: the state before, the state after, the record.

    For objectives that learn from rollouts; nothing is counted or refilled. Every step is one forward of all
    rows, active or not, and ``anyone`` may ask other processes whether they still have some: a network that is
    sharded over processes must be called equally often by each.
    """
    engine = Engine(denoiser, sampler, len(state.ids), device=str(state.ids.device))
    engine.always = True
    lanes = Lanes([None] * engine.num_groups)
    with torch.no_grad():
        while anyone(bool(state.active.any())):
            before = state
            state, record = sampler.advance(state, engine._answer(sampler.query(state), lanes))
            yield before, state, record
