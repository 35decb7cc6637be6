"""The engine: holds the network and the lanes, runs what samplers ask for, and counts the cost.

A fixed number of lanes is filled with rows. Rows in different phases share one forward; a finished
row leaves and a waiting one takes its lane, so nobody waits for the slowest. Cost is counted here
and nowhere else: ``calls`` are forwards of that row, ``call_positions`` the positions computed / L.

``deterministic`` computes the head at every position of every lane, so that the shape of each matrix
product is the same in every step: the last bits of a row's logits then do not depend on its company.
Without it only live lanes and wanted positions are computed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

import torch
from torch import Tensor

from components.errors import SamplingError
from components.models.denoiser import Denoiser
from components.samplers.contract import Answer, Query, Sampler
from components.samplers.state import Record, State


@dataclass(frozen=True)
class Row:
    """A canvas to fill."""

    id: int
    canvas: tuple[int, ...]
    """Token ids; the mask where something is to be written."""
    fixed: tuple[bool, ...]
    label: int | None = None
    trace: bool = False


@dataclass(frozen=True)
class Edit:
    """One written token, for the viewer."""

    call: int
    tick: int
    position: int
    old: int
    new: int
    confidence: float
    reason: str


@dataclass(frozen=True)
class Sample:
    """A finished row with its cost."""

    id: int
    tokens: tuple[int, ...]
    calls: int
    call_positions: float
    reward_calls: int
    edits: int
    trace: tuple[Edit, ...] = ()


@dataclass
class Lanes:
    """Host-side bookkeeping of the lanes."""

    row: list[Row | None]
    trace: list[list[Edit]] = field(default_factory=list)


class Engine:
    """Runs one sampler over any number of rows of one length."""

    def __init__(
        self,
        denoiser: Denoiser,
        sampler: Sampler,
        num_lanes: int = 64,
        seed: int = 0,
        deterministic: bool = True,
        device: str = "cpu",
    ):
        self.denoiser = denoiser
        self.sampler = sampler
        self.num_lanes = num_lanes
        self.seed = seed
        self.deterministic = deterministic
        self.device = torch.device(device)

    @torch.inference_mode()
    def run(self, rows: Iterable[Row]) -> Iterator[Sample]:
        """Samples in the order in which they finish.

        Raises:
            SamplingError: a row has another length than the first, or needed more calls than its
                sampler promised.
        """
        waiting = iter(rows)
        first = list(islice(waiting, self.num_lanes))
        if not first:
            return
        length = len(first[0].canvas)
        bound = self.sampler.max_calls(length)
        lanes = Lanes([None] * self.num_lanes, [[] for _ in range(self.num_lanes)])
        state = self._load(self._padding(length), lanes, list(range(len(first))), first, length)
        calls = torch.zeros(self.num_lanes, dtype=torch.int64, device=self.device)
        while True:
            # The one place where the host waits for the device.
            active, counted = state.active.tolist(), calls.tolist()
            done = [i for i, row in enumerate(lanes.row) if row is not None and not active[i]]
            if done:
                yield from self._unload(state, lanes, done, counted)
                calls[done] = 0
                fresh = list(islice(waiting, len(done)))
                if fresh:
                    state = self._load(state, lanes, done[: len(fresh)], fresh, length)
                    continue
            if not any(row is not None for row in lanes.row):
                return
            if max(counted) > bound:
                raise SamplingError(f"a row used more than the {bound} calls its sampler promised at most")
            query = self.sampler.query(state)
            calls = calls.index_add(0, query.row, query.active.long())
            state, record = self.sampler.advance(state, self._forward(query, lanes))
            if any(row is not None and row.trace for row in lanes.row):
                self._trace(record, lanes, calls.tolist())

    def _forward(self, query: Query, lanes: Lanes) -> Answer:
        length = query.tokens.shape[1]
        select = query.wanted.flatten().nonzero()[:, 0]
        draw = query.drawn.flatten()[select].nonzero()[:, 0]
        label = self._labels(lanes, query)
        if self.deterministic:
            prediction = self.denoiser(query.tokens, label=label, time=query.time)
            logits = prediction.logits.flatten(0, 1).index_select(0, select)
        else:
            live = query.active.nonzero()[:, 0]
            place = torch.zeros_like(query.row).index_copy(0, live, torch.arange(len(live), device=live.device))
            prediction = self.denoiser(
                query.tokens[live],
                select=place[select // length] * length + select % length,
                label=None if label is None else label[live],
                time=query.time[live],
            )
            logits = prediction.logits
        return Answer(select, logits.float(), draw)

    def _labels(self, lanes: Lanes, query: Query) -> Tensor | None:
        labels = [None if row is None else row.label for row in lanes.row]
        if all(label is None for label in labels):
            return None
        return torch.tensor([label or 0 for label in labels], device=self.device)[query.row]

    def _padding(self, length: int) -> State:
        """Idle lanes: nothing to write, so never active."""
        ids = torch.zeros(self.num_lanes, dtype=torch.int64, device=self.device)
        canvas = torch.zeros(self.num_lanes, length, dtype=torch.int64, device=self.device)
        state = self.sampler.start(canvas, torch.ones_like(canvas, dtype=torch.bool), ids, self.seed)
        state.active.fill_(False)
        return state

    def _load(self, state: State, lanes: Lanes, free: list[int], rows: list[Row], length: int) -> State:
        for row in rows:
            if len(row.canvas) != length:
                raise SamplingError(
                    f"row {row.id} has {len(row.canvas)} positions and the first row {length}; "
                    f"give rows of one length to one engine, padded by the canvas builder"
                )
        canvas = torch.tensor([row.canvas for row in rows], device=self.device)
        fixed = torch.tensor([row.fixed for row in rows], device=self.device)
        ids = torch.tensor([row.id for row in rows], device=self.device)
        for lane, row in zip(free, rows, strict=True):
            lanes.row[lane], lanes.trace[lane] = row, []
        return state.place(torch.tensor(free, device=self.device), self.sampler.start(canvas, fixed, ids, self.seed))

    def _unload(self, state: State, lanes: Lanes, done: list[int], calls: list[int]) -> Iterator[Sample]:
        index = torch.tensor(done, device=self.device)
        samples = self.sampler.finish(state.map(lambda x: x.index_select(0, index)))
        tokens, edits = samples.tokens.tolist(), samples.edits.tolist()
        for place, lane in enumerate(done):
            row = lanes.row[lane]
            assert row is not None
            lanes.row[lane] = None
            yield Sample(
                id=row.id,
                tokens=tuple(tokens[place]),
                calls=calls[lane],
                call_positions=float(calls[lane]),
                reward_calls=0,
                edits=edits[place],
                trace=tuple(lanes.trace[lane]),
            )

    def _trace(self, record: Record, lanes: Lanes, calls: list[int]) -> None:
        for lane, row in enumerate(lanes.row):
            if row is None or not row.trace:
                continue
            changed = (record.revealed[lane] | record.replaced[lane]).nonzero()[:, 0].tolist()
            for position in changed:
                lanes.trace[lane].append(
                    Edit(
                        call=calls[lane],
                        tick=int(record.tick[lane]),
                        position=position,
                        old=int(record.before[lane, position]),
                        new=int(record.after[lane, position]),
                        confidence=float(record.confidence[lane, position]),
                        reason="reveal" if record.revealed[lane, position] else "replace",
                    )
                )
