"""Edits of rows, for the viewer of trajectories."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from components.samplers.contract import Edit
from components.samplers.state import Record

Trace = list[Edit]


def read_edits(record: Record, calls: Int[Tensor, "R"], traces: list[Trace | None]) -> None:
    """Add the edits of a step to the traces of the rows that have one. The host waits for the device, twice."""
    rows = [row for row, trace in enumerate(traces) if trace is not None]
    if not rows:
        return
    kept = torch.tensor(rows, device=calls.device)
    sets = {"reveal": record.revealed, "replace": record.replaced, "remask": record.remasked}
    canvases = torch.stack([record.before, record.after, *(where.long() for where in sets.values())], 1)[kept].tolist()
    counters = torch.stack([calls.double(), record.tick.double()], 1)
    numbers = torch.cat([counters, record.confidence.double()], 1)[kept].tolist()
    for row, (before, after, *places), (call, tick, *confidence) in zip(rows, canvases, numbers, strict=True):
        trace = traces[row]
        assert trace is not None
        for reason, where in zip(sets, places, strict=True):
            trace += [
                Edit(int(call), int(tick), i, before[i], after[i], confidence[i], reason)
                for i, written in enumerate(where)
                if written
            ]
